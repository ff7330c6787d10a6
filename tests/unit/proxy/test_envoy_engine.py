"""The supervisor of Envoy, with a stand-in for Envoy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mesh_iptables.errors import MachineError
from mesh_iptables.policy.envoy import Site
from mesh_iptables.proxy.envoy import EnvoyEngine
from mesh_iptables.proxy.envoy_admin import count_busy

from .world import policy, static

_ENVOY = """\
#!{python} -IS
import os, sys, time
if "validate" not in sys.argv:
    with open("{told}.new", "w") as file:
        file.write(str(os.getpid()))
    os.rename("{told}.new", "{told}")
    time.sleep(60)
"""
_SUPERVISOR = """\
import sys
from mesh_iptables.policy.envoy import Site
from mesh_iptables.proxy.envoy import EnvoyEngine
from tests.unit.proxy.world import policy
EnvoyEngine(policy, Site(), print, sys.argv[1]).run(policy())
"""
_PATIENCE = 20.0


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """Where the stand-in tells its process id."""
    return tmp_path / "pid"


@pytest.fixture
def envoy(tmp_path: Path, told: Path) -> Path:
    program = tmp_path / "envoy"
    program.write_text(_ENVOY.format(python=sys.executable, told=told))
    program.chmod(0o755)
    return program


@pytest.fixture
def supervisor(envoy: Path, told: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A running supervisor whose Envoy runs, too."""
    words = [sys.executable, "-c", _SUPERVISOR, str(envoy)]
    process = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        _wait(told.exists)
        yield process
    finally:
        process.kill()
        process.wait()
        with suppress(OSError, ValueError):
            os.kill(int(told.read_text()), signal.SIGKILL)


def _wait(done: Callable[[], bool]) -> None:
    limit = time.monotonic() + _PATIENCE
    while not done():
        assert time.monotonic() < limit
        time.sleep(0.01)


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_envoy_ends_with_its_supervisor(
    supervisor: subprocess.Popen[bytes], told: Path, number: signal.Signals
) -> None:
    pid = told.read_text()
    assert _runs(pid)
    supervisor.send_signal(number)
    _wait(lambda: not _runs(pid))


@pytest.fixture
def signals_as_before() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.usefixtures("signals_as_before")
def test_a_policy_too_long_for_the_command_line_needs_a_place_for_a_file(
    envoy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/proc/none")
    large = policy(clusters=tuple(static(f"site{number}", "192.0.2.10") for number in range(500)))
    with pytest.raises(MachineError, match="needs a writable TMPDIR"):
        EnvoyEngine(policy, Site(), print, str(envoy)).run(large)


_STATISTICS = """\
http.admin.downstream_cx_active: 1
http.admin.downstream_rq_active: 1
http.outbound_0.0.0.0_80.downstream_cx_active: 4
http.outbound_0.0.0.0_80.downstream_rq_active: 1
listener.0.0.0.0_15001.downstream_cx_active: 2
listener.0.0.0.0_15001.worker_0.downstream_cx_active: 2
listener.0.0.0.0_80.downstream_cx_active: 4
listener.admin.downstream_cx_active: 1
listener.admin.main_thread.downstream_cx_active: 1
"""


def test_idle_connections_of_requests_are_not_under_way() -> None:
    assert count_busy(_STATISTICS) == 3
    assert count_busy("") == 0


def test_a_signal_for_the_log_reaches_envoy(supervisor: subprocess.Popen[bytes], told: Path) -> None:
    pid = told.read_text()
    supervisor.send_signal(signal.SIGUSR1)  # the stand-in does not hear it, so it ends
    _wait(lambda: not _runs(pid))
