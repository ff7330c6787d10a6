"""What our readers make of a value, iptables makes of it too; what they refuse, it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mesh_iptables.model import RETURN, Address, Owner, Ports, Protocol, Redirect, Rule
from mesh_iptables.names import SystemNames
from mesh_iptables.render.iptables import saved
from mesh_iptables.spelling import Misspelt, parse_networks, parse_owner, parse_port_range, parse_redirect_ports

from ..unit import test_spelling as unit
from .namespace import Namespace

NAMES = SystemNames()
TCP = Protocol("tcp")


def _ports(text: str) -> list[Rule]:
    return [Rule((TCP, Ports("destination", (parse_port_range(text, NAMES),))), RETURN)]


def _redirect(text: str) -> list[Rule]:
    return [Rule((TCP,), Redirect(parse_redirect_ports(text, NAMES)))]


def _networks(text: str) -> list[Rule]:
    return [Rule((Address("destination", network),), RETURN) for network in parse_networks(text, NAMES)]


def _owner(text: str) -> list[Rule]:
    owner: Owner = parse_owner("uid", text, NAMES)
    return [Rule((owner,), RETURN)]


KINDS: dict[str, tuple[Callable[[str], list[Rule]], list[str], list[str]]] = {
    "dport": (_ports, ["-p", "tcp", "--dport", "{}", "-j", "RETURN"], [*unit.PORT_RANGES, *unit.NO_PORT_RANGES]),
    "to-port": (
        _redirect,
        ["-p", "tcp", "-j", "REDIRECT", "--to-port", "{}"],
        [*unit.REDIRECT_PORTS, *unit.NO_REDIRECT],
    ),
    "network": (_networks, ["-d", "{}", "-j", "RETURN"], [*unit.NETWORKS, *unit.NO_NETWORKS, "localhost"]),
    "owner": (_owner, ["-m", "owner", "--uid-owner", "{}", "-j", "RETURN"], [*unit.OWNERS, *unit.NO_OWNERS]),
}
# Values that no argument can carry, that would ask a resolver, or that we refuse on purpose: a line break in a number.
LEFT_OUT = ("\0", "\udcff", "\n", ".test")


@pytest.mark.parametrize("kind", KINDS)
def test_iptables_reads_every_value_as_we_do(kind: str, namespace: Namespace) -> None:
    read, words, values = KINDS[kind]
    namespace.run("iptables-legacy", "-t", "nat", "-N", "X")
    for value in values:
        if any(part in value for part in LEFT_OUT) or len(value) > 1000:
            continue
        namespace.run("iptables-legacy", "-t", "nat", "-F", "X")
        arguments = [word.format(value) for word in words]
        taken = namespace.run("iptables-legacy", "-t", "nat", "-A", "X", *arguments, check=False).returncode == 0
        lines = [line.removeprefix("-A X ") for line in namespace.saved()["iptables-legacy-save"]]
        try:
            expected = [saved(rule, "ipv4") for rule in read(value)]
        except Misspelt:
            expected = []
        assert (taken, lines) == (bool(expected), expected), value
