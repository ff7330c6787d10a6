"""A policy that a child compiles while the loop goes on: what arrives, how often, and what the child cannot touch."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from itertools import takewhile
from pathlib import Path

import pytest

from mesh_iptables.errors import PolicyError
from mesh_iptables.policy.model import EgressPolicy
from mesh_iptables.proxy.loop import Loop
from mesh_iptables.proxy.reload import Reload, parts, send

from .world import http_policy, policy, static, tcp_policy

LIMIT = 20.0  # seconds that a test may take
AFTERWARDS = 0.05  # what is told once too often is told in this time


class Proxy:
    """A loop with one `Reload`, and what that told."""

    def __init__(self, load: Callable[[], EgressPolicy]) -> None:
        self.loop = Loop()
        self.told: list[EgressPolicy | str] = []
        self.reload = Reload(self.loop, load, self._tell, self._tell)
        self._wanted = 1

    def _tell(self, what: EgressPolicy | str) -> None:
        self.told.append(what)
        if len(self.told) == self._wanted:
            self.loop.call_later(AFTERWARDS, self.loop.stop)

    def run(self, wanted: int = 1) -> list[EgressPolicy | str]:
        self._wanted = wanted
        self.loop.call_later(LIMIT, self.loop.stop)
        self.loop.run()
        return self.told


def told_by(load: Callable[[], EgressPolicy]) -> list[EgressPolicy | str]:
    proxy = Proxy(load)
    proxy.reload.ask()
    return proxy.run()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A FIFO: who reads it waits until somebody writes."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


def test_what_the_child_compiles_arrives() -> None:
    assert told_by(tcp_policy) == [tcp_policy()]


def test_the_loop_goes_on_while_the_child_compiles(gate: Path) -> None:
    def load() -> EgressPolicy:
        gate.read_text()
        return tcp_policy()

    rounds = 0

    def tick() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 5:
            gate.write_text("go on")
        else:
            proxy.loop.call_later(0.001, tick)

    proxy = Proxy(load)
    proxy.reload.ask()
    tick()
    assert proxy.run() == [tcp_policy()]
    assert rounds == 5


def test_whoever_asks_during_a_compilation_gets_one_more(gate: Path) -> None:
    def load() -> EgressPolicy:
        return tcp_policy() if gate.read_text() == "old" else http_policy()

    proxy = Proxy(load)
    proxy.reload.ask()
    proxy.reload.ask()
    proxy.reload.ask()
    gate.write_text("old")
    proxy.run()
    gate.write_text("new")
    assert proxy.run(wanted=2) == [tcp_policy(), http_policy()]


def test_a_policy_that_does_not_compile_is_told_as_a_reason() -> None:
    def load() -> EgressPolicy:
        raise PolicyError("the policy does not compile")

    assert told_by(load) == ["the policy does not compile"]


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "the compiler ended with signal 9"),
        (lambda: 1 // 0, "the compiler ended with status 1"),
    ],
)
def test_a_child_that_dies_is_told_as_a_reason_and_does_not_end_reloading(
    end: Callable[[], object], said: str, tmp_path: Path
) -> None:
    def load() -> EgressPolicy:
        if not (tmp_path / "once").exists():
            (tmp_path / "once").touch()
            end()
        return tcp_policy()

    proxy = Proxy(load)
    proxy.reload.ask()
    assert proxy.run() == [said]
    proxy.reload.ask()
    assert proxy.run(wanted=2) == [said, tcp_policy()]


def test_the_child_holds_no_socket_of_the_proxy() -> None:
    def load() -> EgressPolicy:
        names = (os.readlink(f"/proc/self/fd/{number}") for number in range(3, 100) if _is_open(number))
        raise PolicyError(" ".join(name for name in names if "pipe" not in name))

    with socket.socket(), socket.socket():
        assert told_by(load) == [""]


def _is_open(number: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{number}")


def children() -> str:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


def test_no_child_is_left_when_the_proxy_ends_meanwhile(gate: Path) -> None:
    before = children()
    proxy = Proxy(lambda: policy() if gate.read_text() else tcp_policy())
    proxy.reload.ask()
    assert children() != before
    proxy.reload.stop()
    assert children() == before
    proxy.reload.ask()
    assert children() == before


def test_a_large_policy_arrives_in_small_parts_and_shares_what_it_shared() -> None:
    clusters = tuple(static(f"site{number}", "192.0.2.10") for number in range(200))
    [listener] = http_policy().listeners.values()
    large = policy((listener, replace(listener, port=81)), clusters)
    pipe = BytesIO()
    send(lambda: large, pipe)
    arrived = list(takewhile(lambda part: part != large, parts(pipe.getvalue())))
    received = next(part for part in parts(pipe.getvalue()) if isinstance(part, EgressPolicy))
    assert received == large
    assert len(arrived) > 200 / 32
    assert all(isinstance(part, tuple) and len(part) <= 32 for part in arrived)
    first, second = received.listeners.values()
    assert first.chains[0] is second.chains[0]
