"""Rules as entries of the legacy tables, and entries as `iptables-save` prints them."""

from __future__ import annotations

import _socket
import sys

from mesh_iptables.apply.libiptc import HEAD, LAYOUTS, OFFSETS, STANDARD_SIZE, Entry
from mesh_iptables.errors import ApplyError
from mesh_iptables.model import Address, Interface, Jump, Network, NoTarget, Protocol, Verdict
from mesh_iptables.render.iptables import network_text, saved_match, saved_target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh_iptables.apply.libiptc import Layout, Library
    from mesh_iptables.model import Family, Match, Rule, Target

# Flags of the kernel: <linux/netfilter_ipv4/ip_tables.h>, <linux/netfilter_ipv6/ip6_tables.h>
NOT_IN, NOT_OUT, NOT_SOURCE, NOT_DESTINATION, NOT_FRAGMENT, NOT_PROTOCOL = 0x01, 0x02, 0x08, 0x10, 0x20, 0x40
FRAGMENT = 0x01  # IPv4 only
HAS_PROTOCOL = 0x01  # IPv6 only
GOTO: dict[Family, int] = {"ipv4": 0x02, "ipv6": 0x04}
INTERFACE = 16  # bytes of a name
PROTOCOLS = {
    1: "icmp",
    6: "tcp",
    17: "udp",
    50: "esp",
    51: "ah",
    58: "ipv6-icmp",
    132: "sctp",
    135: "mobility-header",
    136: "udplite",
}
NUMBERS = {name: number for number, name in PROTOCOLS.items()}


def build_entry(rule: Rule, family: Family, library: Library) -> Entry:
    """A rule in the kernel's form; ApplyError where an extension is missing or refuses."""
    layout = LAYOUTS[family]
    head = bytearray(layout.size)
    parts: list[bytes] = []
    name = next((match.name for match in rule.matches if isinstance(match, Protocol)), "")
    protocol = _protocol_number(name) if name else 0
    for match in rule.matches:
        if not _set_head(head, match, layout, family):
            words = saved_match(match, name)
            if words[:1] != ["-m"]:
                raise ApplyError(f"{' '.join(words)}: --backend iptc knows no such match", 2)
            parts.append(library.extension(family, protocol, words))
    if isinstance(rule.target, Jump) and rule.target.goto:
        head[layout.flags] |= GOTO[family]
    target = _target(rule.target, family, protocol, library)
    place = layout.size + sum(len(part) for part in parts)
    OFFSETS.pack_into(head, layout.offsets, place, place + len(target))
    return Entry(b"".join([head, *parts, target]), _text(HEAD.unpack_from(target)[1]))


def _set_head(head: bytearray, match: Match, layout: Layout, family: Family) -> bool:
    """Write a match that has fields of its own into the head of an entry; whether it is such a one."""
    match match:
        case Address(side, network, negated):
            place = 0 if side == "source" else layout.address
            head[place : place + layout.address] = network.address.to_bytes(layout.address)
            place += 2 * layout.address
            head[place : place + layout.address] = network.mask.to_bytes(layout.address)
            inverse = NOT_SOURCE if side == "source" else NOT_DESTINATION
        case Interface(direction, name, negated):
            place = 4 * layout.address + (0 if direction == "in" else INTERFACE)
            begin = name.removesuffix("+").encode()
            compared = len(begin) + (not name.endswith("+"))  # the zero behind a whole name too
            head[place : place + len(begin)] = begin
            head[place + 2 * INTERFACE : place + 2 * INTERFACE + compared] = b"\xff" * compared
            inverse = NOT_IN if direction == "in" else NOT_OUT
        case Protocol(name, negated):
            head[layout.protocol : layout.protocol + 2] = _protocol_number(name).to_bytes(2, sys.byteorder)
            if family == "ipv6":
                head[layout.flags] |= HAS_PROTOCOL
            inverse = NOT_PROTOCOL
        case _:
            return False
    if negated:
        head[layout.inverse] |= inverse
    return True


def _protocol_number(name: str) -> int:
    try:
        return NUMBERS[name] if name in NUMBERS else _socket.getprotobyname(name)
    except OSError:
        if name.isdigit():
            return int(name)
        raise ApplyError(f"-p {name}: there is no such protocol", 2) from None


