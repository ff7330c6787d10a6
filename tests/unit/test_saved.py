"""Reading `iptables-save` text: our vocabulary by name, everything else as it stands."""

from __future__ import annotations

import pytest

from mesh_iptables.model import (
    Address,
    Jump,
    Network,
    NoTarget,
    Owner,
    Plan,
    Protocol,
    Reject,
    Rule,
    Unknown,
)
from mesh_iptables.render.iptables import saved
from mesh_iptables.render.restore import FAMILIES, restore_text, saved_lines
from mesh_iptables.ruleset import after
from mesh_iptables.saved import read_rule, read_ruleset, split_quoted

from .argument_sets import ARGUMENT_SETS, plan_for

LINES = (
    "-p tcp -j ISTIO_INBOUND",
    "! -s 10.0.0.0/8 -d 10.0.2.0/255.0.255.0 ! -i eth+ -o lo ! -p udp -j ACCEPT",
    "-p tcp -m tcp ! --sport 80 -m tcp --dport 8000:8010 -j DROP",
    "-p tcp -m multiport ! --dports 53,15008,80:90 -j RETURN",
    "-m owner ! --uid-owner 1000-2000 -m owner --gid-owner 5 -g OTHER",
    "-m conntrack ! --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT",
    "-m mark ! --mark 0x1/0xff -m connmark --mark 0x539 -j MARK --set-xmark 0x539/0xffffffff",
    "-p tcp -m socket -j TPROXY --on-port 15001 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff",
    "-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
    "-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
    "-p udp -m udp --dport 53 -j CT --zone 1",
    "-j REDIRECT --to-ports 15001-15003",
    "-j REJECT --reject-with tcp-reset",
    "-p tcp",
)


@pytest.mark.parametrize("line", LINES)
def test_a_known_rule_is_written_as_it_was_read(line: str) -> None:
    rule = read_rule(line, "ipv4")
    assert saved(rule, "ipv4") == line
    assert not [match for match in rule.matches if isinstance(match, Unknown)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('-m comment --comment "a -j DROP \\" b" -j RETURN', ("-m", "comment", "--comment", 'a -j DROP " b')),
        ("-m recent --rcheck --name x -j RETURN", ("-m", "recent", "--rcheck", "--name", "x")),
        ("-p tcp -m tcp --tcp-flags SYN SYN -j RETURN", ("-m", "tcp", "--tcp-flags", "SYN", "SYN")),
        ("-m owner --socket-exists -j RETURN", ("-m", "owner", "--socket-exists")),
        ("-m socket --transparent -j RETURN", ("-m", "socket", "--transparent")),
    ],
)
def test_a_foreign_match_keeps_its_words(line: str, words: tuple[str, ...]) -> None:
    assert Unknown(words) in read_rule(line, "ipv4").matches


def test_a_foreign_target_keeps_its_words_and_is_no_jump() -> None:
    text = "*nat\n:POSTROUTING ACCEPT [0:0]\n:MINE - [0:0]\n-A POSTROUTING -j MASQUERADE\n-A POSTROUTING -j MINE\n"
    rules = read_ruleset({"ipv4": text}).chains["ipv4", "nat", "POSTROUTING"]
    assert [rule.target for rule in rules] == [Unknown(("-j", "MASQUERADE")), Jump("MINE")]
    assert read_rule("-j DNAT --to-destination 1.2.3.4", "ipv4").target == Unknown(
        ("-j", "DNAT", "--to-destination", "1.2.3.4")
    )


def test_both_families_policies_and_counters_are_read() -> None:
    v4 = "*filter\n:INPUT DROP [1:2]\n:MINE - [0:0]\n[3:4] -A INPUT -p tcp -j MINE\nCOMMIT\n"
    v6 = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -d fd00::/8 -j REJECT --reject-with icmp6-port-unreachable\nCOMMIT\n"
    ruleset = read_ruleset({"ipv4": v4, "ipv6": v6})
    assert ruleset.policies == {("ipv4", "filter", "INPUT"): "DROP"}
    assert ruleset.chains == {
        ("ipv4", "filter", "MINE"): [],
        ("ipv4", "filter", "INPUT"): [Rule((Protocol("tcp"),), Jump("MINE"))],
        ("ipv6", "filter", "INPUT"): [Rule((Address("destination", Network(6, 0xFD << 120, 0xFF << 120)),), Reject())],
    }


def test_quoted_words_are_one_word() -> None:
    assert split_quoted('a "b c" d') == ["a", "b c", "d"]
    assert read_rule("-m owner --uid-owner 5", "ipv4") == Rule((Owner("uid", 5, 5),), NoTarget())


@pytest.mark.parametrize("words", ARGUMENT_SETS.values(), ids=ARGUMENT_SETS)
def test_what_a_plan_leaves_reads_back_as_the_same_rules(words: list[str]) -> None:
    ruleset = after(plan_for(words))
    lines = {family: saved_lines(ruleset, family) for family in FAMILIES}
    back = read_ruleset({family: restore_text(found) for family, found in lines.items()})
    assert {family: saved_lines(back, family) for family in FAMILIES} == lines


def test_an_empty_plan_leaves_nothing() -> None:
    assert after(Plan("istio-1.0", (), ())).chains == {}
