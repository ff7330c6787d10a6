"""`apply` killed at any moment leaves each table as it was or as it should be, and the next run does the rest."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping

import pytest

from .backends import EVERY, WORDS
from .namespace import ROOT, Namespace

KILLS = 50  # of each backend
SETTINGS: tuple[tuple[tuple[str, ...], dict[str, str]], ...] = (
    (("-u", "1337", "-b", "80,8000:8100", "-i", "*", "-x", "10.0.0.0/8"), {}),
    (("-u", "1338", "-m", "TPROXY", "-b", "*", "-i", "10.0.0.0/8"), {"ENABLE_INBOUND_IPV6": "1"}),
)
TABLES = (("iptables", "mangle"), ("iptables", "nat"), ("ip6tables", "filter"))


def start(backend: str, words: tuple[str, ...], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start `apply` in the namespace that this thread is in, as the leader of a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "mesh_iptables", "apply", *WORDS[backend], *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        start_new_session=True,
    )


def state(backend: str) -> tuple[str, ...]:
    """The text of each table; of the native backend that of all tables, which change together."""
    if backend == "native":
        return (output("nft", "list", "ruleset"),)
    flavour = "nft" if backend == "nft" else "legacy"
    saved = [output(f"{program}-{flavour}-save", "-t", table) for program, table in TABLES]
    return tuple(
        "\n".join(line.partition(" [")[0] for line in text.splitlines() if line.startswith(("-A", ":ISTIO")))
        for text in saved
    )


def output(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def routing() -> str:
    return output("ip", "rule") + output("ip", "route", "show", "table", "all")


def applied(backend: str, number: int) -> tuple[tuple[str, ...], str]:
    """Run `apply` to its end; what it left."""
    run = start(backend, *SETTINGS[number])
    assert (run.communicate(timeout=60)[1], run.returncode) == ("", 0)
    return state(backend), routing()


@pytest.mark.parametrize("backend", EVERY)
def test_a_killed_run_leaves_no_mixture(backend: str, namespace: Namespace) -> None:
    chance = random.Random(backend)
    with namespace.entered():
        started = time.monotonic()
        wanted = [applied(backend, number) for number in (0, 1)]
        seconds = (time.monotonic() - started) / 2
        halfway = 0
        for turn in range(KILLS):
            old, new = wanted[(turn + 1) % 2][0], wanted[turn % 2][0]
            kill_one(backend, turn % 2, chance.uniform(0.3, 1.0) * seconds, whole_group=chance.random() < 0.5)
            found = state(backend)
            assert all(text in (before, after) for text, before, after in zip(found, old, new, strict=True))
            halfway += found not in (old, new)
            assert applied(backend, turn % 2) == wanted[turn % 2]
    print(f"{backend}: {halfway} of {KILLS} ended between two tables")


def kill_one(backend: str, number: int, seconds: float, *, whole_group: bool) -> None:
    """Start a run and kill it after a while: alone, or with the programs that it started."""
    run = start(backend, *SETTINGS[number])
    time.sleep(seconds)
    (os.killpg if whole_group else os.kill)(run.pid, signal.SIGKILL)
    run.communicate()
    while "@mesh-iptables" in output("cat", "/proc/net/unix"):  # what it started holds the lock until it ends
        time.sleep(0.005)
