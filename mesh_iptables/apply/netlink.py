"""Ask and tell the kernel what needs no program: policy rules, local routes, names of nf_tables tables.

Numbers and layouts are those of <linux/rtnetlink.h>, <linux/fib_rules.h> and <linux/netfilter/nf_tables.h>. Going
there directly saves an init container the start of `ip` and `nft`, and the image iproute2.
"""

from __future__ import annotations

import _socket
import struct

from mesh_iptables.model import LoopbackAddress, RouteMarked
from mesh_iptables.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh_iptables.model import Family

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
NLMSG_ERROR, NLMSG_DONE = 2, 3
REQUEST, ACKNOWLEDGE, DUMP, CREATE_NEW = 0x1, 0x4, 0x300, 0x600
NEW_ADDRESS, DELETE_ADDRESS, GET_ADDRESS = 20, 21, 22
NEW_ROUTE, DELETE_ROUTE, GET_ROUTE = 24, 25, 26
NEW_RULE, DELETE_RULE, GET_RULE = 32, 33, 34
GET_NFT_TABLE = 10 << 8 | 1
TABLE_NAME, TABLE_FLAGS = 1, 2
AF: dict[Family, int] = {"ipv4": 2, "ipv6": 10}
NFT_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}

RULE_PRIORITY, RULE_MARK, RULE_TABLE, RULE_MASK = 6, 10, 15, 16
TO_TABLE = 1
ROUTE_DESTINATION, ROUTE_INTERFACE, ROUTE_GATEWAY, ROUTE_TABLE = 1, 4, 5, 15
ADDRESS, LOCAL_ADDRESS = 1, 2
LOCAL, BOOT, HOST_SCOPE, LOOPBACK = 2, 3, 254, 1
COMPACT_TABLE = 252  # what the 8-bit field says of a table with a larger number

_HEADER = struct.Struct("=IHHII")
_RULE = struct.Struct("=BBBBBBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ADDRESS = struct.Struct("=BBBBI")


class MarkRule(Value):
    """`ip rule`: packets with `mark` look up `table`."""

    priority: int
    mark: int
    mask: int
    table: int


class Netlink:
    """A netlink socket of one protocol, in the network namespace of the thread that makes it."""

    def __init__(self, protocol: int) -> None:
        self._socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol)
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        """Send one request; the bodies of the answers. Raises OSError with the kernel's errno."""
        self._sequence += 1
        length = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(length, kind, REQUEST | flags, self._sequence, 0) + body)
        answers: list[bytes] = []
        while not self._take(self._socket.recv(1 << 18), answers):
            pass
        return answers

    def _take(self, data: bytes, answers: list[bytes]) -> bool:
        """Sort the messages of one datagram; whether it was the last."""
        while len(data) >= _HEADER.size:
            length, kind, _, _, _ = _HEADER.unpack_from(data)
            if kind == NLMSG_ERROR:
                number = -struct.unpack_from("=i", data, _HEADER.size)[0]
                if number:
                    raise OSError(number, _strerror(number))
                return True
            if kind == NLMSG_DONE:
                return True
            answers.append(data[_HEADER.size : length])
            data = data[(length + 3) & ~3 :]
        return False


def _strerror(number: int) -> str:
    import os

    return os.strerror(number)


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def _attribute(kind: int, number: int) -> bytes:
    return struct.pack("=HHI", 8, kind, number)


def _number(attributes: dict[int, bytes], kind: int, missing: int) -> int:
    return int.from_bytes(attributes[kind], "little" if _LITTLE else "big") if kind in attributes else missing


_LITTLE = struct.pack("=H", 1) == b"\x01\x00"


def mark_rules(link: Netlink, family: Family) -> Iterator[MarkRule]:
    """Every policy rule that asks for a mark and nothing else, and leads to a table."""
    for body in link.ask(GET_RULE, DUMP, _RULE.pack(AF[family], 0, 0, 0, 0, 0, 0, 0, 0)):
        _, destination, source, tos, small_table, _, _, action, _ = _RULE.unpack_from(body)
        found = _attributes(body[_RULE.size :])
        if RULE_MARK in found and action == TO_TABLE and not (destination or source or tos):
            yield MarkRule(
                _number(found, RULE_PRIORITY, 0),
                _number(found, RULE_MARK, 0),
                _number(found, RULE_MASK, 0xFFFFFFFF),
                _number(found, RULE_TABLE, small_table),
            )


