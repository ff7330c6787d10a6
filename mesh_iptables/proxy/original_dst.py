"""The address a client meant, read from its redirected socket."""

from __future__ import annotations

import socket
import struct

from mesh_iptables.proxy.wire import Address

SO_ORIGINAL_DST = 80  # <linux/netfilter_ipv4.h>; the same number at level SOL_IPV6
_SOL_IP, _SOL_IPV6 = 0, 41
_INET = int(socket.AF_INET)

_MAPPED = b"\x00" * 10 + b"\xff\xff"


def parse_sockaddr_in(data: bytes) -> Address:
    """A `struct sockaddr_in`; ValueError when it is none."""
    if len(data) < 8:
        raise ValueError("address cut short")
    return socket.inet_ntoa(data[4:8]), data[2] << 8 | data[3]


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


def read_original_dst(sock: socket.SocketType, family: int) -> Address:
    """Where the client wanted to go; `family` is the socket's.

    A connection that was not redirected (made to the proxy's port itself, or brought by TPROXY) may have no record
    in the kernel's table: then it is the socket's own local address. OSError when the socket is gone.
    """
    try:
        if family == _INET:
            return parse_sockaddr_in(sock.getsockopt(_SOL_IP, SO_ORIGINAL_DST, 16))
        return _of_ipv6_socket(sock)
    except OSError:
        return plain(sock.getsockname())


def _of_ipv6_socket(sock: socket.SocketType) -> Address:
    if sock.getsockname()[0].startswith("::ffff:"):
        return parse_sockaddr_in(sock.getsockopt(_SOL_IP, SO_ORIGINAL_DST, 16))
    return parse_sockaddr_in6(sock.getsockopt(_SOL_IPV6, SO_ORIGINAL_DST, 28))
