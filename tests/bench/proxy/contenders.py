"""The proxies that are measured: each listens on the redirect port and sends to where the client meant to go."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.egress.engines import end, environment, program

PROXY_UID = 1337
PORT = 15001
PROXY_CPU, LOAD_CPU = "0", "1"
START_LIMIT = 20.0  # seconds

# HAProxy's own defaults but for one thread; `server o 0.0.0.0:0` is its way to say "where the client wanted to go"
HAPROXY = """
global
  nbthread 1
  maxconn 8000
defaults
  mode {mode}
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend captured
  bind 0.0.0.0:15001
  default_backend out
backend out
  server o 0.0.0.0:0
"""


def on_cpu(cpu: str, words: list[str]) -> list[str]:
    """The command, kept on one processor where there are two."""
    return ["taskset", "-c", cpu, *words] if len(os.sched_getaffinity(0)) > 1 else words


@dataclass(frozen=True)
class Contender:
    name: str  # haproxy, envoy, ours
    folder: Path
    policy: Path

    def words(self, mode: str) -> list[str]:
        """Its command for `mode`: tcp or http (only HAProxy must be told)."""
        if self.name == "haproxy":
            config = self.folder / f"haproxy-{mode}.cfg"
            config.write_text(HAPROXY.format(mode=mode))
            return ["haproxy", "-q", "-db", "-f", str(config)]
        engine = {"ours": "python", "envoy": "envoy"}[self.name]
        words = [*program(), "proxy", "--policy", str(self.policy), "--engine", engine]
        return [*words, "--access-log", ""]  # HAProxy writes none by default

    @contextmanager
    def running(self, mode: str) -> Iterator[int]:
        """Its process number, once it accepts connections."""
        process = subprocess.Popen(
            on_cpu(PROXY_CPU, self.words(mode)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / f"{self.name}.err").open("wb"),
            user=PROXY_UID,
            group=PROXY_UID,
            extra_groups=[],
            cwd="/",
            env=environment(),
            start_new_session=True,
        )
        try:
            self._wait(process)
            yield process.pid
        finally:
            end(process)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        limit = time.monotonic() + START_LIMIT
        while time.monotonic() < limit and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", PORT), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                time.sleep(0.5)  # first look-ups
                return
        said = (self.folder / f"{self.name}.err").read_text(errors="replace")[-500:]
        raise RuntimeError(f"{self.name} did not start: {said}")


def contenders(folder: Path, policy: Path) -> list[Contender]:
    """Those that are installed; ours always."""
    found = {"haproxy": shutil.which("haproxy"), "envoy": shutil.which("envoy", path=environment()["PATH"])}
    names = [name for name, path in found.items() if path] + ["ours"]
    return [Contender(name, folder, policy) for name in names]
