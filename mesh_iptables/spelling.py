"""Read one value in every spelling that iptables and iproute2 take. Pure, but for the look-ups it is handed.

The original passes its settings to these tools unread, so their readers are the contract: C numbers (`80`, `+80`,
`0x50`, `0120`, blanks in front but not behind), service names, short and dotted addresses (`10/8`), host names, owner
ranges. Each reader here was held against iptables 1.8.9 and iproute2 6.1.
"""

from __future__ import annotations

import _socket

from mesh_iptables.config import Number
from mesh_iptables.model import Network, Owner, PortRange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from mesh_iptables.model import OwnerKind

    class Names(Protocol):
        """What a machine calls its ports, users, groups, hosts and routing tables; None or () where unknown."""

        def service(self, name: str) -> int | None: ...
        def user(self, name: str) -> int | None: ...
        def has_uid(self, uid: int) -> bool: ...
        def group(self, name: str) -> int | None: ...
        def network(self, name: str) -> int | None: ...
        def hosts(self, name: str) -> tuple[int, ...]: ...
        def routing_table(self, name: str) -> int | None: ...


MAX_PORT = 0xFFFF
MAX_MARK = 0xFFFFFFFF
MAX_OWNER = 0xFFFFFFFE  # -1 stands for "no owner"
KERNEL_TABLES = {0: "unspec", 253: "default", 254: "main", 255: "local"}

_DIGITS = {8: "01234567", 10: "0123456789", 16: "0123456789abcdefABCDEF"}
_WORD = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-+"


class Misspelt(ValueError):
    """A value that none of the tools would take; the text says what was expected."""


def parse_number(text: str, maximum: int) -> int | None:
    """The number `text` means to strtoul(3) with base 0, or None where it means none up to `maximum`."""
    digits = text.lstrip(" \t").removeprefix("+")
    base = 10
    if digits[:2] in ("0x", "0X"):
        base, digits = 16, digits[2:]
    elif digits[:1] == "0":
        base = 8
    if not digits or len(digits) > 20 or digits.strip(_DIGITS[base]):
        return None
    number = int(digits, base)
    return number if number <= maximum else None


def is_word(text: str) -> bool:
    """Whether `text` could name something: letters, digits, `._-+`, no `-` in front."""
    return 0 < len(text) < 256 and text[0] != "-" and not text.strip(_WORD)


def parse_port(text: str, names: Names) -> int:
    """One port as `--dport` takes it: a C number or a service name."""
    number = parse_number(text, MAX_PORT)
    if number is None and is_word(text):
        number = names.service(text)
    if number is None:
        raise Misspelt("is not a port; expected a number from 0 to 65535 or a name from /etc/services")
    return number


def parse_port_range(text: str, names: Names) -> PortRange:
    """Ports as `--dport` takes them: `80`, `http`, `8000:8010`, `:1023`, `1024:`."""
    low_text, colon, high_text = text.partition(":")
    low = parse_port(low_text, names) if low_text or not colon else 0
    high = low if not colon else parse_port(high_text, names) if high_text else MAX_PORT
    if low > high:
        raise Misspelt("is a range whose end is below its start; expected low:high")
    return PortRange(low, high, text)


def parse_redirect_ports(text: str, names: Names) -> PortRange:
    """Ports as `REDIRECT --to-port` takes them: `15001`, `http`, `15001-15003`."""
    low, dash, high = text.partition("-")
    first, last = parse_number(low, MAX_PORT), parse_number(high, MAX_PORT)
    if dash and first is not None:
        if last is None or last < first:
            raise Misspelt("is not a range of ports; expected low-high with numbers up to 65535")
        return PortRange(first, last, text)
    port = parse_port(text, names)
    return PortRange(port, port, text)


def parse_tproxy_port(text: str, names: Names) -> PortRange:
    """One port as `TPROXY --on-port` takes it, read in the same way by REDIRECT.

    TPROXY reads decimal numbers only, so that `0120` would be two different ports in the two rules.
    """
    bare = text.lstrip(" \t").removeprefix("+")
    if "-" in text and parse_number(text.partition("-")[0], MAX_PORT) is not None:
        raise Misspelt("is a range, and TPROXY takes one port only")
    if (bare.isdigit() and bare != "0" and bare.startswith("0")) or bare[:2] in ("0x", "0X"):
        raise Misspelt("is not a decimal number, and TPROXY reads no other")
    return parse_redirect_ports(text, names)


