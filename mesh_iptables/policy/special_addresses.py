"""Addresses that no public name honestly leads to, and what they are. Pure.

Whoever controls the records of an allowed name could point it at one of them, and let the proxy reach what is meant
for this machine alone (DNS rebinding). Private networks are not among them: mirrors of packages live there.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

_METADATA = "a cloud's metadata service"

SPECIAL: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "unspecified"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    # outside 169.254.0.0/16: Alibaba Cloud, Oracle Cloud, Azure; then EC2 and Google Cloud by IPv6
    ("100.100.100.200/32", _METADATA),
    ("192.0.0.192/32", _METADATA),
    ("168.63.129.16/32", _METADATA),
    ("fd00:ec2::254/128", _METADATA),
    ("fd20:ce::254/128", _METADATA),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
)
"""Networks, and what they are."""

EMBEDDING: tuple[tuple[str, int], ...] = (("::ffff:0:0/96", 96), ("::/96", 96), ("64:ff9b::/96", 96), ("2002::/16", 16))
"""IPv6 networks whose addresses hold an IPv4 address, and the bit where it begins: mapped, compatible, NAT64, 6to4."""

_NETWORKS = tuple((ip_network(network), what) for network, what in SPECIAL)
_EMBEDDING = tuple((IPv6Network(network), at) for network, at in EMBEDDING)


def special(text: str) -> str:
    """What kind of special address this is; empty for all others."""
    return _special(ip_address(text))


def _special(address: IPv4Address | IPv6Address) -> str:
    for network, what in _NETWORKS:
        if address in network:
            return what
    if isinstance(address, IPv6Address):
        for embedding, at in _EMBEDDING:
            if address in embedding:
                return _special(IPv4Address(int(address) >> (96 - at) & 0xFFFFFFFF))
    return ""


def refused_networks(permitted: tuple[str, ...], own: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    """All special networks, IPv4 ones in each of their IPv6 forms too, and `own` ones, less the permitted addresses."""
    found: list[IPv4Network | IPv6Network] = [ip_network(network) for network in own]
    for network, _ in _NETWORKS:
        found.append(network)
        if isinstance(network, IPv4Network):
            found += [_embedded(network, *embedding) for embedding in _EMBEDDING]
    for text in permitted:
        found = [part for network in found for part in _without(network, ip_network(text))]
    return tuple(found)


def _embedded(network: IPv4Network, into: IPv6Network, at: int) -> IPv6Network:
    base = int(into.network_address) | int(network.network_address) << (96 - at)
    return IPv6Network((base, at + network.prefixlen))


def _without(network: IPv4Network | IPv6Network, hole: IPv4Network | IPv6Network) -> list[IPv4Network | IPv6Network]:
    if isinstance(network, IPv4Network) and isinstance(hole, IPv4Network) and hole.subnet_of(network):
        return [*network.address_exclude(hole)]
    if isinstance(network, IPv6Network) and isinstance(hole, IPv6Network) and hole.subnet_of(network):
        return [*network.address_exclude(hole)]
    return [network]
