"""Each match and target in the words of nft, and the tables around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mesh_iptables.model import (
    ACCEPT,
    DROP,
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
    Zone,
)
from mesh_iptables.render import nft
from mesh_iptables.render.nft_rule import NEVER, statements

from ..argument_sets import ARGUMENT_SETS, plan_for

if TYPE_CHECKING:
    from mesh_iptables.model import Table

TCP = Protocol("tcp")
WHOLE = 0xFFFFFFFF


def network(address: int, mask: int) -> Network:
    return Network(4, address, mask)


def destination(address: int, mask: int, *, negated: bool = False) -> Address:
    return Address("destination", network(address, mask), negated)


def ports(*ranges: tuple[int, int], negated: bool = False) -> Ports:
    return Ports("destination", tuple(PortRange(low, high) for low, high in ranges), negated)


MATCHES: list[tuple[tuple[Match, ...], str]] = [
    ((), ""),
    ((TCP,), "meta l4proto tcp"),
    ((Protocol("udp", negated=True),), "meta l4proto != udp"),
    ((destination(0x7F000001, WHOLE),), "ip daddr 127.0.0.1"),
    ((destination(0x7F000001, WHOLE, negated=True),), "ip daddr != 127.0.0.1"),
    ((Address("source", network(0x0A000000, 0xFF000000)),), "ip saddr 10.0.0.0/8"),
    ((destination(0x0A000500, 0xFF00FF00),), "ip daddr & 255.0.255.0 == 10.0.5.0"),
    ((destination(0x0A000500, 0xFF00FF00, negated=True),), "ip daddr & 255.0.255.0 != 10.0.5.0"),
    ((destination(0, 0),), ""),
    ((destination(0, 0, negated=True),), NEVER),
    ((Address("destination", Network(6, 1, 2**128 - 1)),), "ip6 daddr ::1"),
    ((Address("destination", Network(6, 0xFD << 120, 0xFF << 120), True),), "ip6 daddr != fd00::/8"),
    ((Address("source", Network(6, 1, 0xFF << 120 | 1)),), "ip6 saddr & ff00::1 == ::1"),
    ((TCP, ports((80, 80))), "tcp dport 80"),
    ((TCP, ports((80, 80), negated=True)), "tcp dport != 80"),
    ((TCP, ports((8000, 8010))), "tcp dport 8000-8010"),
    ((TCP, ports((0, 65535))), "tcp dport 0-65535"),
    ((TCP, ports((53, 53), (15008, 15008), negated=True)), "tcp dport != { 53, 15008 }"),
    ((TCP, ports((90, 100), (80, 95), (5, 5))), "tcp dport { 5, 80-100 }"),
    ((Protocol("udp"), Ports("source", (PortRange(53, 53),))), "udp sport 53"),
    ((ports((53, 53)),), "th dport 53"),
    ((Interface("out", "lo"),), 'oifname "lo"'),
    ((Interface("in", "eth+", negated=True),), 'iifname != "eth*"'),
    ((Interface("in", "odd*"),), 'iifname "odd\\*"'),
    ((Interface("in", "+"),), ""),
    ((Interface("in", "+", negated=True),), NEVER),
    ((Owner("uid", 0, 0),), "meta skuid 0"),
    ((Owner("gid", 1000, 2000),), "meta skgid 1000-2000"),
    ((Owner("uid", 1337, 1337, negated=True),), "meta skuid != 1337"),
    ((Socket(),), "socket transparent <= 1"),
    ((ConnState(("ESTABLISHED",), "state"),), "ct state established"),
    ((ConnState(("RELATED", "ESTABLISHED")),), "ct state { related, established }"),
    ((ConnState(("RELATED", "ESTABLISHED"), negated=True),), "ct state != { related, established }"),
    ((PacketMark(0x539),), "meta mark 0x539"),
    ((PacketMark(0x53A, negated=True),), "meta mark != 0x53a"),
    ((PacketMark(2, 3),), "meta mark & 0x3 == 0x2"),
    ((ConnectionMark(1, 3, negated=True),), "ct mark & 0x3 != 0x1"),
]
TARGETS: list[tuple[Target, str]] = [
    (ACCEPT, "accept"),
    (RETURN, "return"),
    (DROP, "drop"),
    (Reject(), "reject with icmp type port-unreachable"),
    (Reject("icmp-proto-unreachable"), "reject with icmp type prot-unreachable"),
    (Reject("tcp-reset"), "reject with tcp reset"),
    (Jump("OTHER"), "jump nat-OTHER"),
    (Jump("OTHER", goto=True), "goto nat-OTHER"),
    (Redirect(PortRange(15001, 15001)), "redirect to :15001"),
    (Redirect(PortRange(15001, 15003)), "redirect to :15001-15003"),
    (SetMark(1337), "meta mark set 0x539"),
    (SaveMark(), "ct mark set meta mark"),
    (RestoreMark(), "meta mark set ct mark"),
    (Zone(2), "ct zone set 2"),
    (NoTarget(), "counter"),
]


def words(rule: Rule) -> list[str]:
    return statements(rule, "ipv4", lambda chain: f"nat-{chain}")


@pytest.mark.parametrize(("matches", "text"), MATCHES, ids=[text or "always" for _, text in MATCHES])
def test_a_match_is_written_as_one_expression(matches: tuple[Match, ...], text: str) -> None:
    assert words(Rule(matches, RETURN)) == [f"{text} return".strip()]


@pytest.mark.parametrize(("target", "text"), TARGETS, ids=[text for _, text in TARGETS])
def test_a_target_is_written_as_one_statement(target: Target, text: str) -> None:
    assert words(Rule((TCP,), target)) == [f"meta l4proto tcp {text}"]


def test_every_match_and_target_has_a_case_above() -> None:
    assert {type(match) for matches, _ in MATCHES for match in matches} | {Unknown} == set(Match.__args__)
    assert {type(target) for target, _ in TARGETS} | {Tproxy, Unknown} == set(Target.__args__)


def test_tproxy_drops_what_no_socket_takes() -> None:
    assert words(Rule((TCP,), Tproxy(PortRange(15001, 15001), 1337))) == [
        "meta l4proto tcp tproxy to :15001 meta mark set 0x539 accept",
        "meta l4proto tcp drop",
    ]


def test_ipv6_is_rejected_with_a_message_of_its_own() -> None:
    assert statements(Rule((), Reject()), "ipv6", str) == ["reject with icmpv6 type port-unreachable"]


@pytest.mark.parametrize("rule", [Rule((Unknown(("-m", "bpf")),), ACCEPT), Rule((), Unknown(("-j", "LOG")))])
def test_foreign_words_are_not_translated(rule: Rule) -> None:
    with pytest.raises(ValueError, match="no nft"):
        words(rule)


def test_a_table_is_made_anew_in_one_transaction() -> None:
    text = nft.render(plan_for(["-u", "1337", "-g", "0", "-i", "10.0.0.0/8"], ENABLE_INBOUND_IPV6="1"))
    assert (
        text
        == """\
