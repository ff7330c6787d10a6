"""Runs after runs: the same again changes nothing, others swap, `clean` takes all of ours and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .backends import EVERY, WORDS, kernel_text, make_legacy_tables, needs_iptc, own_rules
from .namespace import Namespace

MakeNamespace = Callable[[], Namespace]
REDIRECT = ("-u", "1337", "-b", "80,8000:8100", "-i", "*", "-x", "10.0.0.0/8")
TPROXY = ("-u", "1338", "-m", "TPROXY", "-b", "80,443", "-i", "10.0.0.0/8")
WITH_PROGRAMS = ["legacy", "nft", pytest.param("iptc", marks=needs_iptc)]
FOREIGN = """
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:ISTIO_OUTPUT - [0:0]
-A OUTPUT -j ISTIO_OUTPUT
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:MY_ISTIO_INBOUND - [0:0]
-A PREROUTING -p tcp -m tcp --dport 1 -j MY_ISTIO_INBOUND
-A PREROUTING -p tcp -m comment --comment "-j ISTIO_INBOUND" -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:ISTIO_OUTPUT_MINE - [0:0]
-A PREROUTING -p udp -j ACCEPT
-A OUTPUT -p tcp -j ISTIO_OUTPUT_MINE
-A OUTPUT -p tcp -j ISTIO_OUTPUT_MINE
-A POSTROUTING -s 10.0.0.0/255.0.255.0 -j MASQUERADE
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:empty - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m state --state ESTABLISHED -j ACCEPT
COMMIT
"""
FOREIGN6 = """
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:ISTIO_INBOUND - [0:0]
-A INPUT -p ipv6-icmp -j ACCEPT
-A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A OUTPUT -p tcp -j REDIRECT --to-ports 7
COMMIT
"""


def put_foreign_rules(namespace: Namespace) -> None:
    """Rules, chains and policies of others in every table of both flavours, some with names much like ours."""
    make_legacy_tables(namespace)
    for flavour in ("legacy", "nft"):
        namespace.run(f"iptables-{flavour}-restore", stdin=FOREIGN)
        namespace.run(f"ip6tables-{flavour}-restore", stdin=FOREIGN6)
    namespace.run("ip", "rule", "add", "fwmark", "0x539", "lookup", "77")
    namespace.run("ip", "rule", "add", "fwmark", "0x77", "lookup", "134")
    namespace.run("ip", "route", "add", "unreachable", "10.9.9.0/24", "table", "77")


def run_original(namespace: Namespace, flavour: str, *words: str) -> None:
    """What istio-iptables.sh does: its commands one by one."""
    script = namespace.mesh_iptables("render", "--format", "shell", *words).stdout
    for family in ("iptables", "ip6tables"):
        script = script.replace(f"\n{family} ", f"\n{family}-{flavour} ")
    namespace.run("sh", stdin=script.replace("ip6tables-legacy -F INPUT", ":").replace("ip6tables-nft -F INPUT", ":"))


def flavour_of(backend: str) -> str:
    return "nft" if backend == "nft" else "legacy"


@pytest.mark.parametrize("words", [REDIRECT, TPROXY], ids=["REDIRECT", "TPROXY"])
@pytest.mark.parametrize("backend", EVERY)
def test_the_same_again_changes_not_even_a_counter(backend: str, words: tuple[str, ...], namespace: Namespace) -> None:
    put_foreign_rules(namespace)
    namespace.mesh_iptables("apply", *WORDS[backend], *words)
    namespace.run("ip", "route", "add", "local", "10.5.0.0/16", "dev", "lo")
    connect = "import socket; socket.socket().connect_ex(('10.5.1.1', 81))"
    namespace.run("python3", "-c", connect)
    before = kernel_text(namespace, counters=True)
    for _ in range(2):
        namespace.mesh_iptables("apply", *WORDS[backend], *words)
        assert kernel_text(namespace, counters=True) == before


@pytest.mark.parametrize("backend", EVERY)
def test_other_settings_leave_what_they_leave_alone(backend: str, make_namespace: MakeNamespace) -> None:
    fresh = {}
    for words in (REDIRECT, TPROXY):
        namespace = make_namespace()
        namespace.mesh_iptables("apply", *WORDS[backend], *words)
        fresh[words] = (own_rules(namespace, backend), routing(namespace))
    for words in (REDIRECT, TPROXY, REDIRECT):
        namespace.mesh_iptables("apply", *WORDS[backend], *words)
        assert (own_rules(namespace, backend), routing(namespace)) == fresh[words]
    assert "133" not in routing(namespace)


def routing(namespace: Namespace) -> str:
    """Policy rules, without their preferences, and all routes."""
    rules = [line.partition(":")[2] for line in namespace.run("ip", "rule").stdout.splitlines()]
    return "\n".join(rules) + namespace.run("ip", "route", "show", "table", "all").stdout


@pytest.mark.parametrize("backend", WITH_PROGRAMS)
def test_what_the_original_left_doubled_is_cleaned_and_nothing_else(backend: str, namespace: Namespace) -> None:
    flavour = flavour_of(backend)
    iptables, ip6tables = f"iptables-{flavour}", f"ip6tables-{flavour}"
    put_foreign_rules(namespace)
    before = kernel_text(namespace)
    run_original(namespace, flavour, *TPROXY)
    run_original(namespace, flavour, *REDIRECT)
    run_original(namespace, flavour, *TPROXY)
    for table, chain, target in (("nat", "OUTPUT", "ISTIO_OUTPUT"), ("mangle", "PREROUTING", "ISTIO_INBOUND")):
        namespace.run(iptables, "-t", table, "-I", chain, "-p", "tcp", "-j", target)
        namespace.run(iptables, "-t", table, "-A", chain, "-p", "tcp", "-j", target)
    namespace.run("ip", "rule", "add", "fwmark", "1337", "lookup", "133", "pref", "77")
    assert namespace.run("ip", "rule").stdout.count("lookup 133") == 3
    assert len([line for line in own_rules(namespace, backend)[f"{ip6tables}-save"] if "REJECT" in line]) == 3
    namespace.mesh_iptables("clean", *WORDS[backend])
    assert kernel_text(namespace) == before


@pytest.mark.parametrize("backend", WITH_PROGRAMS)
def test_one_apply_after_the_original_leaves_one_set(backend: str, make_namespace: MakeNamespace) -> None:
    fresh, used = make_namespace(), make_namespace()
    fresh.mesh_iptables("apply", *WORDS[backend], *TPROXY)
    for _ in range(2):
        run_original(used, flavour_of(backend), *TPROXY)
    used.run(f"iptables-{flavour_of(backend)}", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-j", "ISTIO_OUTPUT")
    used.mesh_iptables("apply", *WORDS[backend], *TPROXY)
    assert own_rules(used, backend) == own_rules(fresh, backend)
    assert routing(used) == routing(fresh)


@pytest.mark.parametrize("backend", WITH_PROGRAMS)
def test_a_foreign_rule_in_the_words_of_ours_keeps_its_place(backend: str, namespace: Namespace) -> None:
    ip6tables = f"ip6tables-{flavour_of(backend)}"
    namespace.run(ip6tables, "-A", "INPUT", "-m", "state", "--state", "ESTABLISHED", "-j", "ACCEPT")
    namespace.run(ip6tables, "-A", "INPUT", "-p", "tcp", "-j", "DROP")
    before = own_rules(namespace, backend)
    namespace.mesh_iptables("apply", *WORDS[backend], *REDIRECT)
    namespace.mesh_iptables("clean", *WORDS[backend])
    assert own_rules(namespace, backend) == before


@pytest.mark.parametrize("backend", WITH_PROGRAMS)
def test_a_foreign_jump_into_a_chain_of_ours_is_kept_and_told(backend: str, namespace: Namespace) -> None:
    iptables = f"iptables-{flavour_of(backend)}"
    namespace.mesh_iptables("apply", *WORDS[backend], *REDIRECT)
    namespace.run(iptables, "-t", "nat", "-A", "OUTPUT", "-d", "9.9.9.9", "-j", "ISTIO_REDIRECT")
    for _ in range(2):
        done = namespace.mesh_iptables("clean", *WORDS[backend])
        assert own_rules(namespace, backend)[f"{iptables}-save"] == ["-A OUTPUT -d 9.9.9.9/32 -j ISTIO_REDIRECT"]
    assert done.stdout == "Only cleaning, no new rules added\n"
    namespace.mesh_iptables("apply", *WORDS[backend], *REDIRECT)
    rules = own_rules(namespace, backend)[f"{iptables}-save"]
    assert rules.index("-A OUTPUT -d 9.9.9.9/32 -j ISTIO_REDIRECT") < rules.index("-A OUTPUT -p tcp -j ISTIO_OUTPUT")
    assert "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001" in rules


@pytest.mark.parametrize("backend", EVERY)
def test_clean_where_nothing_is_changes_nothing(backend: str, namespace: Namespace) -> None:
    before = kernel_text(namespace)
    assert namespace.mesh_iptables("clean", *WORDS[backend]).stdout == "Only cleaning, no new rules added\n"
    assert kernel_text(namespace) == before


@pytest.mark.parametrize("words", [REDIRECT, TPROXY], ids=["REDIRECT", "TPROXY"])
@pytest.mark.parametrize("backend", EVERY)
def test_clean_after_our_own_leaves_the_others(backend: str, words: tuple[str, ...], namespace: Namespace) -> None:
    put_foreign_rules(namespace)
    before = kernel_text(namespace)
    namespace.mesh_iptables("apply", *WORDS[backend], *words)
    assert kernel_text(namespace) != before
    namespace.mesh_iptables("clean", *WORDS[backend])
    assert kernel_text(namespace) == before
