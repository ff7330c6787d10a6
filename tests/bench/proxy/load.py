"""The load: bulk flows and idle connections from here, HTTP by wrk; and the source that bulk flows read from."""

from __future__ import annotations

import os
import re
import selectors
import socket
import subprocess
import sys
import threading
import time

from .contenders import LOAD_CPU, on_cpu

TARGET = "192.0.2.10"
HTTP, TCP, BULK = 7080, 7090, 7001  # ports: HTTP rules, TCP rules, TCP rules with an endless answer
CHUNK = 1 << 20  # bytes


def bulk(flows: int, seconds: float) -> float:
    """Bytes per second that `flows` connections read together."""
    selector = selectors.DefaultSelector()
    for _ in range(flows):
        sock = socket.create_connection((TARGET, BULK), timeout=10)
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
    buffer = bytearray(CHUNK)
    _read(selector, buffer, 0.3)  # past slow start
    started = time.monotonic()
    total = _read(selector, buffer, seconds)
    rate = total / (time.monotonic() - started)
    for key in list(selector.get_map().values()):
        key.fileobj.close()  # type: ignore[union-attr]  # we registered sockets only
    return rate


def _read(selector: selectors.BaseSelector, buffer: bytearray, seconds: float) -> int:
    total, limit = 0, time.monotonic() + seconds
    while time.monotonic() < limit:
        for key, _ in selector.select(1):
            total += key.fileobj.recv_into(buffer)  # type: ignore[union-attr]
    return total


def wrk(port: int, seconds: float, *, connections: int, close: bool = False) -> tuple[float, float]:
    """(answers per second, median milliseconds) of HTTP requests to a port."""
    words = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency"]
    words += ["-H", "Host: api.example.com", *(["-H", "Connection: close"] if close else [])]
    result = subprocess.run(
        on_cpu(LOAD_CPU, [*words, f"http://{TARGET}:{port}/v1/items?page=2"]),
        capture_output=True,
        text=True,
        timeout=seconds + 30,
        check=True,
    )
    rate = re.search(r"Requests/sec:\s+([\d.]+)", result.stdout)
    median = re.search(r"50%\s+([\d.]+)(us|ms|s)", result.stdout)
    if rate is None or median is None or "Non-2xx" in result.stdout:
        raise RuntimeError(f"wrk was not served: {result.stdout}{result.stderr}")
    return float(rate[1]), float(median[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[median[2]]


def idle(count: int) -> list[socket.socket]:
    """Connections that have carried one request each and now do nothing."""
    opened = []
    for _ in range(count):
        sock = socket.create_connection((TARGET, TCP), timeout=10)
        sock.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        sock.recv(4096)
        opened.append(sock)
    return opened


def serve_bulk() -> None:
    """Send zeros to whoever connects, for ever: the source in the outside namespace."""
    listener = socket.create_server((TARGET, BULK), backlog=128)
    zeros = os.memfd_create("zeros")
    os.truncate(zeros, CHUNK)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_pour, args=(connection, zeros), daemon=True).start()


def _pour(connection: socket.socket, zeros: int) -> None:
    try:
        while True:
            os.sendfile(connection.fileno(), zeros, 0, CHUNK)
    except OSError:
        connection.close()


if __name__ == "__main__":
    if sys.argv[1] == "source":
        serve_bulk()
    else:
        sys.stdout.write(f"{bulk(int(sys.argv[1]), float(sys.argv[2]))}\n")
