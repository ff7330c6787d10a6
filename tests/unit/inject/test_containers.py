"""The question that a probe asks the proxy from inside of its container."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading

import pytest

from mesh_iptables.inject.containers import Identity, proxy_container
from mesh_iptables.inject.values import ADMIN_PORT, Settings

from .samples import found


def probe(port: int) -> int:
    """The exit status of the probe's command, asking at another port than the proxy's."""
    container = proxy_container(Identity("", "default", {}), "REDIRECT", Settings())
    command = found(container, "startupProbe", "exec", "command")
    assert isinstance(command, list)
    words = [str(word).replace(str(ADMIN_PORT), str(port)) for word in command]
    assert words[0] == "python3"
    return subprocess.run([sys.executable, *words[1:]], stderr=subprocess.DEVNULL).returncode


@pytest.mark.parametrize(("answer", "ready"), [(b"HTTP/1.1 200 OK", True), (b"HTTP/1.1 503 Error", False)])
def test_the_probe_passes_when_the_proxy_says_ready(answer: bytes, ready: bool) -> None:
    heard: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            heard.append(connection.recv(1000))
            connection.sendall(answer + b"\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        assert (probe(listener.getsockname()[1]) == 0) is ready
        thread.join()
    assert heard == [b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n"]


def test_the_probe_fails_where_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert probe(unused.getsockname()[1]) != 0
