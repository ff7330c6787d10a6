"""Many runs at once, runs beside other users of iptables, and locks that somebody holds."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .backends import EVERY, WORDS, needs_iptc, own_rules
from .namespace import ROOT, Namespace

RUNS = 16
SETTINGS = [("-u", str(1300 + number), "-b", str(8000 + number), "-i", "*") for number in range(RUNS)]


def start(namespace: Namespace, *words: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start `mesh-iptables` in a namespace."""
    return start_program(namespace, sys.executable, "-m", "mesh_iptables", *words, env=env)


def start_program(namespace: Namespace, *words: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["ip", "netns", "exec", namespace.name, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **(env or {})},
    )


@pytest.mark.parametrize("backend", EVERY)
def test_sixteen_runs_at_once_leave_one_set(backend: str, namespace: Namespace) -> None:
    possible = []
    for words in (SETTINGS[0], SETTINGS[-1]):
        namespace.mesh_iptables("apply", *WORDS[backend], *words)
        possible.append(own_rules(namespace, backend))
    runs = [start(namespace, "apply", *WORDS[backend], *words) for words in SETTINGS]
    ends = [(run.communicate(timeout=60)[1], run.returncode) for run in runs]
    assert ends == [("", 0)] * RUNS
    left = own_rules(namespace, backend)
    counts = {name: len(lines) for name, lines in left.items()}
    assert counts == {name: len(lines) for name, lines in possible[0].items()}
    text = str(left)
    used = [words for words in SETTINGS if words[1] in text or words[3] in text]
    assert len(used) == 1
    namespace.mesh_iptables("apply", *WORDS[backend], *used[0])
    assert own_rules(namespace, backend) == left


@pytest.mark.parametrize("backend", ["legacy", "nft", pytest.param("iptc", marks=needs_iptc)])
def test_another_user_of_iptables_loses_nothing(backend: str, namespace: Namespace) -> None:
    flavour = "nft" if backend == "nft" else "legacy"
    loop = f"""
        for number in $(seq 40); do
            iptables-{flavour} --wait -t nat -A OUTPUT -p udp --dport $number -j RETURN || exit 1
            ip6tables-{flavour} --wait -A INPUT -p udp --dport $number -j ACCEPT || exit 1
        done
    """
    other = start_program(namespace, "sh", "-c", loop)
    for number in range(8):
        done = namespace.mesh_iptables("apply", *WORDS[backend], *SETTINGS[number], check=False)
        assert (done.stderr, done.returncode) == ("", 0)
    assert other.wait(timeout=60) == 0, other.communicate()[1]
    namespace.mesh_iptables("apply", *WORDS[backend], *SETTINGS[0])
    left = own_rules(namespace, backend)
    for lines, chain, target in zip(left.values(), ("OUTPUT", "INPUT"), ("RETURN", "ACCEPT"), strict=True):
        foreign = [line for line in lines if "udp" in line]
        assert foreign == [f"-A {chain} -p udp -m udp --dport {number} -j {target}" for number in range(1, 41)]
    assert sum("-j ISTIO_OUTPUT" in line for lines in left.values() for line in lines) == 1


@pytest.mark.parametrize("backend", ["legacy", pytest.param("iptc", marks=needs_iptc)])
def test_the_lock_of_the_tools_is_waited_for(backend: str, namespace: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "xtables.lock"
    environment = {"XTABLES_LOCKFILE": str(path)}
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        waiting = start(namespace, "apply", *WORDS[backend], *SETTINGS[0], env=environment)
        wait_for_holder(namespace)
        done, seconds = timed(namespace, "apply", *WORDS[backend], "--wait", "1", *SETTINGS[1], env=environment)
        assert_gave_up(done, seconds, "another mesh-iptables works in this network namespace")
        waiting.kill()
    waiting.communicate(timeout=30)
    namespace.mesh_iptables("clean", *WORDS[backend])
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done, seconds = timed(namespace, "apply", *WORDS[backend], "--wait", "1", *SETTINGS[1], env=environment)
        assert_gave_up(done, seconds, "another program holds the")
        assert own_rules(namespace, backend) == {"iptables-legacy-save": [], "ip6tables-legacy-save": []}
        waiting = start(namespace, "apply", *WORDS[backend], *SETTINGS[0], env=environment)
        time.sleep(0.3)
        assert waiting.poll() is None
    assert (waiting.communicate(timeout=30)[1], waiting.returncode) == ("", 0)


@pytest.mark.parametrize("backend", EVERY)
def test_another_run_of_ours_is_waited_for(backend: str, namespace: Namespace) -> None:
    with namespace.entered():
        holder = socket.socket(socket.AF_UNIX)
    holder.bind("\0mesh-iptables")
    holder.listen()
    with holder:
        done, seconds = timed(namespace, "apply", *WORDS[backend], "--wait", "1", *SETTINGS[0])
        assert_gave_up(done, seconds, "another mesh-iptables works in this network namespace")
        waiting = start(namespace, "apply", *WORDS[backend], *SETTINGS[0])
        time.sleep(0.3)
        assert waiting.poll() is None
    assert (waiting.communicate(timeout=30)[1], waiting.returncode) == ("", 0)


def wait_for_holder(namespace: Namespace) -> None:
    """Return as soon as a run of ours has begun its work there."""
    for _ in range(100):
        if "@mesh-iptables" in namespace.run("cat", "/proc/net/unix").stdout:
            return
        time.sleep(0.05)
    raise AssertionError("no run of ours began")


def timed(
    namespace: Namespace, *words: str, env: dict[str, str] | None = None
) -> tuple[subprocess.CompletedProcess[str], float]:
    started = time.monotonic()
    done = namespace.mesh_iptables(*words, check=False, env=env)
    return done, time.monotonic() - started


def assert_gave_up(done: subprocess.CompletedProcess[str], seconds: float, why: str) -> None:
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert why in done.stderr
    assert 0.9 < seconds < 4
