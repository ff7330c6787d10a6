"""While rules are put into force again and again, no connection gets past the proxy."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from .backends import EVERY, WORDS
from .namespace import ROOT
from .probes import APP_UID, CAPTURED, INCLUDED, POD, Probe, World, new_world

OUTBOUND = Probe("pod", APP_UID, INCLUDED, 80)
INBOUND = Probe("outside", APP_UID, POD, CAPTURED)
CAPTURED_BOTH = {OUTBOUND: f"proxy {INCLUDED}:80", INBOUND: f"proxy {POD}:{CAPTURED}"}
ONE = ("-u", "1337", "-b", "*", "-i", "*")
OTHER = ("-u", "1337", "-b", f"{CAPTURED},9000:9100", "-i", "10.88.0.0/16", "-x", "10.99.0.0/16")
ROUNDS, MODE_ROUNDS = 50, 16
ENOUGH = 100  # connections; fewer would say little


@pytest.fixture
def world() -> Iterator[World]:
    with new_world() as world:
        # A new connection with the ports of one that waits out its end would be taken for that one by `-m socket`, as
        # by the script's rule: nothing that a switch could do about it.
        world.pod.run("sysctl", "-qw", "net.ipv4.tcp_max_tw_buckets=0")
        yield world


@pytest.mark.parametrize("backend", EVERY)
def test_no_connection_slips_through_while_settings_alternate(backend: str, world: World) -> None:
    met = connect_while_applying(world, backend, ONE, OTHER, ROUNDS)
    assert met.keys() == set(CAPTURED_BOTH.items())
    assert sum(met.values()) > ENOUGH


@pytest.mark.parametrize("backend", EVERY)
def test_no_connection_slips_through_while_the_mode_alternates(backend: str, world: World) -> None:
    met = connect_while_applying(world, backend, ONE, (*ONE, "-m", "TPROXY"), MODE_ROUNDS)
    assert sum(met.values()) > ENOUGH
    # Between the commits of two tables both modes act on a connection that is being opened, and it may be reset; none
    # may arrive at the application.
    assert met.keys() - {(INBOUND, "reset")} == set(CAPTURED_BOTH.items())


def connect_while_applying(
    world: World, backend: str, one: tuple[str, ...], other: tuple[str, ...], rounds: int
) -> Counter[tuple[Probe, str]]:
    """What became of every connection that was made while `apply` ran so often, from the end of the first run on."""
    world.pod.mesh_iptables("apply", *WORDS[backend], *one)
    met: Counter[tuple[Probe, str]] = Counter()
    for number in range(rounds):
        words = (other, one)[number % 2]
        with world.pod.entered():
            run = subprocess.Popen(
                [sys.executable, "-m", "mesh_iptables", "apply", *WORDS[backend], *words],
                stdout=subprocess.DEVNULL,
                cwd=ROOT,
            )
        while run.poll() is None:
            met.update(world.outcomes(CAPTURED_BOTH, 2.0).items())
        assert run.returncode == 0
    return met
