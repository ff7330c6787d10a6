"""The rules of dialect `istio-1.2x` as istio-iptables hands them to `nft` with --native-nftables, to the letter. Pure.

Three `inet` tables, of which only chains with rules are made. A rule that is the same in both families is written
once; where only one of them has it and it names no address, it holds for both: such is the original.
"""

from __future__ import annotations

from mesh_iptables.model import (
    Address,
    ConnectionMark,
    ConnState,
    Interface,
    Jump,
    Owner,
    PacketMark,
    Ports,
    Protocol,
    Redirect,
    RestoreMark,
    RuleOperation,
    SaveMark,
    SetMark,
    Tproxy,
    Verdict,
    Zone,
)
from mesh_iptables.render.iptables import network_text, range_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh_iptables.model import Match, Plan, PortRange, Rule, Table, Target

TABLES: dict[Table, str] = {"nat": "istio-proxy-nat", "mangle": "istio-proxy-mangle", "raw": "istio-proxy-raw"}
# The chains of each table in the order in which they are made; what follows the name hooks in a base chain.
CHAINS: dict[Table, dict[str, str]] = {
    "nat": {
        "prerouting": " { type nat hook prerouting priority -100 ; }",
        "output": " { type nat hook output priority -100 ; }",
        "istio-inbound": "",
        "istio-redirect": "",
        "istio-in-redirect": "",
        "istio-output": "",
        "istio-output-dns": "",
    },
    "mangle": {
        "prerouting": " { type filter hook prerouting priority -150 ; }",
        "output": " { type route hook output priority -150 ; }",
        "istio-divert": "",
        "istio-tproxy": "",
        "istio-inbound": "",
        "istio-drop": "",
    },
    "raw": {
        "prerouting": " { type filter hook prerouting priority -300 ; }",
        "output": " { type filter hook output priority -300 ; }",
        "istio-inbound": "",
        "istio-output-dns": "",
    },
}
INVALID = (ConnState(("INVALID",)),)
IP = {4: "ip", 6: "ip6"}
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def render(plan: Plan) -> str:
    """One transaction for `nft -f -` that makes our tables what they are to be, whatever they held."""
    return "".join(table_text(plan, table) for table in TABLES)


def table_text(plan: Plan, table: Table) -> str:
    """The part of one table; "" where the plan has no rule for it."""
    steps = list(_steps(plan, table))
    if not steps:
        return ""
    name = f"inet {TABLES[table]}"
    used = {chain_name(operation.chain) for operation, _ in steps}
    chains = [f"add chain {name} {chain}{hook}" for chain, hook in CHAINS[table].items() if chain in used]
    rules = []
    for operation, index in steps:
        place = f"{name} {chain_name(operation.chain)}"
        verb = f"add rule {place}" if index is None else f"insert rule {place} index {index}"
        only = family_test(operation, plan)
        rules.append(" ".join([verb, *only, *expression(operation)]))
    return "\n".join([f"add table {name}", f"flush table {name}", *chains, *rules]) + "\n"


def table_rules(plan: Plan, table: Table) -> dict[str, list[RuleOperation]]:
    """The rules of each chain, in the order in which the kernel has them in the end."""
    rules: dict[str, list[RuleOperation]] = {}
    for operation, index in _steps(plan, table):
        chain = rules.setdefault(chain_name(operation.chain), [])
        chain.insert(len(chain) if index is None else index, operation)
    return rules


def family_test(operation: RuleOperation, plan: Plan) -> tuple[str, ...]:
    """What keeps a rule to its family. Only the jump to the conntrack zones needs it, where N17 is corrected."""
    if (operation.table, operation.chain) != ("raw", "OUTPUT"):
        return ()
    families = {found.family for found in plan.setup if isinstance(found, RuleOperation)}
    jumps = {
        found.family
        for found in plan.setup
        if isinstance(found, RuleOperation) and (found.table, found.rule) == ("raw", operation.rule)
    }
    return ("meta", "nfproto", operation.family) if families != jumps else ()


def _steps(plan: Plan, table: Table) -> Iterator[tuple[RuleOperation, int | None]]:
    """Each rule, and where it is inserted; None where it is added at the end.

    An insertion that would make the first rule, or the last one, is an addition in the original.
    """
    counts: dict[str, int] = {}
    before: RuleOperation | None = None
    for operation in plan.setup:
        if not isinstance(operation, RuleOperation) or operation.table != table:
            continue
        if before is not None and _is_twin(operation, before):
            continue
        before = operation
        count, index = counts.get(operation.chain, 0), operation.position - 1
        counts[operation.chain] = count + 1
        yield operation, index if operation.verb == "insert" and index < count else None


def _is_twin(operation: RuleOperation, before: RuleOperation) -> bool:
    """Whether IPv6 has the rule that IPv4 had just before."""
    return (
        operation.family != before.family
        and operation.chain == before.chain
        and operation.rule == before.rule
        and (operation.verb, operation.position) == (before.verb, before.position)
    )


