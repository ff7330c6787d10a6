"""The address a client meant, read from its redirected socket."""

from __future__ import annotations

import socket
import struct

from mesh_iptables.proxy.wire import Address

SO_ORIGINAL_DST = 80  # <linux/netfilter_ipv4.h>; the same number at level SOL_IPV6
_SOL_IPV6 = 41

_MAPPED = b"\x00" * 10 + b"\xff\xff"


def parse_sockaddr_in(data: bytes) -> Address:
    """A `struct sockaddr_in`; ValueError when it is none."""
    if len(data) < 8:
        raise ValueError("address cut short")
    port, packed = struct.unpack_from("!H4s", data, 2)
    return socket.inet_ntop(socket.AF_INET, packed), port


def parse_sockaddr_in6(data: bytes) -> Address:
    """A `struct sockaddr_in6`, an IPv4 address inside it as IPv4; ValueError when it is none."""
    if len(data) < 24:
        raise ValueError("address cut short")
    port, _flow, packed = struct.unpack_from("!HI16s", data, 2)
    if packed.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[12:]), port
    return socket.inet_ntop(socket.AF_INET6, packed), port


def plain(address: tuple[object, ...]) -> Address:
    """What `getsockname` and `accept` give, as address and port; IPv4 inside IPv6 as IPv4."""
    host, port = str(address[0]), address[1]
    assert isinstance(port, int)
    if host.startswith("::ffff:") and "." in host:
        host = host[7:]
    return host, port


def read_original_dst(sock: socket.SocketType, *, tproxy: bool = False) -> Address:
    """Where the client wanted to go.

    A connection that was not redirected (made to the proxy's port itself, or brought by TPROXY) has no record in
    the kernel's table: then it is the socket's own local address. OSError when the socket is gone.
    """
    local = sock.getsockname()
    if not tproxy:
        try:
            return _from_conntrack(sock, local)
        except OSError:
            pass
    return plain(local)


def _from_conntrack(sock: socket.SocketType, local: tuple[object, ...]) -> Address:
    if len(local) == 2 or "." in str(local[0]):
        return parse_sockaddr_in(sock.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16))
    return parse_sockaddr_in6(sock.getsockopt(_SOL_IPV6, SO_ORIGINAL_DST, 28))
