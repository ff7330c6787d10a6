"""Prove with real connections that the rules are in force: what --run-validation does.

The process plays both parts: the proxy, which listens where the rules redirect to, and a call of the Pod to itself, to
a port at which nobody listens. It arrives at a listener, with that port as its original destination, only by the rules
for calls that the proxy's own user or group makes.
"""

from __future__ import annotations

import _socket
import os
import time

from mesh_iptables.errors import ProbeFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mesh_iptables.dialect import Probe

SOL_IP, SOL_IPV6, ORIGINAL_DESTINATION = 0, 41, 80
LISTEN = {4: "127.0.0.1", 6: "::1"}
CALL = {4: "127.0.0.6", 6: "::6"}
FAMILY = {4: _socket.AF_INET, 6: _socket.AF_INET6}
KIND = _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
ANSWER_SECONDS = 1.0
EAGAIN = 11


def prove(probe: Probe) -> str:
    """Wait for one connection to arrive; what was seen, in one line. ProbeFailed when none does in time."""
    deadline = time.monotonic() + probe.seconds
    listeners = [_listener(probe.version, port) for port in sorted({probe.outbound_port, probe.inbound_port})]
    target = _target(probe)
    try:
        while True:
            caller = _call(probe, target)
            port = _wait(listeners, probe, min(deadline, time.monotonic() + ANSWER_SECONDS))
            caller.close()
            if port:
                return f"validation: a connection to {target} port {probe.port} arrived at the proxy's port {port}"
            if time.monotonic() >= deadline:
                raise ProbeFailed(
                    f"a connection to {target} port {probe.port} did not arrive at the proxy's ports "
                    f"{probe.outbound_port} and {probe.inbound_port} within {probe.seconds:g} s "
                    f"(made by uid {os.geteuid() or probe.uid}, gid {os.getegid()}; it must be one of the proxy's)"
                )
    finally:
        for _, listener in listeners:
            listener.close()


def _target(probe: Probe) -> str:
    """The address to call. With a wide loopback network 127.0.0.6 is localhost to the rules: then the Pod's own."""
    call = int.from_bytes(_socket.inet_aton(CALL[4]))
    if probe.version == 6 or call & probe.loopback_mask != 0x7F000001 & probe.loopback_mask:
        return CALL[probe.version]
    from mesh_iptables.apply.netlink import NETLINK_ROUTE, Netlink, interface_addresses

    with Netlink(NETLINK_ROUTE) as link:
        found = [address for _, version, address in interface_addresses(link) if version == 4 and address >> 24 != 127]
    return _socket.inet_ntoa(found[0].to_bytes(4)) if found else CALL[4]


def _listener(version: int, port: int) -> tuple[int, _socket.socket]:
    listener = _socket.socket(FAMILY[version], KIND)
    listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, 1)
    try:
        # The proxy's ports: REDIRECT sends what leaves the Pod to 127.0.0.1, or ::1.
        listener.bind((LISTEN[version], port))
        listener.listen(8)
    except OSError as error:
        listener.close()
        raise ProbeFailed(f"cannot listen on {LISTEN[version]} port {port}: {error.strerror}") from None
    return port, listener


def _call(probe: Probe, target: str) -> _socket.socket:
    caller = _owned_socket(probe)
    if target == CALL[probe.version]:
        caller.bind((LISTEN[probe.version], 0))
    caller.connect_ex((target, probe.port))
    return caller


def _owned_socket(probe: Probe) -> _socket.socket:
    """A socket of the proxy's user: the owner match asks who made it, and root may be anybody meanwhile."""
    if os.geteuid() != 0:
        return _socket.socket(FAMILY[probe.version], KIND)
    try:
        os.seteuid(probe.uid)
    except PermissionError:  # root without the capability SETUID: the answer will tell
        return _socket.socket(FAMILY[probe.version], KIND)
    try:
        return _socket.socket(FAMILY[probe.version], KIND)
    finally:
        os.seteuid(0)


def _wait(listeners: list[tuple[int, _socket.socket]], probe: Probe, until: float) -> int:
    """The port of the listener that the call reached; 0 when there was none until then."""
    while time.monotonic() < until:
        for port, listener in listeners:
            try:
                descriptor, _ = listener._accept()  # type: ignore[attr-defined]  # the plain form of accept
            except OSError as error:
                if error.errno != EAGAIN:
                    raise
                continue
            connection = _socket.socket(FAMILY[probe.version], _socket.SOCK_STREAM, fileno=descriptor)
            seen = _original_port(connection, probe.version)
            if seen == probe.port:
                connection.send(str(seen).encode())
            connection.close()
            if seen == probe.port:
                return port
        time.sleep(0.005)
    return 0


def _original_port(connection: _socket.socket, version: int) -> int:
    level = SOL_IP if version == 4 else SOL_IPV6
    try:
        packed = connection.getsockopt(level, ORIGINAL_DESTINATION, 28)
    except OSError:
        return 0
    return int.from_bytes(packed[2:4])
