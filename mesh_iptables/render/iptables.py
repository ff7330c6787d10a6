"""A rule as iptables words: as the original tools write it, and as `iptables-save` prints it. Pure."""

from __future__ import annotations

from mesh_iptables.model import (
    UNKNOWN_ID,
    Address,
    ConnectionMark,
    ConnState,
    Interface,
    Jump,
    NoTarget,
    Owner,
    PacketMark,
    Ports,
    Protocol,
    Redirect,
    Reject,
    RestoreMark,
    SaveMark,
    SetMark,
    Socket,
    Tproxy,
    Unknown,
    Verdict,
    Zone,
)
from mesh_iptables.value import assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mesh_iptables.model import Family, Match, Network, Rule, Target

ALL_PORTS = (0, 0xFFFF)


def network_text(network: Network) -> str:
    """`10.0.0.0/8`, or `10.0.5.0/255.0.255.0` where the mask has holes."""
    if network.version == 6:
        return f"{address_text(6, network.address)}/{network.mask.bit_count()}"
    mask = network.mask
    prefix = mask.bit_count()
    holes = mask != 0xFFFFFFFF << (32 - prefix) & 0xFFFFFFFF
    return f"{address_text(4, network.address)}/{address_text(4, mask) if holes else prefix}"


def address_text(version: int, address: int) -> str:
    """`10.0.0.1` or `fd00::1`."""
    if version == 4:
        return f"{address >> 24}.{address >> 16 & 255}.{address >> 8 & 255}.{address & 255}"
    import _socket

    return _socket.inet_ntop(_socket.AF_INET6, address.to_bytes(16))


def range_text(low: int, high: int, between: str) -> str:
    """`80`, or `8000:8010` with the separator that the option wants."""
    return str(low) if low == high else f"{low}{between}{high}"


def written(rule: Rule, to_port: str = "--to-ports") -> list[str]:
    """The words of a rule in the order and spelling of the tool it comes from.

    `to_port` is that tool's spelling of the REDIRECT option.
    """
    words: list[str] = []
    for match in rule.matches:
        words += _written_match(match)
    return words + _written_target(rule.target, to_port)


def _written_match(match: Match) -> list[str]:
    match match:
        case Address(side, network, negated):
            return [*_not(negated), "-s" if side == "source" else "-d", network.spelled or network_text(network)]
        case Ports(side, (ports,), negated):
            option = "--sport" if side == "source" else "--dport"
            return [*_not(negated), option, ports.spelled or range_text(ports.low, ports.high, ":")]
        case Ports(side, ranges, negated):
            texts = [ports.spelled or range_text(ports.low, ports.high, ":") for ports in ranges]
            return ["-m", "multiport", *_not(negated), f"--{side[0]}ports", ",".join(texts)]
        case Owner(kind, low, high, negated):
            return ["-m", "owner", *_not(negated), f"--{kind}-owner", match.spelled or range_text(low, high, "-")]
        case PacketMark(value, _, negated):
            return ["-m", "mark", *_not(negated), "--mark", str(value)]
        case ConnectionMark(value, _, negated):
            return ["-m", "connmark", *_not(negated), "--mark", str(value)]
        case _:
            return saved_match(match, "")


def _written_target(target: Target, to_port: str) -> list[str]:
    match target:
        case Redirect(ports, spelled):
            return ["-j", "REDIRECT", spelled or to_port, ports.spelled or range_text(ports.low, ports.high, "-")]
        case Tproxy(port, mark, spelled):
            on_port = port.spelled or str(port.low)
            return ["-j", "TPROXY", "--tproxy-mark", f"{spelled or mark}/0xffffffff", "--on-port", on_port]
        case SetMark(mark, spelled):
            return ["-j", "MARK", "--set-mark", spelled or str(mark)]
        case SaveMark():
            return ["-j", "CONNMARK", "--save-mark"]
        case RestoreMark():
            return ["-j", "CONNMARK", "--restore-mark"]
        case Reject(""):
            return ["-j", "REJECT"]
        case _:
            return saved_target(target, "ipv4")


