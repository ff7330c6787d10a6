"""Long and hard use of one proxy: each check gives what it saw, or complaints. First process of fresh namespaces.

`--scale 0.1` does a tenth of everything; the bounds stay, they are about growth and not about size.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from . import clients
from .clients import Answer
from .engines import ADMIN, Engine, EngineError, Settings, resident
from .say import say
from .schema import Http, Identity, read_stream
from .world import World, allow_many_connections, build, look_for_vanished_peers
from .world import run as run_command

POLICY = Path(__file__).with_name("soak.yaml")
SITE = "192.0.2.10"
GET = b"GET /status/200 HTTP/1.1\r\nhost: fixed.example.com\r\n\r\n"
GROWTH = 3 * 1024  # KiB that may stay after many connections have come and gone
LIMIT = 30  # connections, for the check of that name
DRAIN_TIME = 8  # seconds
STALL = 250  # milliseconds that a request may wait for a reload, on a machine with little to spare
SETTLE = 0.5  # seconds for the proxy to notice that peers are gone


@dataclass
class Soak:
    """One check's view: the world, the proxy, and how much to do."""

    world: World
    engine: Engine
    scale: float
    notes: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def count(self, full: int) -> int:
        return max(1, round(full * self.scale))

    def memory(self) -> int:
        return resident(self.engine.process.pid)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.engine.process.pid}/fd"))

    def expect(self, holds: bool, complaint: str) -> None:
        if not holds:
            self.complaints.append(complaint)

    def still_serves(self, limit: float = 1.0) -> None:
        """An ordinary request gets its ordinary answer, soon."""
        answer = get("fixed.example.com")
        self.expect(answer.status == 200, f"afterwards a request got {answer.status or answer.error}")
        self.expect(answer.elapsed < limit, f"afterwards a request took {answer.elapsed:.2f} s")

    def expect_few_descriptors(self) -> None:
        """What was many connections is none any more, in a while."""
        limit = time.monotonic() + 20
        while self.descriptors() > 30 and time.monotonic() < limit:
            time.sleep(0.1)
        self.expect(self.descriptors() <= 30, f"{self.descriptors()} descriptors stay open")

    @contextmanager
    def nothing_stays(self, growth: int = GROWTH) -> Iterator[None]:
        """Memory and descriptors are back where they were when the block ends."""
        memory, descriptors = self.memory(), self.descriptors()
        yield
        limit = time.monotonic() + 10
        while self.descriptors() > descriptors + 8 and time.monotonic() < limit:
            time.sleep(0.1)
        more, grown = self.descriptors() - descriptors, self.memory() - memory
        self.notes.append(f"memory {grown:+d} KiB, descriptors {more:+d}")
        self.expect(more <= 8, f"{more} descriptors stay open")
        self.expect(grown <= growth, f"memory grew by {grown} KiB")


def get(host: str, path: str = "/status/200") -> Answer:
    return clients.http(Http(host=host, connect=SITE, path=path))[0]


def opened(port: int) -> socket.socket:
    return socket.create_connection((SITE, port), timeout=10)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# --- the checks ---------------------------------------------------------------------------------------


def idle(soak: Soak) -> None:
    """10 000 connections that have been served once and then rest."""
    count = soak.count(10_000)
    resting: list[socket.socket] = []
    before = soak.memory()
    with soak.nothing_stays(growth=count * 4):  # an allocator may keep what it once had
        for _ in range(count):
            sock = opened(80)
            sock.sendall(GET)
            resting.append(sock)
            soak.expect(sock.recv(4096).startswith(b"HTTP/1.1 200"), "a request was not served")
        per_thousand = (soak.memory() - before) * 1000 // count
        soak.notes.append(f"{count} connections, {per_thousand} KiB per 1000")
        soak.still_serves()
        for sock in resting:
            sock.close()


def short(soak: Soak) -> None:
    """100 000 connections that come, exchange a few bytes and go."""
    _come_and_go(soak, soak.count(5_000))
    started = time.monotonic()
    with soak.nothing_stays():
        count = _come_and_go(soak, soak.count(100_000))
    soak.notes.append(f"{count / (time.monotonic() - started):.0f} connections per second")
    soak.still_serves()


