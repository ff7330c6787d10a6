"""Engine envoy in a Pod: what it passes through, what it keeps closed, how many it takes, how it ends."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ..netns.namespace import Namespace
from .test_interception import NEW, OLD, as_user, needs_envoy, running

pytestmark = [pytest.mark.netns, needs_envoy]
POD, ELSEWHERE = "10.77.0.2", "10.77.0.9"
PORT, HTTP, ADMIN = 8080, 8081, 15000
_PATIENCE = 15.0
POLICY = """\
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
spec: {meshConfig: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: [a.example.com]
  resolution: STATIC
  ports: [{number: 8080, name: http, protocol: HTTP, targetPort: 8081}]
  endpoints: [{address: 127.0.0.1}]
"""
# Speaks first, then says everything again.
APP = """
import socketserver, sys
class Talk(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"hello\\n")
        while data := self.request.recv(100):
            self.request.sendall(data)
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer((sys.argv[1], int(sys.argv[2])), Talk).serve_forever()
"""
# Takes its time.
SITE = """
import http.server, time
class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        time.sleep(2 if self.path == "/slow" else 0)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", 8081), Page).serve_forever()
"""


@pytest.fixture
def pod(pair: tuple[Namespace, Namespace]) -> Namespace:
    """Whoever calls its address from within passes the rules of istio-1.0, too."""
    return pair[0]


@contextmanager
def envoy(pod: Namespace, tmp_path: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """The engine with a policy that names the app's port, ready."""
    log = tmp_path / "log"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))  # that of pytest is root's alone
        folder.chmod(0o755)
        (folder / "policy.yaml").write_text(POLICY)
        program = (sys.executable, "-m", "mesh_iptables", "proxy", "--engine", "envoy", "--policy", str(folder))
        process = stack.enter_context(running(pod, *as_user(1337), *program, *words, log=log))
        stack.enter_context(pod.entered())
        wait(lambda: status("GET", "127.0.0.1", ADMIN, "/ready") == 200, log)
        yield process


def wait(done: Callable[[], bool], log: Path | None = None) -> None:
    limit = time.monotonic() + _PATIENCE
    while not done():
        assert time.monotonic() < limit, log.read_text() if log else ""
        time.sleep(0.05)


def status(method: str, address: str, port: int, path: str, host: str = "") -> int:
    """The status of an answer; 0 if there was none."""
    connection = http.client.HTTPConnection(address, port, timeout=10)
    try:
        connection.request(method, path, headers={"host": host} if host else {})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def greeting(address: str, port: int) -> bytes:
    """What a server says first; nothing if the connection is refused or closed."""
    try:
        with socket.create_connection((address, port), timeout=10) as sock:
            return sock.recv(100)
    except ConnectionError:
        return b""


@contextmanager
def apps(pod: Namespace, *places: tuple[str, int]) -> Iterator[None]:
    with ExitStack() as stack:
        for address, port in places:
            stack.enter_context(running(pod, *as_user(0), "/usr/bin/python3", "-c", APP, address, str(port)))
        with pod.entered():
            for address, port in places:
                wait(lambda place=(address, port): listens(*place))  # type: ignore[misc]
        yield


def listens(address: str, port: int) -> bool:
    number = int.from_bytes(socket.inet_aton(address), sys.byteorder)
    return f" {number:08X}:{port:04X} 00000000:0000 0A " in Path("/proc/thread-self/net/tcp").read_text()


def test_a_server_of_the_pod_speaks_first_on_a_port_that_the_policy_names(pod: Namespace, tmp_path: Path) -> None:
    pod.mesh_iptables("apply", *OLD, "-b", "*")
    with apps(pod, ("0.0.0.0", PORT), ("0.0.0.0", 5432)), envoy(pod, tmp_path):
        assert greeting(POD, PORT) == greeting(POD, 5432) == b"hello\n"


