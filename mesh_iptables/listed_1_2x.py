"""Tell whether the tables that `nft -j list table` prints are those that `render.nft_1_2x` would make. Pure.

Both sides are brought into one form: the tests of a rule in no order, without those that follow from others, and what
is done. What this vocabulary does not know stays as it is, and so equals nothing.
"""

from __future__ import annotations

import json

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
    SaveMark,
    SetMark,
    Tproxy,
    Verdict,
    Zone,
)
from mesh_iptables.render.iptables import address_text
from mesh_iptables.render.nft_1_2x import CHAINS, INVALID, IP, chain_name, family_test, table_rules
from mesh_iptables.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mesh_iptables.model import Match, Network, Plan, PortRange, Rule, Table, Target

    Form = tuple[frozenset[str], tuple[str, ...]]  # the tests of a rule, and what it does


class Listing(Value):
    """One table: how each chain is hooked in, its rules, and whether it holds anything else."""

    bases: dict[str, str]
    rules: dict[str, list[Form]]
    has_others: bool


def parse_listing(text: str) -> Listing:
    """The output of one `nft -j list table`."""
    bases: dict[str, str] = {}
    rules: dict[str, list[Form]] = {}
    has_others = False
    for entry in json.loads(text)["nftables"]:
        match entry:
            case {"rule": {"chain": name, "expr": expressions}}:
                rules.setdefault(name, []).append(_form_of(expressions))
            case {"chain": {"name": name, **chain}}:
                bases[name] = _base(chain)
                rules.setdefault(name, [])
            case {"metainfo": _} | {"table": _}:
                pass
            case _:
                has_others = True
    return Listing(bases, rules, has_others)


def _base(chain: Mapping[object, object]) -> str:
    if "hook" not in chain:
        return ""
    policy = chain.get("policy", "accept")
    odd = f" {policy} {chain.get('dev', '')}" if policy != "accept" or "dev" in chain else ""
    return f" {{ type {chain['type']} hook {chain['hook']} priority {chain['prio']} ; }}{odd}"


def is_as_wanted(listing: Listing, plan: Plan, table: Table) -> bool:
    """Whether a table is, rule by rule, what `plan` would make it; an empty chain of ours more does no harm."""
    chains = {
        chain: [_limited(form(operation.rule), family_test(operation, plan)) for operation in operations]
        for chain, operations in table_rules(plan, table).items()
    }
    return (
        not listing.has_others
        and all(CHAINS[table].get(name) == base for name, base in listing.bases.items())
        and {name: rules for name, rules in listing.rules.items() if rules} == chains
    )


def _limited(found: Form, family: tuple[str, ...]) -> Form:
    tests, actions = found
    return (tests | {f"meta nfproto == {family[-1]}"} if family else tests), actions


def marks_set(listing: Listing) -> frozenset[int]:
    """The marks that rules of the chain for open connections set."""
    actions = [action for _, actions in listing.rules.get("istio-divert", ()) for action in actions]
    return frozenset(int(action.removeprefix("mark ")) for action in actions if action.startswith("mark "))


def _form_of(expressions: Sequence[Mapping[str, object]]) -> Form:
    tests: set[str] = set()
    actions: list[str] = []
    for expression in expressions:
        match expression:
            case {"counter": _}:
                pass
            case {"match": {"op": operator, "left": left, "right": right}}:
                tests.add(_test_text(left, operator, right))
            case {"jump": {"target": name}}:
                actions.append(f"jump {name}")
            case {"redirect": {"port": port}}:
                actions.append(f"redirect {_value(port)}")
            case {"mangle": {"key": {"meta": {"key": "mark"}}, "value": int(mark)}}:
                actions.append(f"mark {mark}")
            case {"mangle": {"key": key, "value": value}}:
                actions.append(f"{_field(key)} = {_field(value) if isinstance(value, dict) else value}")
            case {"tproxy": {"family": family, "port": port}}:
                actions.append(f"tproxy {family} {_value(port)}")
            case {"return": None} | {"accept": None} | {"drop": None}:
                actions += expression
            case _:
                actions.append(json.dumps(expression))
    ported = {name for name in ("tcp", "udp") if any(test.startswith(f"{name} ") for test in tests)}
    implied = {f"meta l4proto == {name}" for name in ported}
    return frozenset(tests - implied), tuple(actions)