def _come_and_go(soak: Soak, count: int) -> int:
    def some(share: int) -> int:
        failed = 0
        for _ in range(share):
            with opened(9000) as sock:
                sock.sendall(b"x")
                failed += sock.recv(64) != b"api.example.com:x"
        return failed

    workers = 4
    with ThreadPoolExecutor(workers) as pool:
        failed = sum(pool.map(some, [count // workers] * workers))
    soak.expect(failed == 0, f"{failed} of {count} connections were not served")
    return count


def stalled(soak: Soak) -> None:
    """20 clients that ask for an endless answer and do not read it."""
    words = [sys.executable, "-m", "tests.bench.proxy.load", "source"]
    far = ["nsenter", f"--net=/proc/{soak.world.outside.pid}/ns/net", "--", *words]
    with subprocess.Popen(far) as source:
        try:
            time.sleep(0.5)
            with soak.nothing_stays():
                before = soak.memory()
                readers = [opened(7001) for _ in range(20)]
                time.sleep(3)
                grown = soak.memory() - before
                soak.notes.append(f"20 readers hold {grown} KiB")
                soak.expect(grown < 20 * 1024, f"20 stalled readers hold {grown} KiB")
                soak.still_serves()
                for reader in readers:
                    reader.close()
        finally:
            source.kill()


def resets(soak: Soak) -> None:
    """Upstreams that reset, and clients that do."""
    with soak.nothing_stays():
        for _ in range(soak.count(1000)):
            with suppress(OSError), opened(9003) as sock:
                sock.recv(10)
            sock = opened(9000)
            sock.sendall(b"x" * 1000)
            reset(sock)
            sock = opened(80)
            sock.sendall(b"GET /delay/1 HTTP/1.1\r\nhost: fixed.example.com\r\n\r\n")
            reset(sock)
        time.sleep(1 + SETTLE)
    soak.still_serves()


def half_open(soak: Soak) -> None:
    """Peers that close one direction only, or half a request and then nothing more."""
    with soak.nothing_stays():
        halves: list[socket.socket] = []
        for _ in range(soak.count(500)):
            sock = opened(9001)
            sock.sendall(b"abc")
            sock.shutdown(socket.SHUT_WR)
            soak.expect(sock.recv(100) == b"got 3 bytes at api.example.com\n", "a half-close was not passed on")
            halves.append(sock)
            half = opened(80)
            half.sendall(GET[:30])
            halves.append(half)
        soak.still_serves()
        for sock in halves:
            sock.close()
    soak.still_serves()


def vanished(soak: Soak) -> None:
    """Peers that go without a packet: neither FIN nor RST ever comes."""
    _vanished_sites(soak)
    _vanished_clients(soak)
    soak.still_serves()


def _vanished_sites(soak: Soak) -> None:
    tunnels = [_talking() for _ in range(soak.count(300))]
    pooled = [_served() for _ in range(soak.count(300))]
    with silent("eth0"):
        started = time.monotonic()
        for sock in tunnels:
            soak.expect(_is_ended(sock), "a tunnel outlived its idle timeout")
        soak.notes.append(f"{len(tunnels)} tunnels ended after {time.monotonic() - started:.1f} s")
        for sock in (*tunnels, *pooled):
            sock.close()
        soak.expect_few_descriptors()


def _vanished_clients(soak: Soak) -> None:
    """Some with a tunnel, some after an answer, some in the middle of a request, some before the first byte."""
    count = soak.count(200)
    gone = [make() for make in (_talking, _served, _begun, lambda: opened(80)) for _ in range(count)]
    with silent("lo"):
        started = time.monotonic()
        for sock in gone:
            sock.close()
        soak.expect_few_descriptors()
        soak.notes.append(f"{len(gone)} clients noticed after {time.monotonic() - started:.1f} s")


def _talking() -> socket.socket:
    sock = opened(9000)
    sock.sendall(b"x")
    sock.recv(64)
    return sock


def _served() -> socket.socket:
    sock = opened(80)
    sock.sendall(GET)
    sock.recv(4096)
    return sock


def _begun() -> socket.socket:
    sock = opened(80)
    sock.sendall(GET[:30])
    return sock


def _is_ended(sock: socket.socket) -> bool:
    with suppress(ConnectionResetError):
        return sock.recv(64) == b""
    return True


@contextmanager
def silent(interface: str) -> Iterator[None]:
    """Lose every packet on an interface; of the loopback one, those to and from the proxy."""
    ports = ["--sport", "15001"], ["--dport", "15001"]
    words = [["-p", "tcp", *port] for port in ports] if interface == "lo" else [[]]
    rules = [
        [chain, way, interface, *match, "-j", "DROP"]
        for chain, way in (("INPUT", "-i"), ("OUTPUT", "-o"))
        for match in words
    ]
    for rule in rules:
        run_command("iptables", "-w", "-I", *rule)
    try:
        yield
    finally:
        for rule in rules:
            run_command("iptables", "-w", "-D", *rule)


def limit(soak: Soak) -> None:
    """More clients than there may be: they wait, an operator does not, and they are served when others go."""
    resting = [_served() for _ in range(LIMIT)]
    waiting = [opened(80) for _ in range(20)]
    for sock in waiting:
        sock.sendall(GET)
        sock.settimeout(0.02)
        with suppress(TimeoutError):
            soak.expect(not sock.recv(4096), "a client too many was served")
    soak.expect("downstream_cx_overload_active: 1" in admin("/stats"), "the statistics know of no overload")
    soak.expect(admin("/ready") == "LIVE\n", "the admin port is closed, too")
    for sock in resting:
        sock.close()
    started = time.monotonic()
    for sock in waiting:
        sock.settimeout(10)
        soak.expect(sock.recv(4096).startswith(b"HTTP/1.1 200"), "a client that waited was not served")
        sock.close()
    soak.notes.append(f"{len(waiting)} that waited were served in {time.monotonic() - started:.2f} s")
    soak.still_serves()
    soak.expect("downstream_cx_overload_active: 0" in admin("/stats"), "the overload does not end")


def admin(path: str) -> str:
    with urlopen(f"http://127.0.0.1:{ADMIN}{path}", timeout=5) as answer:
        text: str = answer.read().decode()
        return text


def drain(soak: Soak) -> None:
    """SIGTERM: idle HTTP and silent clients go, requests are answered, TCP may go on for the drain time."""
    tunnel, idle_, mute = _talking(), _served(), opened(80)
    busy = opened(80)
    busy.sendall(b"GET /delay/1 HTTP/1.1\r\nhost: fixed.example.com\r\n\r\n")
    time.sleep(0.2)
    soak.engine.process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    soak.expect(_is_ended(idle_) and _is_ended(mute), "an idle client was not closed")
    soak.expect(time.monotonic() - started < 0.7, "an idle client was not closed at once")
    answer = busy.recv(4096)
    soak.expect(answer.startswith(b"HTTP/1.1 200") and b"connection: close" in answer, "a request was not answered")
    tunnel.sendall(b"y")
    soak.expect(tunnel.recv(64).endswith(b"y"), "a tunnel was cut off")
    tunnel.close()
    soak.expect(soak.engine.process.wait(10) == 0, f"it ended with status {soak.engine.process.returncode}")
    taken = time.monotonic() - started
    soak.notes.append(f"ended after {taken:.1f} s")
    soak.expect(taken < DRAIN_TIME / 2, f"it waited {taken:.1f} s for nobody")


def dns(soak: Soak) -> None:
    """A name server that answers late, wrongly, not at all, and then again."""
    order = soak.world.outside.order
    name = "www.example.com"
    for change in ({"dns_delay": 3}, {"dns_delay": 0}, {"dns": {name: None}}):
        order(change)
        time.sleep(2.5)
        soak.still_serves(0.5)
    time.sleep(2)
    gone = get(name)
    soak.expect(gone.status == 503, f"a name that is gone got {gone.status or gone.error}")
    soak.expect(gone.elapsed < 1, f"a name that is gone took {gone.elapsed:.2f} s")
    order({"dns": {name: ["192.0.2.11"]}})
    time.sleep(4)
    back = get(name)
    soak.expect(back.status == 200, f"a name that is back got {back.status or back.error}")


def reload(soak: Soak) -> None:
    """100 reloads while requests run: none that is allowed may fail."""
    stop = threading.Event()
    documents = read_stream(POLICY)
    failures: list[str] = []
    served = [0] * 4

    def ask(number: int) -> None:
        while not stop.is_set():
            with opened(80) as sock:
                sock.settimeout(10)
                for _ in range(20):
                    sock.sendall(GET)
                    head = sock.recv(4096)
                    if not head.startswith(b"HTTP/1.1 200"):
                        failures.append(repr(head[:60]))
                        break
                    served[number] += 1
                    if b"connection: close" in head:
                        break

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, number) for number in range(4)]
        for number in range(soak.count(100)):
            soak.engine.rewrite(documents if number % 2 else documents[:-1])
            soak.engine.process.send_signal(signal.SIGHUP)
            time.sleep(0.1)
        stop.set()
        for each in asking:
            if error := each.exception():
                failures.append(repr(error))
    soak.notes.append(f"{sum(served)} requests served")
    soak.expect(not failures, f"{len(failures)} failed, first {failures[:1]}")
    soak.expect(sum(served) > 50, f"only {sum(served)} requests were served")


def large(soak: Soak) -> None:
    """A reload of a large policy: what passes hardly notices."""
    documents = [*read_stream(POLICY), *(_entry(number) for number in range(soak.count(3000)))]
    soak.engine.policy.write_text("\n---\n".join(map(json.dumps, documents)))
    soak.engine.process.send_signal(signal.SIGHUP)
    taken: list[float] = []
    reloaded = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(_time_requests, reloaded, taken)
        started = time.monotonic()
        try:
            while "policy_reloads: 1" not in admin("/stats") and time.monotonic() < started + 60:
                time.sleep(0.1)
        finally:
            reloaded.set()
        seconds = time.monotonic() - started
        asking.result()
    soak.expect(seconds < 60, "the policy was not reloaded within a minute")
    slowest = max(taken) * 1000
    soak.notes.append(f"{len(documents)} documents in {seconds:.1f} s, slowest request {slowest:.0f} ms")
    soak.expect(slowest < STALL, f"a request took {slowest:.0f} ms")
    soak.still_serves()


def _time_requests(stop: threading.Event, taken: list[float]) -> None:
    with opened(80) as sock:
        while not stop.is_set():
            before = time.monotonic()
            sock.sendall(GET)
            sock.recv(4096)
            taken.append(time.monotonic() - before)
            time.sleep(0.002)


def _entry(number: int) -> dict[str, Any]:
    ports = [{"number": 80, "name": "http", "protocol": "HTTP"}]
    spec = {"hosts": [f"host{number}.example.com"], "resolution": "STATIC", "ports": ports}
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": f"entry{number}"},
        "spec": {**spec, "endpoints": [{"address": SITE}]},
    }


