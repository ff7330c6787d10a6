"""The tables of nft in the kernel: taken, read back, kept as they should be, and left alone when they are."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings

from mesh_iptables.apply.enforce import enforce
from mesh_iptables.apply.nft import NftBackend
from mesh_iptables.apply.restore import RestoreBackend
from mesh_iptables.errors import ApplyError, MachineError
from mesh_iptables.model import Plan
from mesh_iptables.render import nft

from ..property.test_rules import ARGUMENTS, ENVIRONMENTS, plan_for
from ..unit import argument_sets
from .namespace import Namespace, new_namespace

if TYPE_CHECKING:
    from mesh_iptables.apply import Backend

NOTHING = Plan("istio-1.0", (), ())
TPROXY = ["-u", "1337", "-m", "TPROXY", "-b", "80,8000:8010", "-i", "10.0.5.0/255.0.255.0", "-x", "0.0.0.0/0"]
SAME_NAMESPACE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def lock() -> Iterator[socket.socket]:
    """A stand-in for the lock: these tests are alone in their namespaces."""
    with socket.socket(socket.AF_UNIX) as held:
        yield held


@pytest.fixture(scope="module")
def shared() -> Iterator[Namespace]:
    with new_namespace() as namespace:
        yield namespace


@SAME_NAMESPACE
@given(words=ARGUMENTS, environment=ENVIRONMENTS)
def test_nft_takes_whatever_is_rendered(shared: Namespace, words: list[str], environment: dict[str, str]) -> None:
    shared.run("nft", "--check", "--file", "-", stdin=nft.render(plan_for(words, environment)))


@pytest.mark.parametrize("words", argument_sets.ARGUMENT_SETS.values(), ids=argument_sets.ARGUMENT_SETS)
def test_rules_read_back_as_from_the_restore_programs(
    words: list[str], namespace: Namespace, lock: socket.socket
) -> None:
    plan = argument_sets.plan_for(words)
    with namespace.entered():
        assert after_apply(NftBackend(lock), plan) == after_apply(RestoreBackend("legacy", lock), plan)


@SAME_NAMESPACE
@given(words=ARGUMENTS, environment=ENVIRONMENTS)
def test_any_rules_read_back_and_are_in_force_at_once(
    shared: Namespace, lock: socket.socket, words: list[str], environment: dict[str, str]
) -> None:
    plan = plan_for(words, environment)
    with shared.entered():
        first = after_apply(NftBackend(lock), plan)
        assert not NftBackend(lock).apply(plan).added
        assert after_apply(RestoreBackend("legacy", lock), plan) == first


def after_apply(backend: Backend, plan: Plan) -> dict[str, list[str]]:
    """The rules that a backend reads after it applied a plan, in words."""
    backend.apply(plan)
    chains = backend.read().chains
    return {repr(key): [repr(rule) for rule in rules] for key, rules in sorted(chains.items())}


def test_a_second_run_touches_nothing(namespace: Namespace) -> None:
    namespace.mesh_iptables("apply", "--backend", "nft", *TPROXY)
    before = namespace.run("nft", "--json", "--handle", "list", "ruleset").stdout  # a new table has new handles
    namespace.mesh_iptables("apply", "--backend", "nft", *TPROXY)
    assert namespace.run("nft", "--json", "--handle", "list", "ruleset").stdout == before
    namespace.mesh_iptables("apply", "--backend", "nft", "-u", "0")
    assert namespace.run("nft", "--json", "--handle", "list", "ruleset").stdout != before


TAMPERED = {
    "rule in front": "insert rule ip mesh-iptables nat-ISTIO_OUTPUT accept",
    "rule behind": "add rule ip mesh-iptables nat-OUTPUT ip saddr 10.0.0.1 tcp dport { 1, 2 } dnat to 10.0.0.2",
    "odd rule": 'add rule ip mesh-iptables nat-OUTPUT meta skuid "root" oifname != "a b" log prefix "x" return',
    "other family": "add rule ip6 mesh-iptables filter-INPUT ether saddr 00:00:00:00:00:01 accept",
    "chain emptied": "flush chain ip mesh-iptables mangle-ISTIO_TPROXY",
    "socket chain": "insert rule ip mesh-iptables mangle-socket-ISTIO_DIVERT return",
    "chain more": "add chain ip mesh-iptables more",
    "base chain more": "add chain ip mesh-iptables raw-OUTPUT { type filter hook output priority -300; }",
    "policy": "add chain ip mesh-iptables mangle-PREROUTING { policy drop; }",
    "set more": "add set ip mesh-iptables more { type ipv4_addr; }",
    "table off": "add table ip mesh-iptables { flags dormant; }",
    "table gone": "delete table ip6 mesh-iptables",
    "counter": "add rule ip mesh-iptables nat-ISTIO_OUTPUT counter",
}


@pytest.mark.parametrize("command", TAMPERED.values(), ids=TAMPERED)
def test_what_somebody_changed_is_noticed_and_repaired(command: str, namespace: Namespace, lock: socket.socket) -> None:
    plan = argument_sets.plan_for(TPROXY)
    with namespace.entered():
        NftBackend(lock).apply(plan)
        good = namespace.run("nft", "list", "ruleset").stdout
        namespace.run("nft", command)
        assert namespace.run("nft", "list", "ruleset").stdout != good
        assert NftBackend(lock).apply(plan).added
        assert namespace.run("nft", "list", "ruleset").stdout == good


def test_clean_removes_the_tables_and_a_second_one_finds_nothing(namespace: Namespace, lock: socket.socket) -> None:
    namespace.run("nft", "add table ip others; add table inet mesh-iptables")
    before = namespace.run("nft", "list", "ruleset").stdout
    with namespace.entered():
        NftBackend(lock).apply(argument_sets.plan_for(TPROXY))
        backend = NftBackend(lock)
        assert backend.marks() == {1337}
        assert backend.apply(NOTHING).removed == (
            "nft delete table ip mesh-iptables",
            "nft delete table ip6 mesh-iptables",
        )
        assert NftBackend(lock).apply(NOTHING).removed == ()
        assert backend.dump() == ""
    assert namespace.run("nft", "list", "ruleset").stdout == before


def test_the_dump_is_what_nft_lists(namespace: Namespace) -> None:
    done = namespace.mesh_iptables("apply", "--backend", "nft", "-u", "1337")
    assert done.stdout.endswith(namespace.run("nft", "list", "ruleset").stdout)


@pytest.fixture
def failing_nft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes an `nft` that refuses input with a certain word, as a kernel without that expression does."""

    def make(word: str) -> None:
        program = tmp_path / "nft"
        real = shutil.which("nft")
        program.write_text(
            f'#!/bin/sh\n[ "$1" = -f ] || exec {real} "$@"\ninput=$(cat)\nline=$(echo "$input" | grep -n \'{word}\')'
            f' && {{ echo "/dev/stdin:${{line%%:*}}:3-9: Error: Could not process rule: No such file or directory" >&2;'
            f' exit 1; }}\necho "$input" | exec {real} -f -\n'
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return make


def test_a_kernel_without_the_socket_match_gets_the_rest(
    namespace: Namespace, lock: socket.socket, failing_nft: Callable[[str], None]
) -> None:
    failing_nft("socket transparent")
    plan = argument_sets.plan_for(TPROXY)
    with namespace.entered():
        first, second = (enforce(plan, NftBackend(lock), marks=frozenset(), tables=frozenset()) for _ in range(2))
    assert first.warnings == second.warnings == ("No socket match support",)
    assert (bool(first.added), second.added) == (True, ())
    text = namespace.run("nft", "list", "ruleset").stdout
    assert "tproxy to :15001" in text
    assert "socket transparent" not in text


def test_a_refusal_names_the_line_and_changes_nothing(
    namespace: Namespace, lock: socket.socket, failing_nft: Callable[[str], None]
) -> None:
    with namespace.entered():
        NftBackend(lock).apply(argument_sets.plan_for(["-u", "1"]))
        before = namespace.run("nft", "list", "ruleset").stdout
        failing_nft("tproxy to")
        with pytest.raises(ApplyError, match=r"nft refused line \d+ .*tproxy to :15001 .*No such file") as caught:
            NftBackend(lock).apply(argument_sets.plan_for(TPROXY))
    assert caught.value.exit_status == 4
    assert namespace.run("nft", "list", "ruleset").stdout == before


def test_without_the_right_to_do_it_the_error_says_what_is_needed(namespace: Namespace) -> None:
    done = namespace.run("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin",
        ".venv/bin/python", "-m", "mesh_iptables", "apply", "--backend", "nft", "-u", "1", check=False)  # fmt: skip
    assert done.returncode == MachineError.exit_status
    assert "NET_ADMIN" in done.stderr.splitlines()[-1]
