"""The original's commands, to the letter: what its own trace showed, with our clean-up in front."""

from __future__ import annotations

import pytest

from mesh_iptables.render.shell import quote, render

from ..argument_sets import ARGUMENT_SETS, plan_for

WORKED_EXAMPLE = """\
iptables -t nat -N ISTIO_REDIRECT
iptables -t nat -A ISTIO_REDIRECT -p tcp -j REDIRECT --to-port 15001
iptables -t nat -N ISTIO_IN_REDIRECT
iptables -t nat -A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-port 15001
iptables -t nat -N ISTIO_INBOUND
iptables -t nat -A PREROUTING -p tcp -j ISTIO_INBOUND
iptables -t nat -A ISTIO_INBOUND -p tcp --dport 9080 -j ISTIO_IN_REDIRECT
iptables -t nat -N ISTIO_OUTPUT
iptables -t nat -A OUTPUT -p tcp -j ISTIO_OUTPUT
iptables -t nat -A ISTIO_OUTPUT -o lo ! -d 127.0.0.1/32 -j ISTIO_REDIRECT
iptables -t nat -A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
iptables -t nat -A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
iptables -t nat -A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
iptables -t nat -A ISTIO_OUTPUT -j ISTIO_REDIRECT
ip6tables -F INPUT
ip6tables -A INPUT -m state --state ESTABLISHED -j ACCEPT
ip6tables -A INPUT -j REJECT
""".splitlines()


def commands(words: list[str], **environment: str) -> list[str]:
    """The commands behind the clean-up."""
    lines = render(plan_for(words, **environment)).splitlines()
    return [line for line in lines[lines.index("} 2>/dev/null") :] if line.startswith("ip")]


def test_the_worked_example() -> None:
    assert commands(ARGUMENT_SETS["worked example"]) == WORKED_EXAMPLE


def test_the_users_spelling_is_kept_and_quoted() -> None:
    lines = commands(["-u", "root", "-b", "0x50, 443", "-i", "10/8", "-x", "two.test"])
    assert "iptables -t nat -A ISTIO_INBOUND -p tcp --dport 0x50 -j ISTIO_IN_REDIRECT" in lines
    assert "iptables -t nat -A ISTIO_INBOUND -p tcp --dport ' 443' -j ISTIO_IN_REDIRECT" in lines
    assert "iptables -t nat -A ISTIO_OUTPUT -d 10/8 -j ISTIO_REDIRECT" in lines
    assert "iptables -t nat -A ISTIO_OUTPUT -m owner --uid-owner root -j RETURN" in lines


def test_a_host_of_several_addresses_has_one_command() -> None:
    lines = commands(["-u", "5", "-x", "two.test"])
    assert [line for line in lines if "two.test" in line] == ["iptables -t nat -A ISTIO_OUTPUT -d two.test -j RETURN"]


def test_tproxy_routes_by_mark_before_it_marks() -> None:
    lines = commands(["-m", "TPROXY", "-b", "80"], ISTIO_INBOUND_TPROXY_MARK="0x2a")
    rule = lines.index("ip -f inet rule add fwmark 0x2a lookup 133")
    assert lines[rule + 1] == "ip -f inet route add local default dev lo table 133"
    assert "iptables -t mangle -A ISTIO_DIVERT -j MARK --set-mark 0x2a" in lines
    assert [line for line in lines if line.endswith("--tproxy-mark 0x2a/0xffffffff --on-port 15001")]


def test_only_what_the_original_forgives_may_fail() -> None:
    forgiving = False
    for line in render(plan_for(["-m", "TPROXY", "-b", "80"])).partition("} 2>/dev/null\n")[2].splitlines():
        if line.startswith("set"):
            forgiving = line.startswith("set +e")
        elif line.startswith("ip"):
            assert forgiving == ("-m socket" in line or "ip6tables" in line or "route add" in line), line


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("!", "!"),
        (" 443", "' 443'"),
        ("", "''"),
        ("a'b", "'a'\"'\"'b'"),
        ("$(x)", "'$(x)'"),
    ],
)
def test_words_are_quoted_for_a_shell(word: str, quoted: str) -> None:
    assert quote(word) == quoted
