"""A Pod and its outside, and what becomes of real connections between them.

The Pod runs a stand-in proxy on port 15001 (wildcard address, IP_TRANSPARENT) and an application; the outside runs a
server on every address. Whoever accepts a connection answers with its own name and the address that the client meant.
"""

from __future__ import annotations

import ctypes
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial

from tests.netns.namespace import Namespace, new_namespace

POD, SECOND, OUTSIDE = "10.77.0.2", "10.77.0.3", "10.77.0.1"
POD6, OUTSIDE6 = "fd77::2", "fd77::1"
ROUTED = "10.66.0.5"  # no address of the Pod, but the outside sends it there
INCLUDED, EXCLUDED, OTHER = "10.88.0.1", "10.88.0.9", "10.99.0.1"
PROXY_UID, APP_UID, ROOT_UID = 1337, 1000, 0
SSH, CAPTURED, LEFT_ALONE, ON_ADDRESS, CLOSED = 22, 8080, 8081, 8090, 9999
IP_TRANSPARENT, SO_ORIGINAL_DST, SOL_IPV6 = 19, 80, 41
_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class Probe:
    """One connection: who makes it, where, and to what."""

    origin: str  # "pod" or "outside"
    uid: int
    address: str
    port: int
    source_port: int = 0  # 0: any


@dataclass
class World:
    """The two namespaces with their listeners."""

    pod: Namespace
    outside: Namespace
    listeners: dict[socket.socket, str] = field(default_factory=dict)

    def outcomes(self, probes: Iterable[Probe], seconds: float) -> dict[Probe, str]:
        """Make all connections side by side: `proxy 10.88.0.1:80`, `refused`, or `timeout` after so many seconds."""
        clients = {self._client(probe): probe for probe in probes}
        try:
            return _Exchange(self.listeners, clients).run(seconds)
        finally:
            for client in clients:
                client.close()

    def stop(self, name: str) -> None:
        """Close the listeners of that name."""
        for listener in [found for found, who in self.listeners.items() if who == name]:
            del self.listeners[listener]
            listener.close()

    @contextmanager
    def connection(self, address: str, port: int) -> Iterator[tuple[socket.socket, socket.socket]]:
        """An open connection from outside to the application, both ends of it; none waits longer than 3 s."""
        listener = next(found for found in self.listeners if found.getsockname()[1] == port)
        with self.outside.entered():
            client = socket.socket()
        with closing(client):
            client.settimeout(3)
            client.connect((address, port))
            server, _ = listener.accept()
            with closing(server):
                server.settimeout(3)
                yield client, server

    def _client(self, probe: Probe) -> socket.socket:
        namespace = self.pod if probe.origin == "pod" else self.outside
        with namespace.entered(), _owned_by(probe.uid):
            client = socket.socket(_family(probe.address), socket.SOCK_STREAM)
        if probe.source_port:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind(("", probe.source_port))
        client.setblocking(False)
        client.connect_ex((probe.address, probe.port))
        return client


@contextmanager
def new_world() -> Iterator[World]:
    """Both namespaces, connected, with all listeners open; gone when the block ends."""
    with new_namespace() as pod, new_namespace() as outside, ExitStack() as stack:
        _connect(pod, outside)
        world = World(pod, outside)
        for namespace, name, address, port, is_transparent in _listeners(pod, outside):
            with namespace.entered(), _owned_by(PROXY_UID if name == "proxy" else APP_UID):
                listener = stack.enter_context(closing(socket.socket(_family(address), socket.SOCK_STREAM)))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if is_transparent:
                listener.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
            if ":" in address:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((address, port))
            listener.listen(64)
            listener.setblocking(False)
            world.listeners[listener] = name
        yield world


def _listeners(pod: Namespace, outside: Namespace) -> Iterator[tuple[Namespace, str, str, int, bool]]:
    yield pod, "proxy", "0.0.0.0", 15001, True
    for port in (SSH, CAPTURED, LEFT_ALONE):
        yield pod, "app", "0.0.0.0", port, False
    yield pod, "app", POD, ON_ADDRESS, False
    yield pod, "app", "::", CAPTURED, False
    yield outside, "server", "0.0.0.0", 80, False
    yield outside, "server", "::", 80, False