def _target(target: Target, family: Family, protocol: int, library: Library) -> bytes:
    match target:
        case Verdict(name) | Jump(name):
            return _standard(name)
        case NoTarget():
            return _standard("")
        case _:
            return library.extension(family, protocol, saved_target(target, family))


def _standard(name: str) -> bytes:
    """A target that libiptc turns into a verdict or a place in the table."""
    return HEAD.pack(STANDARD_SIZE, name.encode(), 0).ljust(STANDARD_SIZE, b"\0")


def entry_line(entry: Entry, family: Family, library: Library) -> str:
    """The rule as iptables-save prints it, without `-A CHAIN`."""
    raw, layout = entry.raw, LAYOUTS[family]
    head = raw[: layout.size]
    words = [*_head_words(head, layout, family)]
    target = OFFSETS.unpack_from(raw, layout.offsets)[0]
    place = layout.size
    while place < target:
        size = HEAD.unpack_from(raw, place)[0]
        words.append(library.print_extension(family, "-m", head, raw[place : place + size]))
        place += size
    if entry.target and raw[target + 2] and not _is_standard(raw, target):
        words.append(library.print_extension(family, "-j", head, raw[target:]))
    elif entry.target:
        words.append(f"-{'g' if head[layout.flags] & GOTO[family] else 'j'} {entry.target}")
    return " ".join(words)


def _is_standard(raw: bytes, target: int) -> bool:
    """Whether a target is a name that libiptc has not looked up yet: `build_entry` leaves it so."""
    return len(raw) - target == STANDARD_SIZE and not any(raw[target + HEAD.size :])


def _head_words(head: bytes, layout: Layout, family: Family) -> Iterator[str]:
    width, inverse = layout.address, head[layout.inverse]
    for place, option, flag in ((0, "-s", NOT_SOURCE), (width, "-d", NOT_DESTINATION)):
        address, mask = head[place : place + width], head[place + 2 * width : place + 3 * width]
        if any(mask) or any(address) or inverse & flag:
            yield f"{_not(inverse, flag)}{option} {_network_text(address, mask)}"
    for place, option, flag in ((4 * width, "-i", NOT_IN), (4 * width + INTERFACE, "-o", NOT_OUT)):
        compared = head[place + 2 * INTERFACE : place + 3 * INTERFACE].partition(b"\0")[0]
        if compared:
            name = _text(head[place : place + len(compared)])
            yield f"{_not(inverse, flag)}{option} {name}{'+' if len(name) == len(compared) else ''}"
    number = int.from_bytes(head[layout.protocol : layout.protocol + 2], sys.byteorder)
    if number:
        yield f"{_not(inverse, NOT_PROTOCOL)}-p {protocol_name(number)}"
    if family == "ipv4" and head[layout.flags] & FRAGMENT:
        yield f"{_not(inverse, NOT_FRAGMENT)}-f"


def _not(inverse: int, flag: int) -> str:
    return "! " if inverse & flag else ""


def _network_text(address: bytes, mask: bytes) -> str:
    bits = int.from_bytes(mask)
    length = 8 * len(mask)
    if len(mask) == 16 and bits != ((1 << bits.bit_count()) - 1) << (length - bits.bit_count()):
        return f"{_socket.inet_ntop(_socket.AF_INET6, address)}/{_socket.inet_ntop(_socket.AF_INET6, mask)}"
    return network_text(Network(4 if len(mask) == 4 else 6, int.from_bytes(address), bits))


def protocol_name(number: int) -> str:
    """A protocol as iptables-save calls it: by number where /etc/protocols does not know it."""
    if number not in PROTOCOLS:
        PROTOCOLS[number] = _look_up(number)
    return PROTOCOLS[number]


def _look_up(number: int) -> str:
    try:
        with open("/etc/protocols", encoding="utf-8", errors="replace") as lines:
            found = (line.partition("#")[0].split() for line in lines)
            return next((words[0] for words in found if words[1:2] == [str(number)]), str(number))
    except OSError:
        return str(number)


def _text(name: bytes) -> str:
    return name.partition(b"\0")[0].decode(errors="surrogateescape")
