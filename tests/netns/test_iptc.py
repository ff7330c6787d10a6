"""libiptc leaves what iptables-restore leaves, for every argument set, and prints what iptables-save prints."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings

from mesh_iptables.apply.restore import RestoreBackend
from mesh_iptables.model import (
    ACCEPT,
    Address,
    ConnectionMark,
    ConnState,
    Interface,
    Jump,
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
    SaveMark,
    SetMark,
    Socket,
    Tproxy,
    Zone,
)
from mesh_iptables.options import configure, gather, split_words
from mesh_iptables.plan import istio_1_0
from mesh_iptables.render.iptables import saved

from ..property.test_rules import ARGUMENTS, ENVIRONMENTS, plan_for
from ..unit import argument_sets
from ..unit.names import FewNames
from .backends import kernel_text
from .namespace import Namespace, new_namespace

pytest.importorskip("iptc")
from mesh_iptables.apply.entry import build_entry, entry_line
from mesh_iptables.apply.iptc import IptcBackend
from mesh_iptables.apply.libiptc import Library, captured, options

if TYPE_CHECKING:
    from mesh_iptables.model import Family

ONE_NAMESPACE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ODD: dict[str, tuple[list[str], dict[str, str]]] = {
    "spellings": (["-p", "0x3a99", "-u", "02471,root,5:7", "-b", "80, 443,http,8000:,:", "-x", "10/8,10.9"], {}),
    "holes": (
        ["-u", "1", "-i", "0/0,10.1.2.3/255.0.255.0,167772161,1.2.3.4/0.0.0.255", "-x", "9.9.9.9/255.255.0.0"],
        {},
    ),
    "capture port": (["-u", "1337", "-b", "*", "-d", "1,2,3:4"], {"INBOUND_CAPTURE_PORT": "15006-15008"}),
    "mark": (["-m", "TPROXY", "-b", "*"], {"ISTIO_INBOUND_TPROXY_MARK": "0xffffffff", "ENABLE_INBOUND_IPV6": "x"}),
    "no lockdown": (["-u", "1337", "-i", "*"], {"ENABLE_INBOUND_IPV6": "1"}),
    "lowest and highest": (["-p", "0", "-u", "0,4294967294", "-g", "0-4294967294", "-b", "0,65535,0:65535"], {}),
}
FOREIGN = """
*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:mine - [0:0]
:Z-last - [0:0]
-A FORWARD ! -s 10.0.0.0/255.0.255.0 ! -d 1.2.3.4/32 -i eth+ ! -o lo -p udp -m udp ! --sport 5:6 --dport 53 -j mine
-A INPUT -f -j DROP
-A OUTPUT -m owner ! --uid-owner 0-5 -j RETURN
-A INPUT -p gre -g mine
-A INPUT -p 253 -m limit --limit 3/min --limit-burst 7 -j LOG --log-prefix "a \\"b\\" -j ISTIO_OUTPUT " --log-level 6
-A INPUT ! -p icmp -m comment --comment "-A ISTIO_OUTPUT -j x" -m state ! --state INVALID,NEW
-A INPUT -p icmp -m icmp --icmp-type 8/0 -m ttl --ttl-gt 3 -j REJECT --reject-with icmp-host-prohibited
-A mine -p tcp -m tcp ! --tcp-flags SYN,RST,ACK SYN -m multiport ! --dports 1,2:3 -j RETURN
-A mine -m conntrack --ctstate RELATED,ESTABLISHED --ctproto 6 -m mark ! --mark 0x1/0xff -m connmark --mark 0x5
-A mine -m statistic --mode random --probability 0.50000000000 -m iprange --src-range 1.1.1.1-1.1.1.9 -j Z-last
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1:8080-8090
-A POSTROUTING -j MASQUERADE --random
COMMIT
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -j CT --zone 5
-A OUTPUT -j NOTRACK
COMMIT
"""
FOREIGN6 = """
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:mine - [0:0]
-A INPUT -s fd00::/8 ! -d fd00::1/128 -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j ACCEPT
-A INPUT -s fd00::1/ffff::ffff -i lo -m state --state ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m tcp --dport 1:2 -g mine
-A INPUT -j REJECT --reject-with icmp6-adm-prohibited
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A OUTPUT -p tcp -j REDIRECT --to-ports 7-9
-A POSTROUTING -j SNAT --to-source fd00::9
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -j TPROXY --on-port 15001 --on-ip :: --tproxy-mark 0x539/0xffffffff
COMMIT
"""


@pytest.fixture
def lock() -> Iterator[socket.socket]:
    """A stand-in for the lock: these tests are alone in their namespaces."""
    with socket.socket(socket.AF_UNIX) as held:
        yield held


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Namespace, Namespace]]:
    with new_namespace() as one, new_namespace() as other:
        yield one, other


def settled(words: list[str], environment: dict[str, str]) -> Plan:
    found = gather(split_words(words).rules, environment, lambda _: None, dry_run=True)
    return istio_1_0.plan(configure(found, FewNames(), dry_run=True))


def assert_same(pair: tuple[Namespace, Namespace], lock: socket.socket, plan: Plan) -> None:
    """Both backends, each over what the last plan left in its namespace, leave the same text."""
    with pair[0].entered():
        IptcBackend(lock, wait=30).apply(plan)
    with pair[1].entered():
        RestoreBackend("legacy", lock).apply(plan)
    for program in ("iptables-legacy-save", "ip6tables-legacy-save"):
        assert tables(pair[0], program) == tables(pair[1], program)


def tables(namespace: Namespace, program: str) -> dict[str, str]:
    """The text of each table, chains and policies included; their order is the kernel's affair."""
    parts = kernel_text(namespace)[program].split("COMMIT")
    return {name: text for name, _, text in (part.strip().partition("\n") for part in parts)}


