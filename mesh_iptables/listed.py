"""Read what `nft -j list table` prints of our own tables back into rules, as `iptables-save` would order them. Pure.

What `render.nft` does not write becomes an `Unknown`, so a rule somebody else put there equals none of ours.
"""

from __future__ import annotations

import _socket
import json

from mesh_iptables.model import (
    BUILT_IN,
    Address,
    ConnectionMark,
    ConnState,
    Interface,
    Jump,
    Network,
    NoTarget,
    Owner,
    PacketMark,
    PortRange,
    Ports,
    Protocol,
    Redirect,
    Reject,
    RestoreMark,
    Rule,
    SaveMark,
    SetMark,
    Socket,
    Tproxy,
    Unknown,
    Verdict,
    Zone,
)
from mesh_iptables.plan import own
from mesh_iptables.render.iptables import PORT_UNREACHABLE, saved
from mesh_iptables.render.nft import SOCKET, layout
from mesh_iptables.render.nft_rule import REJECTS, WHOLE_MARK
from mesh_iptables.ruleset import Ruleset
from mesh_iptables.saved import read_rule
from mesh_iptables.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from mesh_iptables.model import Family, Match, Side, Target
    from mesh_iptables.render.nft import Layout
    from mesh_iptables.ruleset import Key

    Expressions = list[dict[str, object]]  # one nft rule, as JSON spells it
    Chains = dict[str, list[Expressions]]

DROP_RULE = {"drop": None}
MARK, CT_MARK = {"meta": {"key": "mark"}}, {"ct": {"key": "mark"}}
SIDES: dict[str, Side] = {"saddr": "source", "sport": "source", "daddr": "destination", "dport": "destination"}
REJECT_NAMES = {text: name for name, text in REJECTS.items()}
IP_VERSIONS = {"ip": (4, _socket.AF_INET, 32), "ip6": (6, _socket.AF_INET6, 128)}


class Listing(Value):
    """One of our tables as the kernel has it.

    `bases` says of each chain how it is hooked in; `rules` has those of each iptables table and chain, matches in the
    order in which they are written there; `others` is whatever else the table holds.
    """

    family: Family
    bases: dict[str, str]
    rules: dict[tuple[str, str], list[Rule]]
    others: tuple[str, ...]


def parse_listing(text: str, family: Family) -> Listing:
    """The output of one `nft -j list table`."""
    bases: dict[str, str] = {}
    chains: Chains = {}
    others: list[str] = []
    for entry in json.loads(text)["nftables"]:
        match entry:
            case {"rule": {"chain": name, "expr": expressions}}:
                chains.setdefault(name, []).append(expressions)
            case {"chain": {"name": name, **chain}}:
                bases[name] = _base_text(chain)
                chains.setdefault(name, [])
            case {"metainfo": _} | {"table": _}:
                pass
            case _:
                others.append(json.dumps(entry))
    sockets = frozenset(name for name in chains if _is_socket_chain(chains, name))
    rules = {}
    for name, found in chains.items():
        if name not in sockets:
            table, _, chain_name = name.partition("-")
            rules[table, chain_name] = _read_rules(found, family, sockets)
    return Listing(family, bases, rules, tuple(others))


def _base_text(chain: Mapping[object, object]) -> str:
    if "hook" not in chain:
        return ""
    device = f" device {chain['dev']}" if "dev" in chain else ""
    place = f"type {chain['type']} hook {chain['hook']}{device} priority {chain['prio']}"
    return f"{place}; policy {chain.get('policy', 'accept')};"


def read_listings(listings: Iterable[Listing]) -> Ruleset:
    """The rules of our tables, each match in the place where `iptables-save` has it."""
    ruleset = Ruleset()
    for listing in listings:
        spelled = _spelled(listing.family)
        for key, rules in _chains(listing).items():
            found = (_canonical(rule, listing.family) for rule in rules)
            ruleset.chains[key] = [spelled.get(rule, rule) for rule in found]
    return ruleset


def _chains(listing: Listing) -> dict[Key, list[Rule]]:
    """The chains as a Ruleset has them: built-in ones only where they hold a rule."""
    return {
        (listing.family, table, chain): rules  # type: ignore[misc]  # whatever tables there are
        for (table, chain), rules in listing.rules.items()
        if rules or chain not in BUILT_IN
    }


def _spelled(family: Family) -> dict[Rule, Rule]:
    """Rules of ours in the words of xtables where nft has one expression for two of them (`-m state`, conntrack)."""
    ours = (
        _canonical(rule, family) for (found, *_), rules in own.SEQUENCES.items() if found == family for rule in rules
    )
    return {rule: rule for rule in ours}