@pytest.mark.parametrize("rules", [OLD, NEW], ids=["istio-1.0", "istio-1.2x"])
def test_its_own_ports_are_closed_to_the_outside(
    rules: tuple[str, ...], pair: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    pod, outside = pair
    pod.mesh_iptables("apply", *rules, "-b", "*")
    with apps(pod, ("0.0.0.0", PORT)), envoy(pod, tmp_path), outside.entered():
        assert greeting(POD, PORT) == b"hello\n"
        for port in (ADMIN, 15001, 15006):
            assert status("GET", POD, port, "/ready") == 0
    log = (tmp_path / "log").read_text()
    assert log.count(f"{POD}:15006") == 1  # it did not run in a circle


def test_under_the_newer_rules_an_app_is_reached_where_it_listens(
    pair: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    pod, outside = pair
    pod.mesh_iptables("apply", *NEW, "-b", "*")
    with apps(pod, (POD, PORT), ("127.0.0.1", 5432)), envoy(pod, tmp_path), outside.entered():
        assert greeting(POD, PORT) == b"hello\n"
        assert greeting(POD, 5432) == b""


def test_beyond_its_limit_new_connections_are_closed(pod: Namespace, tmp_path: Path) -> None:
    pod.mesh_iptables("apply", *OLD)
    with apps(pod, ("0.0.0.0", PORT)), envoy(pod, tmp_path, "--max-connections", "2"), ExitStack() as stack:
        for _ in range(2):
            sock = stack.enter_context(socket.create_connection((POD, PORT), timeout=10))
            assert sock.recv(100) == b"hello\n"
        assert greeting(POD, PORT) == b""
        assert status("GET", "127.0.0.1", ADMIN, "/ready") == 200
        stack.close()
        wait(lambda: greeting(POD, PORT) == b"hello\n")


def test_a_request_under_way_is_answered_and_an_idle_connection_holds_nothing_up(
    pod: Namespace, tmp_path: Path
) -> None:
    pod.mesh_iptables("apply", *OLD)
    site = running(pod, *as_user(0), "/usr/bin/python3", "-c", SITE)
    with site, envoy(pod, tmp_path, "--drain-time", "25") as process:
        wait(lambda: status("GET", ELSEWHERE, PORT, "/", "a.example.com") == 200)
        idle, busy = (http.client.HTTPConnection(ELSEWHERE, PORT, timeout=10) for _ in range(2))
        idle.request("GET", "/", headers={"host": "a.example.com"})
        assert idle.getresponse().status == 200
        busy.request("GET", "/slow", headers={"host": "a.example.com"})
        time.sleep(0.3)
        started = time.monotonic()
        process.terminate()
        time.sleep(0.5)
        assert status("GET", ELSEWHERE, PORT, "/", "a.example.com") == 0
        answer = busy.getresponse()
        assert (answer.status, answer.getheader("connection")) == (200, "close")
        assert process.wait(20) == 0
        assert time.monotonic() - started < 10
        idle.close()
        busy.close()


@pytest.mark.parametrize("again", [False, True], ids=["its time is over", "a second signal"])
def test_a_tcp_connection_has_its_time(pod: Namespace, tmp_path: Path, *, again: bool) -> None:
    pod.mesh_iptables("apply", *OLD)
    drain = 25.0 if again else 2.0
    app, engine = apps(pod, ("0.0.0.0", PORT)), envoy(pod, tmp_path, "--drain-time", str(drain))
    with app, engine as process, socket.create_connection((POD, PORT), timeout=10) as sock:
        assert sock.recv(100) == b"hello\n"
        started = time.monotonic()
        process.terminate()
        time.sleep(0.7)
        sock.sendall(b"still here")
        assert sock.recv(100) == b"still here"
        if again:
            process.terminate()
        assert process.wait(20) == 0
        assert time.monotonic() - started < 12
        assert again or time.monotonic() - started >= drain
        assert not sock.recv(100)


def test_a_new_policy_leaves_inbound_connections_their_time(pod: Namespace, tmp_path: Path) -> None:
    pod.mesh_iptables("apply", *OLD)
    with apps(pod, ("0.0.0.0", PORT)), envoy(pod, tmp_path, "--drain-time", "2") as process:
        with socket.create_connection((POD, PORT), timeout=20) as sock:
            assert sock.recv(100) == b"hello\n"
            os.kill(process.pid, signal.SIGHUP)
            wait(lambda: "policy reloaded" in (tmp_path / "log").read_text())
            sock.sendall(b"still here")
            assert sock.recv(100) == b"still here"
            assert not sock.recv(100)
        assert greeting(POD, PORT) == b"hello\n"