def _test_text(left: object, operator: object, right: object) -> str:
    same = "==" if operator in ("==", "in") else operator
    return f"{_field(left)} {same} {_value(right)}"


def _field(left: object) -> str:
    match left:
        case {"meta": {"key": key}}:
            return f"meta {key}"
        case {"ct": {"key": key}}:
            return f"ct {key}"
        case {"payload": {"protocol": protocol, "field": field}}:
            return f"{protocol} {field}"
    return json.dumps(left)


def _value(right: object) -> str:
    match right:
        case {"set": items} if isinstance(items, list):
            return ",".join(sorted(_value(item) for item in items))
        case {"range": [low, high]}:
            return f"{low}-{high}"
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}"
        case list():
            return ",".join(sorted(_value(item) for item in right))
        case str() | int():
            return str(right)
    return json.dumps(right)


def form(rule: Rule) -> Form:
    """A rule of ours in the form in which listed ones are compared."""
    invalid = {"meta l4proto == tcp"} if rule.matches == INVALID else set()
    tests = invalid | {_wanted_test(match, rule) for match in rule.matches}
    return frozenset(tests - {""}), _wanted_actions(rule.target, rule)


def _wanted_test(match: Match, rule: Rule) -> str:
    match match:
        case Interface(direction, name, negated):
            listed = f"{name[:-1]}*" if name.endswith("+") else name
            return f"meta {'i' if direction == 'in' else 'o'}ifname {_operator(negated)} {listed}"
        case Protocol(name, negated):
            ported = any(isinstance(other, Ports) for other in rule.matches)
            return "" if ported else f"meta l4proto {_operator(negated)} {name}"
        case ConnState(states, _, negated):
            return f"ct state {_operator(negated)} {','.join(sorted(state.lower() for state in states))}"
        case Address(side, network, negated):
            field = "saddr" if side == "source" else "daddr"
            return f"{IP[network.version]} {field} {_operator(negated)} {_network(network)}"
        case Ports(side, ranges, negated):
            protocol = next(other.name for other in rule.matches if isinstance(other, Protocol))
            listed = ",".join(sorted(_range(ports) for ports in ranges))
            return f"{protocol} {'sport' if side == 'source' else 'dport'} {_operator(negated)} {listed}"
        case PacketMark(value, _, negated):
            return f"meta mark {_operator(negated)} {value}"
        case ConnectionMark(value, _, negated):
            return f"ct mark {_operator(negated)} {value}"
        case Owner(kind, low, high, negated):
            return f"meta sk{kind} {_operator(negated)} {low if low == high else f'{low}-{high}'}"
    raise ValueError(f"the rules of this dialect have no {match!r}")


def _wanted_actions(target: Target, rule: Rule) -> tuple[str, ...]:
    match target:
        case Verdict(name):
            return (name.lower(),)
        case Jump(chain):
            return (f"jump {chain_name(chain)}",)
        case Redirect(ports):
            return (f"redirect {_range(ports)}",)
        case SetMark(mark):
            return (f"mark {mark}",)
        case SaveMark():
            return ("ct mark = meta mark",)
        case RestoreMark():
            return ("meta mark = ct mark",)
        case Zone(number):
            return (f"ct zone = {number}",)
        case Tproxy(port, mark):
            version = next(match.network.version for match in rule.matches if isinstance(match, Address))
            return (f"tproxy {IP[version]} {_range(port)}", f"mark {mark}", "accept")
    raise ValueError(f"the rules of this dialect have no {target!r}")


def _operator(negated: bool) -> str:
    return "!=" if negated else "=="


def _network(network: Network) -> str:
    bits = 32 if network.version == 4 else 128
    text, length = address_text(network.version, network.address), network.mask.bit_count()
    return text if length == bits else f"{text}/{length}"


def _range(ports: PortRange) -> str:
    return str(ports.low) if ports.low == ports.high else f"{ports.low}-{ports.high}"