def is_as_wanted(listing: Listing, wanted: Ruleset) -> bool:
    """Whether a table is, rule by rule, what it would be made anew."""
    chains = layout(wanted, listing.family)
    if listing.others or listing.bases != {name: chain.base for name, chain in chains.items()}:
        return False
    there = Ruleset()
    there.chains = _chains(listing)
    try:
        return _texts(layout(there, listing.family)) == _texts(chains)
    except ValueError:  # a rule that is not one of ours
        return False


def _texts(chains: Layout) -> dict[str, list[str]]:
    return {name: [rule.text for rule in chain.rules] for name, chain in chains.items()}


def _canonical(rule: Rule, family: Family) -> Rule:
    """The rule as it would come back from `iptables-save`; one with a part that is none of ours as it is."""
    if any(isinstance(part, Unknown) for part in (*rule.matches, rule.target)):
        return rule
    return read_rule(saved(rule, family), family)


def _read_rules(rules: Sequence[Expressions], family: Family, sockets: Container[str]) -> list[Rule]:
    """The rules of one chain; a `tproxy` and the `drop` behind it are one."""
    found: list[Rule] = []
    place = 0
    while place < len(rules):
        tests, actions = _split(rules[place])
        follower = rules[place + 1] if place + 1 < len(rules) else None
        if (target := _tproxy(actions)) is not None and follower == [*tests, DROP_RULE]:
            found.append(Rule(_matches(tests, family), target))
            place += 2
        else:
            found.append(_read_rule(tests, actions, family, sockets))
            place += 1
    return found


def _split(expressions: Expressions) -> tuple[Expressions, Expressions]:
    tests = [expression for expression in expressions if "match" in expression]
    return tests, [expression for expression in expressions if "match" not in expression]


def _tproxy(actions: Expressions) -> Tproxy | None:
    match actions:
        case [{"tproxy": {"port": int(port)}}, {"mangle": {"key": key, "value": int(mark)}}, {"accept": None}] if (
            key == MARK
        ):
            return Tproxy(PortRange(port, port), mark)
    return None


def _read_rule(tests: Expressions, actions: Expressions, family: Family, sockets: Container[str]) -> Rule:
    matches = _matches(tests, family)
    target = _target(actions, family)
    if isinstance(target, Jump) and _jump_name(actions) in sockets:
        return Rule((*matches, Socket()), Jump(target.chain.removeprefix(SOCKET)))
    return Rule(matches, target)


def _is_socket_chain(chains: Chains, name: str) -> bool:
    """Whether a chain holds what `render.nft.socket_chain` writes."""
    table, _, chain = name.partition("-")
    expected = [
        [_socket_test("wildcard", "==", 1), {"return": None}],
        [_socket_test("transparent", "<=", 1), {"jump": {"target": f"{table}-{chain.removeprefix(SOCKET)}"}}],
    ]
    return chain.startswith(SOCKET) and chains[name] == expected


def _socket_test(key: str, operator: str, right: int) -> dict[str, object]:
    return {"match": {"op": operator, "left": {"socket": {"key": key}}, "right": right}}


def _jump_name(actions: Expressions) -> str:
    match actions:
        case [{"jump": {"target": str(name)}}]:
            return name
    return ""


def _target(actions: Expressions, family: Family) -> Target:
    match actions:
        case [{"accept": None}]:
            return Verdict("ACCEPT")
        case [{"return": None}]:
            return Verdict("RETURN")
        case [{"drop": None}]:
            return Verdict("DROP")
        case [{"jump": {"target": str(name)}}]:
            return Jump(name.partition("-")[2])
        case [{"goto": {"target": str(name)}}]:
            return Jump(name.partition("-")[2], goto=True)
        case [{"redirect": {"port": port, **rest}}] if not rest and (ports := _range(port)) is not None:
            return Redirect(ports)
        case [{"reject": reject}]:
            return _reject(reject, family)
        case [{"mangle": {"key": key, "value": value}}] if (target := _set(key, value)) is not None:
            return target
        case [{"counter": _}]:
            return NoTarget()
    return Unknown(("nft", json.dumps(actions)))


def _set(key: object, value: object) -> Target | None:
    if key == MARK and isinstance(value, int):
        return SetMark(value)
    if key == MARK and value == CT_MARK:
        return RestoreMark()
    if key == CT_MARK and value == MARK:
        return SaveMark()
    if key == {"ct": {"key": "zone"}} and isinstance(value, int):
        return Zone(value)
    return None


def _reject(reject: object, family: Family) -> Target:
    match reject:
        case None:
            return Reject()
        case {"type": "tcp reset"}:
            return Reject("tcp-reset")
        case {"type": str(kind), "expr": str(name)} if f"{kind} type {name}" in REJECT_NAMES:
            message = REJECT_NAMES[f"{kind} type {name}"]
            return Reject("" if message == PORT_UNREACHABLE[family] else message)
    return Unknown(("nft", json.dumps({"reject": reject})))


