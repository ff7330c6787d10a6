"""A Pod with a stand-in for today's proxy, an outside with servers and a resolver, and questions to them.

Whoever takes a connection or a datagram answers with its own name and the address that was meant. Everything is
answered by one thread; questions are asked one after the other.
"""

from __future__ import annotations

import ctypes
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from tests.netns.namespace import Namespace, new_namespace

POD, OUTSIDE, POD6, OUTSIDE6 = "10.79.0.2", "10.79.0.1", "fd79::2", "fd79::1"
POD_SECOND, OUTSIDE_SECOND = "10.80.0.2", "10.80.0.1"  # by the interface net1
SERVER, SERVER6 = "10.99.0.1", "fd99::1"  # out there
MACHINE = "10.66.0.5"  # no address of anybody: the outside sends it to the Pod by net1
PROXY_ID, APP_ID, ROOT_ID = 1337, 1000, 0
APP, LEFT_ALONE, SSH, TUNNEL, ON_ADDRESS = 8080, 8081, 22, 15008, 8090
IP_TRANSPARENT, ORIGINAL_DESTINATION, SOL_IPV6 = 19, 80, 41
PATIENCE = 0.4
_libc = ctypes.CDLL(None)


class Pod:
    """The two namespaces, and what answers in them."""

    def __init__(self, pod: Namespace, outside: Namespace, stack: ExitStack) -> None:
        self.pod = pod
        self.outside = outside
        self._stack = stack
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, "stop")
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def start(self) -> None:
        """Open all listeners of both sides and begin to answer."""
        for name, port in (("outbound", 15001), ("inbound", 15006), ("dns", 15053)):
            for address in ("0.0.0.0", "::"):
                self._tcp_listener(self.pod, name, address, port, uid=PROXY_ID, transparent=True)
        self._tcp_listener(self.pod, "tunnel", "0.0.0.0", TUNNEL, uid=PROXY_ID)
        for port in (APP, LEFT_ALONE, SSH):
            for address in ("0.0.0.0", "::"):
                self._tcp_listener(self.pod, "app", address, port, uid=APP_ID)
        self._tcp_listener(self.pod, "app", POD, ON_ADDRESS, uid=APP_ID)
        self._udp_server(self.pod, "dns", "127.0.0.1", 15053, uid=PROXY_ID)
        self._udp_server(self.pod, "dns", "::1", 15053, uid=PROXY_ID)
        for address in ("0.0.0.0", "::"):
            for port in (80, 81, 3306):
                self._tcp_listener(self.outside, "server", address, port)
            self._tcp_listener(self.outside, "resolver", address, 53)
        for address in (OUTSIDE, SERVER, OUTSIDE6, SERVER6):
            self._udp_server(self.outside, "resolver", address, 53)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; once is enough."""
        if self._thread.is_alive():
            self._wake.send(b".")
            self._thread.join()

    def close_listeners(self) -> None:
        """Close all that answers; after `stop`."""
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket) and key.data != "stop":
                self._selector.unregister(key.fileobj)
                key.fileobj.close()

    def listen_in_pod(self, name: str, address: str, port: int, *, uid: int = APP_ID) -> None:
        """One more listener."""
        self._tcp_listener(self.pod, name, address, port, uid=uid)

    def tcp(
        self,
        address: str,
        port: int,
        *,
        uid: int = APP_ID,
        gid: int | None = None,
        source: str = "",
        inbound: bool = False,
    ) -> str:
        """Who answers a connection, made in the Pod unless `inbound`; `refused`, `reset`, `timeout` …"""
        with self._socket(address, socket.SOCK_STREAM, uid, gid, inbound) as client:
            if source:
                client.bind((source, 0))
            try:
                client.connect((address, port))
                return client.recv(200).decode() or "closed"
            except TimeoutError:
                return "timeout"
            except OSError as error:
                return {111: "refused", 104: "reset", 113: "unreachable"}.get(error.errno or 0, str(error))

    def udp(self, address: str, port: int, *, uid: int = APP_ID, gid: int | None = None, source_port: int = 0) -> str:
        """Who answers a datagram of the Pod, and must answer from the address that was asked."""
        with self._socket(address, socket.SOCK_DGRAM, uid, gid, inbound=False) as client:
            if source_port:
                client.bind(("", source_port))
            try:
                client.connect((address, port))
                client.send(b"?")
                return client.recv(200).decode()
            except TimeoutError:
                return "timeout"
            except OSError as error:
                return {111: "refused", 1: "forbidden"}.get(error.errno or 0, str(error))

    @contextmanager
    def _socket(self, address: str, kind: int, uid: int, gid: int | None, inbound: bool) -> Iterator[socket.socket]:
        namespace = self.outside if inbound else self.pod
        with namespace.entered(), owned_by(uid, uid if gid is None else gid):
            client = socket.socket(_family(address), kind)
        with closing(client):
            client.settimeout(PATIENCE)
            yield client

    def _tcp_listener(
        self, namespace: Namespace, name: str, address: str, port: int, *, uid: int = 0, transparent: bool = False
    ) -> None:
        listener = self._bound(namespace, socket.SOCK_STREAM, address, port, uid, transparent=transparent)
        listener.listen(64)
        self._selector.register(listener, selectors.EVENT_READ, name)

    def _udp_server(self, namespace: Namespace, name: str, address: str, port: int, *, uid: int = 0) -> None:
        server = self._bound(namespace, socket.SOCK_DGRAM, address, port, uid, transparent=False)
        self._selector.register(server, selectors.EVENT_READ, name)

    def _bound(
        self, namespace: Namespace, kind: int, address: str, port: int, uid: int, *, transparent: bool
    ) -> socket.socket:
        with namespace.entered(), owned_by(uid, uid):
            found = self._stack.enter_context(closing(socket.socket(_family(address), kind)))
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if transparent:
            level, option = (SOL_IPV6, 75) if ":" in address else (socket.SOL_IP, IP_TRANSPARENT)
            found.setsockopt(level, option, 1)
        if ":" in address:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        found.bind((address, port))
        found.setblocking(False)
        return found

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data == "stop":
                    return
                found = key.fileobj
                assert isinstance(found, socket.socket)
                if found.type & socket.SOCK_DGRAM and not found.type & socket.SOCK_STREAM:
                    _answer_datagram(found, key.data)
                else:
                    _answer_connection(found, key.data)


def _answer_datagram(server: socket.socket, name: str) -> None:
    try:
        _, peer = server.recvfrom(200)
        server.sendto(name.encode(), peer)
    except OSError:
        return


def _answer_connection(listener: socket.socket, name: str) -> None:
    try:
        accepted, _ = listener.accept()
    except OSError:
        return
    with closing(accepted):
        try:
            accepted.send(f"{name} {_meant(accepted)}".encode())
        except OSError:
            return


def _meant(accepted: socket.socket) -> str:
    """What the client connected to: as conntrack remembers it, else the socket's own address."""
    version6 = accepted.family == socket.AF_INET6
    try:
        raw = accepted.getsockopt(SOL_IPV6 if version6 else socket.SOL_IP, ORIGINAL_DESTINATION, 28)
    except OSError:
        host, port = accepted.getsockname()[:2]
    else:
        packed = raw[8:24] if version6 else raw[4:8]
        host, port = socket.inet_ntop(accepted.family, packed), int.from_bytes(raw[2:4])
    return f"[{host}]:{port}" if version6 else f"{host}:{port}"


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@contextmanager
def owned_by(uid: int, gid: int) -> Iterator[None]:
    """Sockets that this thread makes meanwhile are those of this user and group."""
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)
    try:
        yield
    finally:
        _libc.setfsuid(0)
        _libc.setfsgid(0)


