"""Which addresses are this network namespace's own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

_NONLOCAL_BIND = {False: "/proc/sys/net/ipv4/ip_nonlocal_bind", True: "/proc/sys/net/ipv6/ip_nonlocal_bind"}
_LOCAL_IPV4, _LOCAL_IPV6 = "/proc/net/fib_trie", "/proc/net/if_inet6"


def is_own(address: str) -> bool:
    """Whether an address is one of our own."""
    ipv6 = ":" in address
    if not _can_bind(address, ipv6=ipv6):
        return False
    if _read(_NONLOCAL_BIND[ipv6]).strip() != "1":
        return True
    # such a machine lets everybody bind any address, its own or not
    return any(ip_address(address) in network for network in own_networks())


def _can_bind(address: str, *, ipv6: bool) -> bool:
    try:
        with socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
    except OSError:
        return False
    return True


def own_networks() -> tuple[IPv4Network | IPv6Network, ...]:
    """Our addresses as networks, most of them of one address; nothing where the kernel does not tell."""
    return (*parse_fib_trie(_read(_LOCAL_IPV4)), *parse_if_inet6(_read(_LOCAL_IPV6)))


def parse_fib_trie(text: str) -> Iterator[IPv4Network]:
    """The local IPv4 networks: a line `|-- ADDRESS`, and behind it `/LENGTH host LOCAL`."""
    address, found = "", set()
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            address = words[1]
        elif words[1:3] == ["host", "LOCAL"]:
            found.add(IPv4Network(address + words[0], strict=False))
    yield from sorted(found)


def parse_if_inet6(text: str) -> Iterator[IPv6Network]:
    """The IPv6 addresses of our interfaces: a line begins with the address in hexadecimal digits."""
    for line in text.splitlines():
        yield IPv6Network(IPv6Address(int(line.split()[0], 16)))


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""
