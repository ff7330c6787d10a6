"""However the rules get into the kernel, the same rules are there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mesh_iptables.model import RouteMarked
from mesh_iptables.ruleset import after

from ..unit.argument_sets import plan_for
from .namespace import Namespace

MakeNamespace = Callable[[], Namespace]
# Names that every machine has; those of the unit tests are of no machine.
ARGUMENT_SETS: dict[str, list[str]] = {
    "nothing": [],
    "worked example": ["-p", "15001", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "9080,", "-d", ""],
    "all in, all out": ["-u", "1337", "-b", "*", "-d", "15020,15090", "-i", "*", "-x", "169.254.169.254/32"],
    "odd spellings": ["-p", "0x3a99", "-u", "02471,root,5:7", "-g", "root", "-b", "80, 443,http,8000:,:", "-x", "10/8"],
    "odd networks": ["-u", "1", "-i", "0/0,10.1.2.3/255.0.255.0,167772161", "-x", "any/0, 10.9.9.9/255.255.0.0"],
    "host name": ["-u", "1", "-i", "localhost"],
    "tproxy all": ["-u", "1337", "-m", "TPROXY", "-b", "*", "-d", "22,22", "-i", "*"],
    "tproxy listed": ["-u", "1337", "-m", "TPROXY", "-b", "80, 443", "-i", "10.0.0.0/8"],
    "range of proxy ports": ["-p", "15001-15003", "-b", "80,80,80", "-u", "5"],
}
FLAVOURS = ("legacy", "nft")


TABLES = (("iptables", "mangle"), ("iptables", "nat"), ("ip6tables", "filter"))


def rules(namespace: Namespace, flavour: str) -> tuple[list[list[str]], str, str]:
    """The rules table by table (their order is the kernel's affair), `ip rule`, and the routes of marked packets."""
    texts = [namespace.run(f"{program}-{flavour}-save", "-t", table, check=False).stdout for program, table in TABLES]
    return (
        [[line for line in text.splitlines() if line.startswith("-A")] for text in texts],
        namespace.run("ip", "rule").stdout,
        namespace.run("ip", "route", "show", "table", "133", check=False).stdout,
    )


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("words", ARGUMENT_SETS.values(), ids=ARGUMENT_SETS)
def test_apply_and_both_printed_forms_leave_the_same_rules(
    words: list[str], flavour: str, make_namespace: MakeNamespace
) -> None:
    applied, restored, scripted = (make_namespace() for _ in range(3))
    applied.mesh_iptables("apply", "--iptables", flavour, *words)
    feed_restore(restored, flavour, restored.mesh_iptables("render", "--format", "restore", *words).stdout)
    script = scripted.mesh_iptables("render", *words).stdout
    for family in ("iptables", "ip6tables"):
        script = script.replace(f"\n{family} ", f"\n{family}-{flavour} ")
    scripted.run("sh", stdin=script)
    assert rules(applied, flavour) == rules(restored, flavour) == rules(scripted, flavour)


def feed_restore(namespace: Namespace, flavour: str, text: str) -> None:
    """Give each part of the restore format to the program that the comment above it names."""
    ipv4, _, ipv6 = text.partition("# ip6tables-restore --noflush\n")
    namespace.run(f"iptables-{flavour}-restore", "--noflush", stdin=ipv4)
    namespace.run(f"ip6tables-{flavour}-restore", "--noflush", stdin=ipv6)
    for line in ipv6.splitlines():
        if line.startswith("# ip -f"):
            namespace.run(*line.removeprefix("# ").split())


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_what_the_kernel_prints_is_what_the_plan_says(flavour: str, namespace: Namespace) -> None:
    words = ARGUMENT_SETS["tproxy listed"]
    namespace.mesh_iptables("apply", "--iptables", flavour, *words)
    text = namespace.mesh_iptables("render", "--format", "restore", *words).stdout
    tables, rule, route = rules(namespace, flavour)
    assert [line for lines in tables for line in lines] == [line for line in text.splitlines() if line.startswith("-A")]
    assert "from all fwmark 0x539 lookup 133" in rule
    assert route.split() == ["local", "default", "dev", "lo", "scope", "host"]
    assert after(plan_for(words)).routes == [RouteMarked("ipv4", 0x539, 133)]


def test_the_run_prints_its_settings_and_the_rules_that_resulted(namespace: Namespace) -> None:
    out = namespace.mesh_iptables("-p", "15001", "-u", "1337", "-b", "9080,", "-i", "*").stdout
    assert out.startswith("Environment:\n------------\nENVOY_PORT=15001\n")
    assert "\nPROXY_UID=1337\n" in out
    assert "\n-A ISTIO_INBOUND -p tcp -m tcp --dport 9080 -j ISTIO_IN_REDIRECT\n" in out
    assert "\n-A INPUT -j REJECT --reject-with icmp6-port-unreachable\n" in out


def test_the_flavour_in_use_is_the_one_that_is_taken(make_namespace: MakeNamespace) -> None:
    for flavour in FLAVOURS:
        namespace = make_namespace()
        namespace.run(f"iptables-{flavour}", "-t", "nat", "-A", "OUTPUT", "-d", "1.2.3.4", "-j", "ACCEPT")
        namespace.mesh_iptables("-u", "1337", "-i", "*")
        assert [line for line in namespace.saved()[f"iptables-{flavour}-save"] if "ISTIO_OUTPUT" in line]


def test_another_namespace_is_entered_by_name_and_by_path(make_namespace: MakeNamespace) -> None:
    here = make_namespace()
    for there, form in ((make_namespace(), "{}"), (make_namespace(), "/run/netns/{}")):
        here.mesh_iptables("apply", "--netns", form.format(there.name), "-u", "1337", "-i", "*")
        assert any(there.saved().values())
    assert not any(here.saved().values())
