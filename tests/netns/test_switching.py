"""From one way into the kernel to another: nothing of the old one stays, and no connection slips through meanwhile."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from .namespace import Namespace
from .probes import APP_UID, INCLUDED, Probe, World, new_world
from .test_traffic_matrix import BACKENDS, TOOLS_BY_BACKEND, has_backend

TPROXY = ("-u", "1337", "-m", "TPROXY", "-b", "8080", "-i", "10.88.0.0/24")
REDIRECT = ("-u", "1337", "-b", "8080", "-i", "10.88.0.0/24")
SWITCHES = list(itertools.permutations(BACKENDS, 2))


def ours(namespace: Namespace) -> dict[str, list[str]]:
    """The tools that print rules of ours, and those rules."""
    found = {
        name: [line for line in lines if "ISTIO" in line or "INPUT" in line]
        for name, lines in namespace.saved().items()
        if name != "nft"
    }
    tables = namespace.run("nft", "list", "tables").stdout.splitlines()
    found["nft"] = [line for line in tables if line.endswith(" mesh-iptables")]
    return {name: lines for name, lines in found.items() if lines}


def marks(namespace: Namespace) -> list[str]:
    return [
        line.partition("fwmark ")[2] for line in namespace.run("ip", "rule").stdout.splitlines() if "fwmark" in line
    ]


@pytest.mark.parametrize(("old", "new"), SWITCHES)
def test_only_the_rules_of_the_last_backend_are_there(old: str, new: str, namespace: Namespace) -> None:
    has_backend(old)
    has_backend(new)
    mark = {"ISTIO_INBOUND_TPROXY_MARK": "77"}
    namespace.mesh_iptables("apply", *BACKENDS[old], *TPROXY, env=mark)
    assert set(ours(namespace)) == TOOLS_BY_BACKEND[old]
    assert marks(namespace) == ["0x4d lookup 133"]
    namespace.mesh_iptables("apply", *BACKENDS[new], *TPROXY)
    assert set(ours(namespace)) == TOOLS_BY_BACKEND[new]
    assert marks(namespace) == ["0x539 lookup 133"]
    namespace.mesh_iptables("clean", *BACKENDS[old])
    assert ours(namespace) == {}
    assert marks(namespace) == []


@pytest.mark.parametrize("last", BACKENDS)
def test_clean_finds_rules_everywhere(last: str, namespace: Namespace) -> None:
    has_backend(last)
    rule = "*nat\n:ISTIO_OUTPUT - [0:0]\n-A OUTPUT -p tcp -j ISTIO_OUTPUT\n-A ISTIO_OUTPUT -j RETURN\nCOMMIT\n"
    for flavour in ("legacy", "nft"):
        namespace.run(f"iptables-{flavour}-restore", "--noflush", stdin=rule)
    namespace.run("nft", "add table ip mesh-iptables; add table ip6 mesh-iptables")
    assert len(ours(namespace)) == 3
    namespace.mesh_iptables("clean", *BACKENDS[last])
    assert ours(namespace) == {}


def test_what_cannot_be_looked_at_is_a_warning_of_apply_and_an_error_of_clean(namespace: Namespace) -> None:
    namespace.mesh_iptables("apply", *BACKENDS["restore-legacy"], *REDIRECT)
    # As in an image with nft alone.
    script = (
        'mount --bind /dev/null "$(readlink -f /usr/sbin/iptables-legacy-save)"'
        ' && exec .venv/bin/python -m mesh_iptables "$@"'
    )
    without = ("unshare", "--mount", "sh", "-c", script, "sh")
    done = namespace.run(*without, "apply", *BACKENDS["nft"], *REDIRECT)
    assert "rules of an earlier run may still be in force" in done.stderr
    assert set(ours(namespace)) == TOOLS_BY_BACKEND["nft"] | TOOLS_BY_BACKEND["restore-legacy"]
    assert namespace.run(*without, "clean", *BACKENDS["nft"], check=False).returncode == 11


@pytest.fixture
def world() -> Iterator[World]:
    with new_world() as found:
        yield found


def test_no_connection_slips_through_while_backends_change(world: World) -> None:
    names = ["restore-legacy", "nft", "restore-nft", "nft", "restore-legacy", "restore-nft"]
    world.pod.mesh_iptables("apply", *BACKENDS["restore-nft"], *REDIRECT)
    failures: list[BaseException] = []

    def switch() -> None:
        try:
            for name in names:
                world.pod.mesh_iptables("apply", *BACKENDS[name], *REDIRECT)
        except BaseException as error:
            failures.append(error)

    switching = threading.Thread(target=switch)
    switching.start()
    outcomes: dict[str, int] = {}
    probe = Probe("pod", APP_UID, INCLUDED, 80)
    while switching.is_alive():
        outcome = world.outcomes([probe], 5)[probe]
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    switching.join()
    assert failures == []
    assert list(outcomes) == [f"proxy {INCLUDED}:80"]
    assert outcomes.popitem()[1] > 100