@pytest.mark.parametrize("words", argument_sets.ARGUMENT_SETS.values(), ids=argument_sets.ARGUMENT_SETS)
def test_the_same_rules_as_from_the_restore_programs(
    words: list[str], pair: tuple[Namespace, Namespace], lock: socket.socket
) -> None:
    assert_same(pair, lock, argument_sets.plan_for(words))


@pytest.mark.parametrize(("words", "environment"), ODD.values(), ids=ODD)
def test_the_same_rules_for_odd_settings(
    words: list[str], environment: dict[str, str], pair: tuple[Namespace, Namespace], lock: socket.socket
) -> None:
    assert_same(pair, lock, settled(words, environment))


@ONE_NAMESPACE
@given(words=ARGUMENTS, environment=ENVIRONMENTS)
def test_the_same_rules_for_any_settings(
    pair: tuple[Namespace, Namespace], lock: socket.socket, words: list[str], environment: dict[str, str]
) -> None:
    assert_same(pair, lock, plan_for(words, environment))


TCP = Protocol("tcp")
NET4, NET6 = Network(4, 0x0A000500, 0xFF00FF00), Network(6, 0xFD << 120, 0xFF << 120)
WHOLE_VOCABULARY = [
    Rule((TCP, Ports("source", (PortRange(1, 2),), True), Ports("destination", (PortRange(3, 3),))), ACCEPT),
    Rule((TCP, Ports("destination", (PortRange(1, 2), PortRange(7, 7)), True)), Jump("other", goto=True)),
    Rule((Interface("in", "eth+", True), Interface("out", "a23456789012345")), NoTarget()),
    Rule((Owner("uid", 5, 9, True), Owner("gid", 0, 0)), ACCEPT),
    Rule((Protocol("udp", True), PacketMark(0, 0xFF, True), ConnectionMark(1)), SetMark(0xFFFFFFFF)),
    Rule((ConnState(("RELATED", "ESTABLISHED"), negated=True), ConnState(("INVALID",), "state")), Zone(65535)),
    Rule((TCP, Socket()), SaveMark()),
    Rule((Protocol("253"),), RestoreMark()),
    Rule((TCP,), Redirect(PortRange(5, 7))),
    Rule((TCP,), Tproxy(PortRange(15001, 15001), 0x539)),
    Rule((TCP,), Reject("tcp-reset")),
    Rule((), Reject()),
]


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("rule", WHOLE_VOCABULARY, ids=lambda rule: saved(rule, "ipv4"))
def test_the_kernels_form_reads_back_as_the_rule(rule: Rule, family: Family, namespace: Namespace) -> None:
    network = NET4 if family == "ipv4" else NET6
    whole = rule.replace(matches=(Address("source", network, True), Address("destination", network), *rule.matches))
    with namespace.entered():
        library = Library()
        assert entry_line(build_entry(whole, family, library), family, library) == saved(whole, family)