@contextmanager
def new_pod() -> Iterator[Pod]:
    """Both namespaces, connected by two links, with everything answering; gone when the block ends."""
    with new_namespace() as pod, new_namespace() as outside, ExitStack() as stack:
        _connect(pod, outside)
        world = Pod(pod, outside, stack)
        world.start()
        try:
            yield world
        finally:
            world.stop()


def _connect(pod: Namespace, outside: Namespace) -> None:
    """Two veth pairs; with fixed neighbours on the first, as the IPv6 lockdown refuses neighbour discovery, too."""
    pod_mac, outside_mac = "02:00:00:00:00:02", "02:00:00:00:00:01"
    outside.run(
        "ip", "-batch", "-",
        stdin=f"""
            link add eth0 address {outside_mac} type veth peer name eth0 address {pod_mac} netns {pod.name}
            link add net1 type veth peer name net1 netns {pod.name}
            addr add {OUTSIDE}/24 dev eth0
            addr add {OUTSIDE_SECOND}/24 dev net1
            addr add {SERVER}/32 dev lo
            addr add {OUTSIDE6}/64 dev eth0 nodad
            addr add {SERVER6}/128 dev lo
            link set eth0 up
            link set net1 up
            route add 10.66.0.0/24 via {POD_SECOND}
            neigh replace {POD6} lladdr {pod_mac} dev eth0 nud permanent
        """,
    )  # fmt: skip
    pod.run(
        "ip", "-batch", "-",
        stdin=f"""
            addr add {POD}/24 dev eth0
            addr add {POD_SECOND}/24 dev net1
            addr add {POD6}/64 dev eth0 nodad
            link set eth0 up
            link set net1 up
            route add default via {OUTSIDE}
            route add default via inet6 {OUTSIDE6}
            neigh replace {OUTSIDE6} lladdr {outside_mac} dev eth0 nud permanent
        """,
    )  # fmt: skip
