"""A plan as one nft transaction: a table of our own for each family, made anew. Pure.

Each chain of an iptables table becomes the chain `TABLE-CHAIN` (`mangle-ISTIO_INBOUND`); a built-in one is hooked in
where the kernel asks that table. An `accept` ends its base chain only, as ACCEPT ends its table only.

The socket match takes a chain between: it means every socket but one that listens on the wildcard address, and nft
has no "but" for an expression that is false for some sockets (`socket wildcard`, for those being opened or closed).
"""

from __future__ import annotations

from mesh_iptables.model import BUILT_IN, Jump, Rule, Socket
from mesh_iptables.plan.own import NFT_TABLE
from mesh_iptables.render.nft_rule import statements
from mesh_iptables.render.restore import FAMILIES, route_commands
from mesh_iptables.ruleset import after
from mesh_iptables.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mesh_iptables.model import Family, Plan, Table
    from mesh_iptables.ruleset import Ruleset

NFT_FAMILY: dict[Family, str] = {"ipv4": "ip", "ipv6": "ip6"}
# The same numbers as <linux/netfilter_ipv4.h> gives the hooks of iptables.
PRIORITIES: dict[Table, int] = {"raw": -300, "mangle": -150, "nat": -100, "filter": 0}
SOURCE_NAT = 100
SOCKET = "socket-"  # the chain `TABLE-socket-CHAIN` jumps to CHAIN with packets that a socket will take
LONGEST_COMMENT = 120


class NftRule(Value):
    """One nft rule, and a few words for a person."""

    text: str
    comment: str = ""


class NftChain(Value):
    """One chain of our table; `base` says where a base chain is hooked in, "" for others."""

    base: str
    rules: tuple[NftRule, ...]


Layout = dict[str, NftChain]


def render(plan: Plan) -> str:
    """Input for one `nft -f -`, whatever our tables held before; policy routing, which nft cannot, as comments."""
    ruleset = after(plan)
    routes = [f"# {' '.join(words)}\n" for route in ruleset.routes for words in route_commands(route)]
    deletes = [delete_text(family) for family in FAMILIES]
    return "".join(["#!/usr/sbin/nft -f\n", *deletes, tables_text(ruleset), *routes])


def tables_text(ruleset: Ruleset) -> str:
    """What defines our tables where there are none."""
    tables = [(family, layout(ruleset, family)) for family in FAMILIES]
    return "".join(_table_text(family, chains) for family, chains in tables if chains)


def delete_text(family: Family) -> str:
    """What removes our table, also where there is none."""
    name = f"table {NFT_FAMILY[family]} {NFT_TABLE}"
    return f"{name}\ndelete {name}\n"


def layout(ruleset: Ruleset, family: Family) -> Layout:
    """The chains of our table, in the order of iptables-save, those for the socket match last."""
    chains: Layout = {}
    sockets: Layout = {}
    for table, found in ruleset.tables(family).items():
        for chain, rules in found.items():
            base = base_text(table, chain) if chain in BUILT_IN else ""
            lines = tuple(line for rule in rules for line in _nft_rules(rule, family, table))
            chains[chain_name(table, chain)] = NftChain(base, lines)
            sockets |= {
                chain_name(table, f"{SOCKET}{rule.target.chain}"): socket_chain(rule.target, table)
                for rule in rules
                if Socket() in rule.matches and isinstance(rule.target, Jump)
            }
    return chains | sockets


def chain_name(table: str, chain: str) -> str:
    """What a chain of an iptables table is called in ours."""
    return f"{table}-{chain}"


def base_text(table: Table, hook: str) -> str:
    """Type, hook and priority of a base chain."""
    kind = "nat" if table == "nat" else "route" if (table, hook) == ("mangle", "OUTPUT") else "filter"
    is_source_nat = table == "nat" and hook in ("INPUT", "POSTROUTING")
    priority = SOURCE_NAT if is_source_nat else PRIORITIES[table]
    return f"type {kind} hook {hook.lower()} priority {priority}; policy accept;"


def socket_chain(target: Jump, table: str) -> NftChain:
    """The chain that goes on to `target` with packets for which the socket match is true."""
    wildcard = NftRule("socket wildcard 1 return", "a listener on the wildcard address does not count")
    found = Rule((Socket(),), target)
    return NftChain("", (wildcard, *_plain_rules(found, "ipv4", table)))


def _nft_rules(rule: Rule, family: Family, table: Table) -> list[NftRule]:
    if Socket() not in rule.matches:
        return _plain_rules(rule, family, table)
    if not isinstance(rule.target, Jump):
        raise ValueError("the socket match is known in front of a jump only")
    others = tuple(match for match in rule.matches if match != Socket())
    return _plain_rules(rule.replace(matches=others, target=Jump(f"{SOCKET}{rule.target.chain}")), family, table)


def _plain_rules(rule: Rule, family: Family, table: str) -> list[NftRule]:
    comment = _comment(rule)
    return [NftRule(text, comment) for text in statements(rule, family, lambda chain: chain_name(table, chain))]


def _comment(rule: Rule) -> str:
    """Why the rule is there and which option made it, in letters that a string of nft can hold."""
    words = f"{rule.why} ({rule.option})" if rule.why and rule.option else rule.why or rule.option
    plain = "".join(letter if " " <= letter <= "~" and letter not in '"\\' else " " for letter in words)
    return plain[:LONGEST_COMMENT]


def _table_text(family: Family, chains: Layout) -> str:
    blocks = [_chain_text(name, chain) for name, chain in chains.items()]
    return f"table {NFT_FAMILY[family]} {NFT_TABLE} {{\n" + "\n".join(blocks) + "}\n"


def _chain_text(name: str, chain: NftChain) -> str:
    lines = [chain.base] if chain.base else []
    lines += [f'{rule.text} comment "{rule.comment}"' if rule.comment else rule.text for rule in chain.rules]
    return f"\tchain {name} {{\n" + "".join(f"\t\t{line}\n" for line in lines) + "\t}\n"