def chain_name(chain: str) -> str:
    """What the chain of iptables is called here."""
    return chain.lower().replace("_", "-")


def expression(operation: RuleOperation) -> list[str]:
    """The words of one rule: tests in the order of the original, then what is done, counted."""
    table, chain, rule = operation.table, operation.chain, operation.rule
    # N15: the original drops invalid packets of TCP only here, of every protocol with iptables.
    words = ["meta", "l4proto", "tcp"] if rule.matches == INVALID else []
    for match in sorted(rule.matches, key=_raw_place if table == "raw" else _place):
        if not (isinstance(match, Protocol) and _is_implied(match, rule, chain)):
            words += _test(match, rule, "meta" if table == "raw" else "")
    if isinstance(rule.target, Tproxy):
        return [*words, *_tproxy(rule.target, rule), "counter", "accept"]
    return [*words, "counter", *_statement(rule.target)]


def _place(match: Match) -> int:
    order = (Interface, Protocol, ConnState, Address, Ports, PacketMark, ConnectionMark, Owner)
    return next(place for place, kind in enumerate(order) if isinstance(match, kind))


def _raw_place(match: Match) -> int:
    order = (Protocol, Ports, Address, Owner)
    return next(place for place, kind in enumerate(order) if isinstance(match, kind))


def _is_implied(protocol: Protocol, rule: Rule, chain: str) -> bool:
    """Whether the original leaves the protocol to the test of the port behind it. With TCP it mostly writes both."""
    if not any(isinstance(match, Ports) for match in rule.matches):
        return False
    if protocol.name == "tcp" and chain == "ISTIO_OUTPUT":
        return not any(isinstance(match, Interface) for match in rule.matches)
    if protocol.name == "tcp" and chain == "ISTIO_OUTPUT_DNS":
        return any(isinstance(match, Address) for match in rule.matches)
    return protocol.name == "udp"


def _test(match: Match, rule: Rule, owner_prefix: str) -> list[str]:
    match match:
        case Interface(direction, name, negated):
            return ["iifname" if direction == "in" else "oifname", *_not(negated), _interface(name)]
        case Protocol(name, negated):
            return ["meta", "l4proto", *_not(negated), name]
        case ConnState(states, _, negated):
            return ["ct", "state", *_not(negated), ",".join(states).lower()]
        case Address(side, network, negated):
            field = "saddr" if side == "source" else "daddr"
            return [IP[network.version], field, *_not(negated), network.spelled or network_text(network)]
        case Ports(side, ranges, negated):
            texts = [_range(ports) for ports in ranges]
            port = texts[0] if len(texts) == 1 else f"{{ {', '.join(texts)} }}"
            protocol = next(other.name for other in rule.matches if isinstance(other, Protocol))
            return [protocol, "sport" if side == "source" else "dport", *_not(negated), port]
        case PacketMark(value, _, negated):
            return ["mark", *_not(negated), str(value)]
        case ConnectionMark(value, _, negated):
            return ["ct", "mark", *_not(negated), str(value)]
        case Owner(kind, low, high, negated):
            prefix = [owner_prefix] if owner_prefix else []
            return [*prefix, f"sk{kind}", *_not(negated), _numbers(match.spelled, low, high)]
        case _:
            raise ValueError(f"the rules of this dialect have no {match!r}")


def _statement(target: Target) -> list[str]:
    match target:
        case Verdict(name):
            return [name.lower()]
        case Jump(chain):
            return ["jump", chain_name(chain)]
        case Redirect(ports):
            return ["redirect", "to", f":{_range(ports)}"]
        case SetMark(mark, spelled):
            return ["meta", "mark", "set", spelled or str(mark)]
        case SaveMark():
            return ["ct", "mark", "set", "mark"]
        case RestoreMark():
            return ["meta", "mark", "set", "ct", "mark"]
        case Zone(number):
            return ["ct", "zone", "set", str(number)]
        case _:
            raise ValueError(f"the rules of this dialect have no {target!r}")


def _tproxy(target: Tproxy, rule: Rule) -> list[str]:
    version = next(match.network.version for match in rule.matches if isinstance(match, Address))
    mark = target.mark_spelled or str(target.mark)
    return ["tproxy", IP[version], "to", f":{_range(target.port)}", "meta", "mark", "set", mark]


def _not(negated: bool) -> tuple[str, ...]:
    return ("!=",) if negated else ()


def _interface(name: str) -> str:
    """A name as it is; in quotes, which the original lacks, where nft would not take it for one."""
    if name.endswith("+"):
        return f'"{name[:-1]}*"'
    return name if _PLAIN.issuperset(name) and name[0] not in "-.0123456789" else f'"{name}"'


def _range(ports: PortRange) -> str:
    return _numbers(ports.spelled, ports.low, ports.high)


def _numbers(spelled: str, low: int, high: int) -> str:
    """A number, a range or a name, spelled as it was given where nft reads that in the same way."""
    is_name = spelled[:1].isalpha() and _PLAIN.issuperset(spelled)
    return spelled if is_name else range_text(low, high, "-")