CHECKS: dict[str, Callable[[Soak], None]] = {
    "idle": idle,
    "short": short,
    "stalled": stalled,
    "resets": resets,
    "half-open": half_open,
    "vanished": vanished,
    "limit": limit,
    "dns": dns,
    "reload": reload,
    "large": large,
    "drain": drain,
}


_IMPATIENT = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "DestinationRule",
    "metadata": {"name": "impatient"},
    "spec": {
        "host": "*.example.com",
        "trafficPolicy": {"connectionPool": {"tcp": {"idleTimeout": "3s"}, "http": {"idleTimeout": "3s"}}},
    },
}
MORE: dict[str, list[dict[str, Any]]] = {"vanished": [_IMPATIENT]}
OPTIONS = {
    # the proxy's own limit leaves two descriptors for each connection; idle HTTP connections need only one
    "idle": ["--max-connections", "15000"],
    "vanished": ["--option", "header_timeout=2s"],
    "limit": ["--max-connections", str(LIMIT)],
    "drain": ["--drain-time", str(DRAIN_TIME)],
}


def run(world: World, engine_name: str, name: str, scale: float) -> str:
    """One check with a proxy of its own; the line to print."""
    settings = Settings(engine_name, "istio", None, {}, Identity())
    documents = [*read_stream(POLICY), *MORE.get(name, [])]
    engine = Engine(world, settings, documents, f"soak-{name}", OPTIONS.get(name, ()))
    try:
        engine.wait_until_ready()
        time.sleep(1.0)
        soak = Soak(world, engine, scale)
        soak.still_serves()
        CHECKS[name](soak)
    except (EngineError, OSError) as error:
        return f"FAIL {name} {type(error).__name__}: {error}"
    finally:
        engine.stop()
    if soak.complaints:
        first = soak.complaints[0]
        return f"FAIL {name} {first} ({len(soak.complaints)} complaints; {'; '.join(soak.notes)})"
    return f"ok {name} {'; '.join(soak.notes)}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("world", type=Path)
    parser.add_argument("--pki", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--scale", type=float, required=True)
    parser.add_argument("--check", action="append", choices=list(CHECKS))
    options = parser.parse_args()
    with build(options.world, options.pki, options.folder) as world:
        allow_many_connections()
        look_for_vanished_peers()
        for name in options.check or CHECKS:
            say(run(world, options.engine, name, options.scale))


if __name__ == "__main__":
    main()