#!/usr/sbin/nft -f
table ip mesh-iptables
delete table ip mesh-iptables
table ip6 mesh-iptables
delete table ip6 mesh-iptables
table ip mesh-iptables {
	chain nat-OUTPUT {
		type nat hook output priority -100; policy accept;
		meta l4proto tcp jump nat-ISTIO_OUTPUT comment "look at outbound TCP"
	}

	chain nat-ISTIO_IN_REDIRECT {
		meta l4proto tcp redirect to :15001 comment "inbound connections go to the proxy (-p)"
	}

	chain nat-ISTIO_OUTPUT {
		oifname "lo" ip daddr != 127.0.0.1 jump nat-ISTIO_REDIRECT comment "the Pod calls itself"
		meta skuid 1337 return comment "the proxy's own traffic must not come back to it (-u)"
		meta skgid 0 return comment "the proxy's own traffic must not come back to it (-g)"
		ip daddr 127.0.0.1 return comment "localhost stays direct"
		ip daddr 10.0.0.0/8 jump nat-ISTIO_REDIRECT comment "included destination (-i)"
		return comment "all other destinations stay direct (-i)"
	}

	chain nat-ISTIO_REDIRECT {
		meta l4proto tcp redirect to :15001 comment "outbound connections go to the proxy (-p)"
	}
}
"""
    )


def test_each_family_has_a_table_of_its_own() -> None:
    block = nft.render(plan_for([])).partition("table ip6 mesh-iptables {\n")[2].splitlines()
    assert [line.strip().partition(" comment")[0] for line in block] == [
        "chain filter-INPUT {",
        "type filter hook input priority 0; policy accept;",
        "ct state established accept",
        "reject with icmpv6 type port-unreachable",
        "}",
        "}",
    ]


def test_the_chains_of_mangle_and_nat_have_names_of_their_own() -> None:
    text = nft.render(plan_for(ARGUMENT_SETS["tproxy all"]))
    assert "\tchain mangle-ISTIO_INBOUND {" in text
    assert "jump mangle-ISTIO_TPROXY" in text
    assert "jump nat-ISTIO_OUTPUT" in text


def test_the_socket_match_asks_for_the_wildcard_address_first() -> None:
    text = nft.render(plan_for(ARGUMENT_SETS["tproxy all"]))
    assert "meta l4proto tcp jump mangle-socket-ISTIO_DIVERT" in text
    block = text.partition("\tchain mangle-socket-ISTIO_DIVERT {\n")[2].partition("\t}")[0]
    assert [line.strip().partition(" comment")[0] for line in block.splitlines()] == [
        "socket wildcard 1 return",
        "socket transparent <= 1 jump mangle-ISTIO_DIVERT",
    ]


def test_policy_routing_is_told_in_comments() -> None:
    assert nft.render(plan_for(ARGUMENT_SETS["tproxy all"])).splitlines()[-2:] == [
        "# ip -f inet rule add fwmark 1337 lookup 133",
        "# ip -f inet route add local default dev lo table 133",
    ]


@pytest.mark.parametrize(
    ("table", "hook", "text"),
    [
        ("raw", "PREROUTING", "type filter hook prerouting priority -300; policy accept;"),
        ("mangle", "PREROUTING", "type filter hook prerouting priority -150; policy accept;"),
        ("mangle", "OUTPUT", "type route hook output priority -150; policy accept;"),
        ("nat", "PREROUTING", "type nat hook prerouting priority -100; policy accept;"),
        ("nat", "POSTROUTING", "type nat hook postrouting priority 100; policy accept;"),
        ("nat", "INPUT", "type nat hook input priority 100; policy accept;"),
        ("filter", "FORWARD", "type filter hook forward priority 0; policy accept;"),
    ],
)
def test_a_base_chain_stands_where_its_table_is_asked(table: Table, hook: str, text: str) -> None:
    assert nft.base_text(table, hook) == text


def test_a_comment_cannot_end_its_string() -> None:
    rule = Rule((), ACCEPT, 'says "no"\nor \\', "-é")
    plan = Plan("istio-1.0", (), (RuleOperation("append", "ipv4", "filter", "INPUT", rule),))
    assert '\t\taccept comment "says  no  or   (- )"\n' in nft.render(plan)


def test_a_plan_without_rules_leaves_no_table() -> None:
    text = nft.render(Plan("istio-1.0", (), ()))
    assert text.splitlines()[1:] == [
        "table ip mesh-iptables",
        "delete table ip mesh-iptables",
        "table ip6 mesh-iptables",
        "delete table ip6 mesh-iptables",
    ]
