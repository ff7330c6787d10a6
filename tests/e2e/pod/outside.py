"""What is outside of the Pods: their network, and a web server with an address of each family for each host."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .engine import Engine

NETWORK = "pods"
SUBNETS = ("10.90.0.0/24", "fd00:f::/64")
HOSTS = {"allowed.example": ("198.51.100.7", "2001:db8::7"), "refused.example": ("198.51.100.8", "2001:db8::8")}
WEB, CLIENT = Path(__file__).with_name("web.py"), Path(__file__).with_name("client.py")


class Outside:
    """A client's view from here."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def fetch(self, *words: str) -> dict[str, Any]:
        """What `client.py` gets from here."""
        seen = self._engine.namespace.run(sys.executable, "-I", str(CLIENT), *words)
        return dict(json.loads(seen.stdout))


@contextmanager
def new_outside(engine: Engine) -> Iterator[Outside]:
    """The outside; its server ends with the block, the rest with the engine's namespace."""
    inside = engine.namespace
    subnets = [word for subnet in SUBNETS for word in ("--subnet", subnet)]
    engine.run("network", "create", "--ipv6", "--disable-dns", *subnets, NETWORK)
    for address in (address for addresses in HOSTS.values() for address in addresses):
        inside.run("ip", "address", "add", address, "dev", "lo")
    words = ["ip", "netns", "exec", inside.name, sys.executable, "-I", str(WEB), "80", "outside"]
    with subprocess.Popen(words) as server:
        try:
            _wait_for_server(engine)
            yield Outside(engine)
        finally:
            server.kill()


def _wait_for_server(engine: Engine) -> None:
    with engine.namespace.entered():
        deadline = time.monotonic() + 10
        while True:
            try:
                return socket.create_connection(("::1", 80)).close()
            except OSError:
                assert time.monotonic() < deadline, "the web server outside does not start"
                time.sleep(0.05)