def saved(rule: Rule, family: Family) -> str:
    """The rule as `iptables-save` prints it, without `-A CHAIN`: options in its order, every number in its form."""
    words: list[str] = []
    matches = rule.matches
    if len(matches) > 1:
        matches = tuple(sorted(matches, key=_saved_place))
    protocol = ""
    for match in matches:
        if isinstance(match, Protocol):
            protocol = match.name
        words += saved_match(match, protocol)
    return " ".join(words + saved_target(rule.target, family))


def _saved_place(match: Match) -> int:
    match match:
        case Address(side):
            return 0 if side == "source" else 1
        case Interface(direction):
            return 2 if direction == "in" else 3
        case Protocol():
            return 4
        case _:
            return 5


def saved_match(match: Match, protocol: str) -> list[str]:
    """A match as `iptables-save` prints it; `protocol` is that of the rule, "" for none."""
    match match:
        case Address(side, network, negated):
            if network.mask == 0:
                return []
            return [*_not(negated), "-s" if side == "source" else "-d", network_text(network)]
        case Interface(direction, name, negated):
            return [*_not(negated), "-i" if direction == "in" else "-o", name]
        case Protocol(name, negated):
            return [*_not(negated), "-p", name]
        case Ports():
            return _saved_ports(match, protocol)
        case Owner(kind, low, high, negated):
            ids = match.spelled if low == UNKNOWN_ID else range_text(low, high, "-")
            return ["-m", "owner", *_not(negated), f"--{kind}-owner", ids]
        case Socket():
            return ["-m", "socket"]
        case ConnState(states, module, negated):
            option = "--state" if module == "state" else "--ctstate"
            return ["-m", module, *_not(negated), option, ",".join(states)]
        case PacketMark(value, mask, negated):
            return ["-m", "mark", *_not(negated), "--mark", _mark_text(value, mask)]
        case ConnectionMark(value, mask, negated):
            return ["-m", "connmark", *_not(negated), "--mark", _mark_text(value, mask)]
        case Unknown(words):
            return list(words)
    assert_never(match)


def _saved_ports(match: Ports, protocol: str) -> list[str]:
    letter = "s" if match.side == "source" else "d"
    texts = [range_text(ports.low, ports.high, ":") for ports in match.ranges]
    if len(texts) > 1:
        return ["-m", "multiport", *_not(match.negated), f"--{letter}ports", ",".join(texts)]
    module = ["-m", protocol] if protocol else []
    only = match.ranges[0]
    if (only.low, only.high) == ALL_PORTS and not match.negated:
        return module  # iptables-save leaves out what is always true
    return [*module, *_not(match.negated), f"--{letter}port", *texts]


def saved_target(target: Target, family: Family) -> list[str]:
    """A target as `iptables-save` prints it, `-j` included."""
    match target:
        case Verdict(name):
            return ["-j", name]
        case Reject(message):
            return ["-j", "REJECT", "--reject-with", message or PORT_UNREACHABLE[family]]
        case Jump(chain, goto):
            return ["-g" if goto else "-j", chain]
        case Redirect(ports):
            return ["-j", "REDIRECT", "--to-ports", range_text(ports.low, ports.high, "-")]
        case Tproxy(port, mark):
            any_address = "0.0.0.0" if family == "ipv4" else "::"
            mark_text = f"{mark:#x}/0xffffffff"
            return ["-j", "TPROXY", "--on-port", str(port.low), "--on-ip", any_address, "--tproxy-mark", mark_text]
        case SetMark(mark):
            return ["-j", "MARK", "--set-xmark", f"{mark:#x}/0xffffffff"]
        case SaveMark():
            return ["-j", "CONNMARK", "--save-mark", "--nfmask", "0xffffffff", "--ctmask", "0xffffffff"]
        case RestoreMark():
            return ["-j", "CONNMARK", "--restore-mark", "--nfmask", "0xffffffff", "--ctmask", "0xffffffff"]
        case Zone(number):
            return ["-j", "CT", "--zone", str(number)]
        case NoTarget():
            return []
        case Unknown(words):
            return list(words)
    assert_never(target)


PORT_UNREACHABLE = {"ipv4": "icmp-port-unreachable", "ipv6": "icmp6-port-unreachable"}


def _not(negated: bool) -> tuple[str, ...]:
    return ("!",) if negated else ()


def _mark_text(value: int, mask: int) -> str:
    return f"{value:#x}" if mask == 0xFFFFFFFF else f"{value:#x}/{mask:#x}"