@pytest.mark.parametrize("plan", [settled(["-u", "1337", "-m", "TPROXY", "-b", "80", "-i", "*"], {})])
def test_foreign_rules_are_printed_as_by_the_tools_and_kept(
    plan: Plan, namespace: Namespace, lock: socket.socket
) -> None:
    namespace.run("iptables-legacy-restore", stdin=FOREIGN)
    namespace.run("ip6tables-legacy-restore", stdin=FOREIGN6)
    namespace.run("iptables-legacy", "-t", "mangle", "-S")
    before = kernel_text(namespace, counters=True)
    with namespace.entered():
        backend = IptcBackend(lock, wait=30)
        assert backend.dump().splitlines() == tool_dump(namespace)
        assert backend.read() == RestoreBackend("legacy", lock).read()
        backend.apply(plan)
        assert backend.dump().splitlines() == tool_dump(namespace)
        assert backend.marks() == {1337}
        assert kernel_text(namespace, counters=True) != before
        backend.apply(Plan("istio-1.0", (), ()))
    assert kernel_text(namespace, counters=True) == before


def tool_dump(namespace: Namespace) -> list[str]:
    texts = [namespace.run(f"{program}-legacy-save").stdout for program in ("iptables", "ip6tables")]
    return [line for text in texts for line in text.splitlines() if not line.startswith("#")]


def test_a_second_run_opens_no_table_anew(namespace: Namespace, lock: socket.socket) -> None:
    plan = settled(["-u", "1337", "-m", "TPROXY", "-b", "80", "-i", "*"], {})
    with namespace.entered():
        assert IptcBackend(lock, wait=30).apply(plan).added
        namespace.run("iptables-legacy", "-t", "nat", "-Z")
        assert IptcBackend(lock, wait=30).apply(plan).added == ()


def test_foreign_tables_of_a_fresh_namespace_stay_unmade(namespace: Namespace, lock: socket.socket) -> None:
    with namespace.entered():
        backend = IptcBackend(lock, wait=30)
        backend.apply(Plan("istio-1.0", (), ()))
        assert (backend.dump(), backend.marks()) == ("", frozenset())
    assert namespace.run("iptables-legacy-save").stdout == ""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-m", "socket"], []),
        (["-m", "x", "!", "--a", "1", "--b"], [(True, "a", ["1"]), (False, "b", [])]),
        (["-m", "x", "--b", "!", "--c", "2", "3"], [(False, "b", []), (True, "c", ["2", "3"])]),
    ],
)
def test_options_of_an_extension(words: list[str], expected: list[tuple[bool, str, list[str]]]) -> None:
    assert [(negated, option, list(values)) for negated, option, values in options(words)] == expected


def test_importing_starts_no_program_and_leaves_no_trace() -> None:
    check = """
import ctypes.util, os, sys
find, environment, before = ctypes.util.find_library, dict(os.environ), os.environ.get("XTABLES_LIBDIR")
sys.addaudithook(lambda event, _: event in ("os.fork", "os.posix_spawn", "subprocess.Popen") and sys.exit(event))
from mesh_iptables.apply.libiptc import Library
Library()
assert ctypes.util.find_library is find and dict(os.environ) == environment
import iptc
assert iptc.easy and iptc.Table
"""
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_standard_output_is_none_afterwards(make_namespace: Callable[[], Namespace]) -> None:
    check = """
import os
os.close(1)
from mesh_iptables.apply.libiptc import captured
with captured(1) as text:
    os.write(1, b"x")
try:
    os.fstat(1)
except OSError:
    os._exit(0 if text == ["x"] else 2)
os._exit(3)
"""
    assert make_namespace().run(sys.executable, "-c", check).returncode == 0
    with captured(2) as text:
        pass
    assert text == [""]
