"""`mesh-iptables proxy` as a process; with these options it opens no port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_WORDS = ["proxy", "--profile", "osm", "--inbound-port", "0", "--admin", "", "--access-log", ""]
_PATIENCE = 30.0  # seconds


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    os.mkfifo(path)
    return path


@pytest.fixture
def starting(pipe: Path) -> Iterator[subprocess.Popen[str]]:
    """A proxy that waits for its policy."""
    words = [sys.executable, "-m", "mesh_iptables", *_WORDS, "--policy", str(pipe)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_a_reload_that_is_asked_for_during_the_start_comes_after_it(
    starting: subprocess.Popen[str], pipe: Path
) -> None:
    with pipe.open("w") as policy:  # waits until the proxy reads
        starting.send_signal(signal.SIGHUP)
        policy.write("# nothing\n")
    assert starting.stderr is not None
    assert starting.stderr.readline() == "mesh-iptables: proxy: policy reloaded\n"
    starting.terminate()
    assert starting.wait(_PATIENCE) == 0