def _connect(pod: Namespace, outside: Namespace) -> None:
    """A veth pair with fixed neighbours: the IPv6 lockdown refuses neighbour discovery, too."""
    pod_mac, outside_mac = "02:00:00:00:00:02", "02:00:00:00:00:01"
    outside.run(
        "ip", "-batch", "-",
        stdin=f"""
            link add eth0 address {outside_mac} type veth peer name eth0 address {pod_mac} netns {pod.name}
            addr add {OUTSIDE}/24 dev eth0
            addr add {INCLUDED}/24 dev lo
            addr add {EXCLUDED}/24 dev lo
            addr add {OTHER}/24 dev lo
            addr add {OUTSIDE6}/64 dev eth0 nodad
            link set eth0 up
            route add 10.66.0.0/24 via {POD}
            neigh replace {POD6} lladdr {pod_mac} dev eth0 nud permanent
        """,
    )  # fmt: skip
    pod.run(
        "ip", "-batch", "-",
        stdin=f"""
            addr add {POD}/24 dev eth0
            addr add {SECOND}/24 dev eth0
            addr add {POD6}/64 dev eth0 nodad
            link set eth0 up
            route add default via {OUTSIDE}
            neigh replace {OUTSIDE6} lladdr {outside_mac} dev eth0 nud permanent
        """,
    )  # fmt: skip


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@contextmanager
def _owned_by(number: int) -> Iterator[None]:
    """Sockets that this thread makes meanwhile are those of this user and group."""
    _libc.setfsgid(number)
    _libc.setfsuid(number)
    try:
        yield
    finally:
        _libc.setfsuid(0)
        _libc.setfsgid(0)


class _Exchange:
    """All clients and listeners in one loop; no side ever waits for another."""

    def __init__(self, listeners: dict[socket.socket, str], clients: dict[socket.socket, Probe]) -> None:
        self._selector = selectors.DefaultSelector()
        self._clients = clients
        self._outcomes: dict[Probe, str] = {}
        for listener, name in listeners.items():
            self._watch(listener, selectors.EVENT_READ, partial(self._accept, listener, name))
        for client in clients:
            self._watch(client, selectors.EVENT_WRITE, partial(self._connected, client))

    def run(self, seconds: float) -> dict[Probe, str]:
        deadline = time.monotonic() + seconds
        while len(self._outcomes) < len(self._clients) and (left := deadline - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                key.data()
        self._selector.close()
        return {probe: self._outcomes.get(probe, "timeout") for probe in self._clients.values()}

    def _watch(self, found: socket.socket, events: int, then: Callable[[], None]) -> None:
        self._selector.register(found, events, then)

    def _accept(self, listener: socket.socket, name: str) -> None:
        try:
            accepted, _ = listener.accept()
        except OSError:  # the client has gone already
            return
        accepted.setblocking(False)
        answer = f"{name} {_meant_address(accepted)}".encode()
        self._watch(accepted, selectors.EVENT_READ, partial(self._answer, accepted, answer))

    def _answer(self, accepted: socket.socket, answer: bytes) -> None:
        self._selector.unregister(accepted)
        with closing(accepted):
            try:
                if accepted.recv(64):
                    accepted.send(answer)
            except OSError:  # reset; the client tells
                return

    def _connected(self, client: socket.socket) -> None:
        self._selector.unregister(client)
        if error := client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._end(client, _name(error))
            return
        client.send(b"who are you?")
        self._watch(client, selectors.EVENT_READ, partial(self._read, client))

    def _read(self, client: socket.socket) -> None:
        self._selector.unregister(client)
        try:
            self._end(client, client.recv(256).decode() or "closed")
        except OSError as error:
            self._end(client, _name(error.errno or 0))

    def _end(self, client: socket.socket, outcome: str) -> None:
        self._outcomes[self._clients[client]] = outcome


def _name(error: int) -> str:
    return {111: "refused", 104: "reset", 110: "timeout", 113: "unreachable"}.get(error, f"error {error}")


def _meant_address(accepted: socket.socket) -> str:
    """What the client connected to: as REDIRECT remembers it, else the socket's own address."""
    if accepted.family == socket.AF_INET6:
        host, port = accepted.getsockname()[:2]
        return f"[{host}]:{port}"
    try:
        raw = accepted.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
    except OSError:  # nothing here uses conntrack
        host, port = accepted.getsockname()
    else:
        host, port = socket.inet_ntoa(raw[4:8]), int.from_bytes(raw[2:4])
    return f"{host}:{port}"