def parse_networks(text: str, names: Names) -> tuple[Network, ...]:
    """IPv4 networks as `-d` takes them: `10/8`, `10.0.0.1/24`, dotted masks; several for a host name of several."""
    body, slash, mask_text = text.rpartition("/")
    mask = _MASKS.get(mask_text) if slash else 0xFFFFFFFF
    if mask is None:
        mask = _parse_mask(mask_text)
    if mask == 0:
        return (Network(4, 0, 0, text),)
    addresses = _parse_host(body if slash else text, names)
    return tuple(Network(4, address & mask, mask, text, further=index > 0) for index, address in enumerate(addresses))


_MASKS = {str(prefix): 0xFFFFFFFF << (32 - prefix) & 0xFFFFFFFF for prefix in range(33)}


def _parse_mask(text: str) -> int:
    prefix = parse_number(text, 32)
    if prefix is not None:
        return 0xFFFFFFFF << (32 - prefix) & 0xFFFFFFFF
    octets = [parse_number(part, 255) for part in text.split(".")]
    mask = _join(octets)
    if len(octets) != 4 or mask is None:
        raise Misspelt("has no valid mask behind its '/'; expected 0 to 32 or four numbers like 255.255.0.0")
    return mask


def _parse_host(text: str, names: Names) -> tuple[int, ...]:
    try:  # four plain numbers, which all readers take for the same; lists can be long, and this is the quick one
        return (int.from_bytes(_socket.inet_pton(_socket.AF_INET, text)),)
    except (OSError, ValueError):
        pass
    octets = [parse_number(part, 255) for part in text.split(".")]
    address = _join(octets + [0] * (4 - len(octets)))  # `10.1` is 10.1.0.0
    if address is not None:
        return (address,)
    if ":" in text:
        raise Misspelt("is IPv6, and this dialect captures IPv4 only; expected a network like 10.0.0.0/8")
    if not is_word(text):
        raise Misspelt("is not a network; expected one like 10.0.0.0/8, an address or a host name")
    if not text.strip("0123456789xX."):
        return (_inet_aton(text),)
    network = names.network(text)
    found = (network,) if network is not None else names.hosts(text)
    if not found:
        raise Misspelt("cannot be resolved to an IPv4 address; expected a network like 10.0.0.0/8 or a known host name")
    return found


def _join(octets: list[int | None]) -> int | None:
    if len(octets) != 4:
        return None
    value = 0
    for octet in octets:
        if octet is None:
            return None
        value = value << 8 | octet
    return value


def _inet_aton(text: str) -> int:
    """Addresses with fewer dots, like `167772161`, as the resolver reads them without asking anyone."""
    try:
        return int.from_bytes(_socket.inet_aton(text))
    except OSError:
        raise Misspelt("is not an address; expected four numbers up to 255 like 10.1.2.3") from None


def parse_owner(kind: OwnerKind, text: str, names: Names) -> Owner:
    """A uid or gid as the owner match takes it: a number, a name, `1000-2000` or `1000:2000`."""
    split = next((place for place, letter in enumerate(text) if letter in "-:" and place), len(text))
    low = parse_number(text[:split], MAX_OWNER)
    if low is not None:
        high = low if split == len(text) else parse_number(text[split + 1 :], MAX_OWNER)
        if high is None or high < low:
            raise Misspelt(f"is not a range of {kind}s; expected low-high")
        return Owner(kind, low, high, spelled=text)
    found = (names.user if kind == "uid" else names.group)(text) if is_word(text) else None
    if found is None:
        what = "user" if kind == "uid" else "group"
        raise Misspelt(f"is no {what} here; expected a number up to {MAX_OWNER} or the name of a {what}")
    return Owner(kind, found, found, spelled=text)


def parse_mark(text: str) -> Number:
    """A packet mark as MARK, TPROXY and `ip rule` all take it; not 0, which is every packet without a mark."""
    mark = parse_number(text, MAX_MARK)
    if not mark:
        raise Misspelt("is not a mark; expected a number from 1 to 0xffffffff")
    return Number(mark, text)


def parse_routing_table(text: str, names: Names) -> Number:
    """A routing table by number or name; not one of the kernel's own, which carry the Pod's other traffic."""
    table = parse_number(text, MAX_MARK)
    if table is None and text in KERNEL_TABLES.values():
        raise Misspelt("is a routing table of the kernel's own; expected one that nobody uses, like 133")
    if table is None and is_word(text):
        table = names.routing_table(text)
    if table is None:
        raise Misspelt("is not a routing table; expected a number or a name from /etc/iproute2/rt_tables")
    if table in KERNEL_TABLES:
        raise Misspelt("is a routing table of the kernel's own; expected one that nobody uses, like 133")
    return Number(table, text)