def local_tables(link: Netlink, family: Family) -> frozenset[int]:
    """Routing tables that hold nothing but `local default dev lo`."""
    contents: dict[int, list[bool]] = {}
    for body in link.ask(GET_ROUTE, DUMP, _ROUTE.pack(AF[family], 0, 0, 0, 0, 0, 0, 0, 0)):
        _, prefix, _, _, small_table, _, _, kind, _ = _ROUTE.unpack_from(body)
        found = _attributes(body[_ROUTE.size :])
        is_local_default = kind == LOCAL and prefix == 0 and _number(found, ROUTE_INTERFACE, 0) == LOOPBACK
        contents.setdefault(_number(found, ROUTE_TABLE, small_table), []).append(is_local_default)
    return frozenset(table for table, routes in contents.items() if all(routes))


def add_mark_rule(link: Netlink, route: RouteMarked) -> None:
    """`ip rule add fwmark MARK lookup TABLE`."""
    link.ask(NEW_RULE, ACKNOWLEDGE | CREATE_NEW, _rule_body(route.family, route.table, route.mark))


def delete_mark_rule(link: Netlink, family: Family, rule: MarkRule) -> None:
    """Remove exactly this rule."""
    body = _rule_body(family, rule.table, rule.mark) + _attribute(RULE_PRIORITY, rule.priority)
    link.ask(DELETE_RULE, ACKNOWLEDGE, body)


def _rule_body(family: Family, table: int, mark: int) -> bytes:
    header = _RULE.pack(AF[family], 0, 0, 0, _compact(table), 0, 0, TO_TABLE, 0)
    return header + _attribute(RULE_MARK, mark) + _attribute(RULE_TABLE, table)


def add_local_default(link: Netlink, route: RouteMarked) -> None:
    """`ip route add local default dev lo table TABLE`."""
    link.ask(NEW_ROUTE, ACKNOWLEDGE | CREATE_NEW, _route_body(route.family, route.table))


def delete_local_default(link: Netlink, family: Family, table: int) -> None:
    """Remove that route."""
    link.ask(DELETE_ROUTE, ACKNOWLEDGE, _route_body(family, table))


def _route_body(family: Family, table: int) -> bytes:
    header = _ROUTE.pack(AF[family], 0, 0, 0, _compact(table), BOOT, HOST_SCOPE, LOCAL, 0)
    return header + _attribute(ROUTE_INTERFACE, LOOPBACK) + _attribute(ROUTE_TABLE, table)


def _compact(table: int) -> int:
    return table if table < 256 else COMPACT_TABLE


def interface_addresses(link: Netlink) -> Iterator[tuple[int, int, int]]:
    """Number of the interface, IP version and address, of every address of this network namespace; IPv4 first."""
    for family, version in ((AF["ipv4"], 4), (AF["ipv6"], 6)):
        try:
            bodies = link.ask(GET_ADDRESS, DUMP, _ADDRESS.pack(family, 0, 0, 0, 0))
        except OSError:  # a kernel without this family
            continue
        for body in bodies:
            found_family, _, _, _, interface = _ADDRESS.unpack_from(body)
            found = _attributes(body[_ADDRESS.size :])
            packed = found.get(LOCAL_ADDRESS) or found.get(ADDRESS)
            if packed and found_family == family:
                yield interface, version, int.from_bytes(packed)


def add_loopback_address(link: Netlink, operation: LoopbackAddress) -> None:
    """`ip addr add ADDRESS dev lo`."""
    link.ask(NEW_ADDRESS, ACKNOWLEDGE | CREATE_NEW, _address_body(operation))


def delete_loopback_address(link: Netlink, operation: LoopbackAddress) -> None:
    """Take it back."""
    link.ask(DELETE_ADDRESS, ACKNOWLEDGE, _address_body(operation))


def _address_body(operation: LoopbackAddress) -> bytes:
    network, length = operation.network, 4 if operation.family == "ipv4" else 16
    packed = network.address.to_bytes(length)
    header = _ADDRESS.pack(AF[operation.family], network.mask.bit_count(), 0, HOST_SCOPE, LOOPBACK)
    return header + b"".join(struct.pack("=HH", 4 + length, kind) + packed for kind in (ADDRESS, LOCAL_ADDRESS))


def nft_tables() -> frozenset[tuple[str, str]]:
    """Family (`ip`, `ip6`, `inet` …) and name of every nf_tables table; none where the kernel has no nf_tables."""
    return frozenset(nft_table_flags())


def nft_table_flags() -> dict[tuple[str, str], int]:
    """The same tables, each with its flags: 1 for one that is switched off."""
    try:
        with Netlink(NETLINK_NETFILTER) as link:
            bodies = link.ask(GET_NFT_TABLE, DUMP, bytes(4))
    except OSError:
        return {}
    tables = {}
    for body in bodies:
        found = _attributes(body[4:])
        name = found[TABLE_NAME].rstrip(b"\0").decode(errors="replace")
        tables[NFT_FAMILIES.get(body[0], "?"), name] = int.from_bytes(found.get(TABLE_FLAGS, b""))
    return tables
