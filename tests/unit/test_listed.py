"""What `nft -j` prints, as rules; whatever is not ours stays a stranger."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from mesh_iptables.listed import is_as_wanted, parse_listing, read_listings
from mesh_iptables.model import (
    ACCEPT,
    RETURN,
    Address,
    ConnectionMark,
    ConnState,
    Interface,
    Jump,
    Match,
    Network,
    NoTarget,
    Owner,
    PacketMark,
    Plan,
    PortRange,
    Ports,
    Protocol,
    Redirect,
    Reject,
    RestoreMark,
    Rule,
    RuleOperation,
    SaveMark,
    SetMark,
    Socket,
    Target,
    Tproxy,
    Unknown,
    Verdict,
    Zone,
)
from mesh_iptables.ruleset import after

MARK, CT_MARK = {"meta": {"key": "mark"}}, {"ct": {"key": "mark"}}
BASE = {"type": "nat", "hook": "output", "prio": -100, "policy": "accept"}
RETURNS = {"return": None}
TCP = Protocol("tcp")


def payload(protocol: str, field: str) -> dict[str, object]:
    return {"payload": {"protocol": protocol, "field": field}}


def compare(left: object, right: object, operator: str = "==") -> dict[str, object]:
    return {"match": {"op": operator, "left": left, "right": right}}


TCP_TEST = compare({"meta": {"key": "l4proto"}}, "tcp")


def listing(*rules: Sequence[object], socket_chain: Sequence[Sequence[object]] | None = None) -> str:
    """The text of a table with these rules in nat OUTPUT, and with a chain for the socket match."""
    chains = {"nat-OUTPUT": rules} | ({} if socket_chain is None else {"nat-socket-DIVERT": socket_chain})
    entries: list[object] = [{"metainfo": {}}, {"table": {"family": "ip", "name": "mesh-iptables", "handle": 1}}]
    for name, found in chains.items():
        entries.append({"chain": {"name": name, "handle": 1, **(BASE if name == "nat-OUTPUT" else {})}})
        entries += [{"rule": {"chain": name, "handle": 2, "comment": "why", "expr": rule}} for rule in found]
    return json.dumps({"nftables": entries})


def read(*rules: Sequence[object]) -> list[Rule]:
    return parse_listing(listing(*rules), "ipv4").rules["nat", "OUTPUT"]


def address(text: int, mask: int, *, negated: bool = False) -> Address:
    return Address("destination", Network(4, text, mask), negated)


def ports(*ranges: tuple[int, int]) -> Ports:
    return Ports("destination", tuple(PortRange(low, high) for low, high in ranges))


WHOLE = 0xFFFFFFFF
DADDR = payload("ip", "daddr")
MATCHES: list[tuple[dict[str, object], list[Match]]] = [
    (TCP_TEST, [TCP]),
    (compare({"meta": {"key": "oifname"}}, "eth*", "!="), [Interface("out", "eth+", negated=True)]),
    (compare({"meta": {"key": "iifname"}}, "odd\\*"), [Interface("in", "odd*")]),
    (compare({"meta": {"key": "skuid"}}, 1337), [Owner("uid", 1337, 1337)]),
    (compare({"meta": {"key": "skgid"}}, {"range": [5, 7]}, "!="), [Owner("gid", 5, 7, negated=True)]),
    (compare(DADDR, "10.0.0.1", "!="), [address(0x0A000001, WHOLE, negated=True)]),
    (compare(DADDR, {"prefix": {"addr": "10.0.0.0", "len": 8}}), [address(0x0A000000, 0xFF000000)]),
    (compare({"&": [DADDR, "255.0.0.255"]}, "10.0.0.9"), [address(0x0A000009, 0xFF0000FF)]),
    (compare(payload("tcp", "dport"), 80), [TCP, ports((80, 80))]),
    (compare(payload("tcp", "dport"), {"set": [5, {"range": [10, 20]}]}), [TCP, ports((5, 5), (10, 20))]),
    (compare(payload("th", "sport"), 53), [Ports("source", (PortRange(53, 53),))]),
    (compare({"ct": {"key": "state"}}, "established", "in"), [ConnState(("ESTABLISHED",))]),
    (compare({"ct": {"key": "state"}}, ["established", "related"], "in"), [ConnState(("RELATED", "ESTABLISHED"))]),
    (compare({"ct": {"key": "state"}}, {"set": ["new"]}, "!="), [ConnState(("NEW",), negated=True)]),
    (compare(MARK, 0x539), [PacketMark(0x539)]),
    (compare(MARK, {"prefix": {"addr": 0x1000000, "len": 8}}), [PacketMark(0x1000000, 0xFF000000)]),
    (compare({"&": [CT_MARK, 3]}, 1, "!="), [ConnectionMark(1, 3, negated=True)]),
]
TARGETS: list[tuple[dict[str, object], Target]] = [
    ({"accept": None}, ACCEPT),
    ({"drop": None}, Verdict("DROP")),
    ({"goto": {"target": "nat-OTHER"}}, Jump("OTHER", goto=True)),
    ({"redirect": {"port": 15001}}, Redirect(PortRange(15001, 15001))),
    ({"redirect": {"port": {"range": [15001, 15003]}}}, Redirect(PortRange(15001, 15003))),
    ({"reject": None}, Reject()),
    ({"reject": {"type": "icmp", "expr": "port-unreachable"}}, Reject()),
    ({"reject": {"type": "icmp", "expr": "admin-prohibited"}}, Reject("icmp-admin-prohibited")),
    ({"reject": {"type": "tcp reset"}}, Reject("tcp-reset")),
    ({"mangle": {"key": MARK, "value": 7}}, SetMark(7)),
    ({"mangle": {"key": MARK, "value": CT_MARK}}, RestoreMark()),
    ({"mangle": {"key": CT_MARK, "value": MARK}}, SaveMark()),
    ({"mangle": {"key": {"ct": {"key": "zone"}}, "value": 2}}, Zone(2)),
    ({"counter": {"packets": 1, "bytes": 60}}, NoTarget()),
]
STRANGERS: list[list[object]] = [
    [compare({"meta": {"key": "skuid"}}, "root"), RETURNS],
    [compare({"meta": {"key": "cpu"}}, 1), RETURNS],
    [compare(MARK, "x"), RETURNS],
    [compare(DADDR, {"set": ["10.0.0.1"]}), RETURNS],
    [compare(payload("ip6", "daddr"), "::1"), RETURNS],
    [compare(payload("tcp", "dport"), 90, ">="), RETURNS],
    [compare({"ct": {"key": "state"}}, "snat", "in"), RETURNS],
    [{"log": {"prefix": "x"}}, {"accept": None}],
    [{"redirect": {"port": 1, "flags": "random"}}],
    [{"mangle": {"key": MARK, "value": {"|": [MARK, 1]}}}],
    [{"reject": {"type": "icmpx", "expr": "no-route"}}],
    [{"tproxy": {"port": 15001}}, {"accept": None}],
    [{"counter": {}}, {"accept": None}],
]


@pytest.mark.parametrize(("test", "matches"), MATCHES)
def test_a_comparison_is_a_match(test: dict[str, object], matches: list[Match]) -> None:
    assert read([test, RETURNS]) == [Rule(tuple(matches), RETURN)]


@pytest.mark.parametrize(("statement", "target"), TARGETS)
def test_a_statement_is_a_target(statement: dict[str, object], target: Target) -> None:
    assert read([TCP_TEST, statement]) == [Rule((TCP,), target)]


@pytest.mark.parametrize("expressions", STRANGERS)
def test_what_we_never_write_is_unknown_and_never_as_wanted(expressions: list[object]) -> None:
    (rule,) = read(expressions)
    assert [part for part in (*rule.matches, rule.target) if isinstance(part, Unknown)]
    found = parse_listing(listing(expressions), "ipv4")
    assert not is_as_wanted(found, after(Plan("istio-1.0", (), ())))
    assert read_listings([found]).chains["ipv4", "nat", "OUTPUT"] == [rule]


TPROXY_RULE = [TCP_TEST, {"tproxy": {"port": 15001}}, {"mangle": {"key": MARK, "value": 1337}}, {"accept": None}]


def test_tproxy_and_the_drop_behind_it_are_one_rule() -> None:
    tproxy = Rule((TCP,), Tproxy(PortRange(15001, 15001), 1337))
    assert read(TPROXY_RULE, [TCP_TEST, {"drop": None}], [RETURNS]) == [tproxy, Rule((), RETURN)]


@pytest.mark.parametrize("behind", [[], [[{"drop": None}]], [[TCP_TEST, RETURNS]]])
def test_tproxy_without_its_drop_is_a_stranger(behind: list[list[object]]) -> None:
    assert isinstance(read(TPROXY_RULE, *behind)[0].target, Unknown)


WILDCARD = [compare({"socket": {"key": "wildcard"}}, 1), RETURNS]
ANY_SOCKET = [compare({"socket": {"key": "transparent"}}, 1, "<="), {"jump": {"target": "nat-DIVERT"}}]
TO_SOCKET = [TCP_TEST, {"jump": {"target": "nat-socket-DIVERT"}}]


def test_the_chain_for_the_socket_match_is_a_match() -> None:
    found = parse_listing(listing(TO_SOCKET, socket_chain=[WILDCARD, ANY_SOCKET]), "ipv4")
    assert found.rules == {("nat", "OUTPUT"): [Rule((TCP, Socket()), Jump("DIVERT"))]}


@pytest.mark.parametrize("chain", [[], [ANY_SOCKET], [ANY_SOCKET, WILDCARD], [WILDCARD, [RETURNS]]])
def test_a_changed_chain_for_the_socket_match_is_only_a_chain(chain: list[list[object]]) -> None:
    found = parse_listing(listing(TO_SOCKET, socket_chain=chain), "ipv4")
    assert found.rules["nat", "OUTPUT"] == [Rule((TCP,), Jump("socket-DIVERT"))]
    assert ("nat", "socket-DIVERT") in found.rules


def wanted(*rules: Rule) -> Plan:
    return Plan("istio-1.0", (), tuple(RuleOperation("append", "ipv4", "nat", "OUTPUT", rule) for rule in rules))


def test_a_table_is_as_wanted_with_the_same_rules_in_the_same_order() -> None:
    first, second = Rule((TCP,), RETURN), Rule((Owner("uid", 1, 1),), RETURN)
    found = parse_listing(listing([TCP_TEST, RETURNS], [compare({"meta": {"key": "skuid"}}, 1), RETURNS]), "ipv4")
    assert is_as_wanted(found, after(wanted(first, second)))
    assert not is_as_wanted(found, after(wanted(second, first)))
    assert not is_as_wanted(found, after(wanted(first)))


@pytest.mark.parametrize("change", [{"prio": -101}, {"policy": "drop"}, {"type": "filter"}, {"dev": "eth0"}])
def test_a_base_chain_hooked_in_elsewhere_is_not_as_wanted(change: dict[str, object]) -> None:
    document = json.loads(listing([TCP_TEST, RETURNS]))
    document["nftables"][2]["chain"].update(change)
    plan = wanted(Rule((TCP,), RETURN))
    assert not is_as_wanted(parse_listing(json.dumps(document), "ipv4"), after(plan))


def test_a_set_beside_the_rules_is_not_as_wanted() -> None:
    document = json.loads(listing([TCP_TEST, RETURNS]))
    document["nftables"].append({"set": {"name": "more"}})
    plan = wanted(Rule((TCP,), RETURN))
    assert not is_as_wanted(parse_listing(json.dumps(document), "ipv4"), after(plan))