def _matches(tests: Expressions, family: Family) -> tuple[Match, ...]:
    found: list[Match] = []
    for test in tests:
        for match in _match(test):
            if match not in found or not isinstance(match, Protocol):
                found.append(match)
    return tuple(_known_family(match, family, test) for match in found)


def _known_family(match: Match, family: Family, test: object) -> Match:
    """An address of the other family cannot be one of ours."""
    if isinstance(match, Address) and match.network.version != (4 if family == "ipv4" else 6):
        return Unknown(("nft", json.dumps(test)))
    return match


def _match(test: dict[str, object]) -> list[Match]:
    """One comparison; a port says which protocol, too. Unknown where it is none of ours."""
    match test["match"]:
        case {"op": "==" | "!=" | "in" as operator, "left": left, "right": right}:
            found = _compared(left, right, negated=operator == "!=")
            if found is not None:
                return found
    return [Unknown(("nft", json.dumps(test)))]


def _compared(left: object, right: object, *, negated: bool) -> list[Match] | None:
    match left:
        case {"meta": {"key": "l4proto"}} if isinstance(right, str):
            return [Protocol(right, negated)]
        case {"meta": {"key": "iifname" | "oifname" as key}} if isinstance(right, str):
            return [Interface("in" if key == "iifname" else "out", _interface_name(right), negated)]
        case {"meta": {"key": "skuid" | "skgid" as key}} if (ids := _range(right)) is not None:
            return [Owner("uid" if key == "skuid" else "gid", ids.low, ids.high, negated)]
        case {"meta": {"key": "mark"}} | {"ct": {"key": "mark"}} | {"&": [_, int()]}:
            return _mark(left, right, negated)
        case {"ct": {"key": "state"}} if (states := _states(right)) is not None:
            return [ConnState(states, negated=negated)]
        case {"payload": {"protocol": "tcp" | "udp" | "th" as name, "field": "sport" | "dport" as field}}:
            return _ports(name, SIDES[field], right, negated)
        case {"payload": {"protocol": "ip" | "ip6" as name, "field": "saddr" | "daddr" as field}}:
            return _address(name, SIDES[field], right, None, negated)
        case {"&": [{"payload": {"protocol": "ip" | "ip6" as name, "field": "saddr" | "daddr" as field}}, str(mask)]}:
            return _address(name, SIDES[field], right, mask, negated)
    return None


def _interface_name(text: str) -> str:
    if text.endswith("\\*"):
        return f"{text[:-2]}*"
    return f"{text[:-1]}+" if text.endswith("*") else text


def _range(value: object) -> PortRange | None:
    match value:
        case int():
            return PortRange(value, value)
        case {"range": [int(low), int(high)]}:
            return PortRange(low, high)
    return None


def _ports(name: str, side: Side, right: object, negated: bool) -> list[Match] | None:
    items = right["set"] if isinstance(right, dict) and "set" in right else [right]
    ranges = [_range(item) for item in items]
    known = tuple(ports for ports in ranges if ports is not None)
    if not known or len(known) != len(ranges):
        return None
    protocol: list[Match] = [Protocol(name)] if name != "th" else []
    return [*protocol, Ports(side, known, negated)]


def _mark(left: object, right: object, negated: bool) -> list[Match] | None:
    mask = WHOLE_MARK
    match left:
        case {"&": [inner, int(mask)]}:
            left = inner
    match right:
        case {"prefix": {"addr": int(value), "len": int(length)}}:
            mask = WHOLE_MARK ^ (WHOLE_MARK >> length)
        case int(value):
            pass
        case _:
            return None
    if left == MARK:
        return [PacketMark(value, mask, negated)]
    return [ConnectionMark(value, mask, negated)] if left == CT_MARK else None


def _states(right: object) -> tuple[str, ...] | None:
    items = right["set"] if isinstance(right, dict) and "set" in right else right
    names = items if isinstance(items, list) else [items]
    # iptables-save has an order of its own.
    known = [name for name in ("invalid", "new", "related", "established", "untracked") if name in names]
    return tuple(name.upper() for name in known) if len(known) == len(names) else None


def _address(name: str, side: Side, right: object, mask_text: str | None, negated: bool) -> list[Match] | None:
    version, family, bits = IP_VERSIONS[name]
    mask = (1 << bits) - 1
    match right:
        case {"prefix": {"addr": str(text), "len": int(length)}}:
            mask ^= mask >> length
        case str(text):
            pass
        case _:
            return None
    if mask_text is not None:
        mask = int.from_bytes(_socket.inet_pton(family, mask_text))
    return [Address(side, Network(version, int.from_bytes(_socket.inet_pton(family, text)), mask), negated)]
