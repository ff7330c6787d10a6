"""Listening sockets: opened by ourselves, or handed in by descriptor (`--listen-fd`, systemd)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from mesh_iptables.apply.rights import right_remedy
from mesh_iptables.errors import MachineError, UsageError

_BACKLOG = 4096
_FIRST_FD = 3  # sd_listen_fds(3)
_IPV6_TRANSPARENT = 75  # <linux/in6.h>


class Role(Enum):
    """What arrives at a listener."""

    OUTBOUND = "outbound"
    INBOUND = "inbound"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Listening:
    """`own`: opened by this process, so in its own network namespace."""

    sock: socket.socket
    role: Role
    own: bool

    @property
    def port(self) -> int:
        port: int = self.sock.getsockname()[1]
        return port


def open_port(role: Role, port: int, address: str | None = None, *, transparent: bool = False) -> list[Listening]:
    """Listen on `port` at every address (or the one given), IPv6 too where there is any; raises MachineError."""
    if address is not None:
        return [_listen(role, address, port, transparent=transparent)]
    found = [_listen(role, "0.0.0.0", port, transparent=transparent)]
    if socket.has_ipv6 and os.path.exists("/proc/net/if_inet6"):
        with suppress(MachineError):  # IPv6 may be compiled in but switched off
            found.append(_listen(role, "::", port, transparent=transparent))
    return found


def _listen(role: Role, address: str, port: int, *, transparent: bool) -> Listening:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _set_for_accepted(sock)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if transparent:
            make_transparent(sock)
        sock.bind((address, port))
        sock.listen(_BACKLOG)
    except OSError as error:
        raise MachineError(f"cannot listen on {address} port {port}: {error.strerror or error}") from error
    return Listening(sock, role, own=True)


def _set_for_accepted(sock: socket.socket) -> None:
    """Accepted sockets inherit it, which saves a system call for each."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # some clients may be silent for ever: those that vanished without a FIN must be told from them
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def make_transparent(sock: socket.socket) -> None:
    """Let a socket take connections to other addresses than ours; raises MachineError without the right to do so."""
    try:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        else:
            sock.setsockopt(socket.SOL_IP, socket.IP_TRANSPARENT, 1)
    except PermissionError as error:
        raise MachineError(f"--transparent: {error.strerror}; {right_remedy('NET_ADMIN')}") from error


def check_transparent() -> None:
    """Raises MachineError where nobody of our rights can open a transparent socket."""
    with socket.socket() as sock:
        make_transparent(sock)


def is_handed_in(environ: Mapping[str, str]) -> bool:
    """Whether systemd opened sockets for us."""
    return bool(_from_systemd(environ))


def handed_in(fds: Iterable[int], ports: Mapping[int, Role], environ: Mapping[str, str]) -> list[Listening]:
    """Sockets that were opened by whoever started us; raises UsageError for a descriptor that is none.

    The role of a descriptor is its name (systemd's FileDescriptorName=), else follows from its port in `ports`, else
    is OUTBOUND.
    """
    named = _from_systemd(environ)
    return [_adopt(fd, named.get(fd, ""), ports) for fd in {**dict.fromkeys(fds), **named}]


def _from_systemd(environ: Mapping[str, str]) -> dict[int, str]:
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    count = environ.get("LISTEN_FDS", "0")
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    number = int(count) if count.isdecimal() else 0
    return {_FIRST_FD + i: names[i] if i < len(names) else "" for i in range(number)}


def _adopt(fd: int, name: str, ports: Mapping[int, Role]) -> Listening:
    try:
        sock = socket.socket(fileno=fd)
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) or sock.type != socket.SOCK_STREAM:
            raise OSError("not a listening TCP socket")
        sock.setblocking(False)
        _set_for_accepted(sock)
        port = sock.getsockname()[1]
    except OSError as error:
        raise UsageError(f"--listen-fd: {fd}: {error.strerror or error}") from error
    roles = {role.value: role for role in Role}
    return Listening(sock, roles.get(name) or ports.get(port, Role.OUTBOUND), own=False)
