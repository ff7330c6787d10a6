"""A rule as nft statements with the meaning that xtables give it; in whose table and chain is not decided here. Pure.

Where the two differ:

* The `tproxy` of nft goes on with the next rule when no socket takes the packet, TPROXY drops it: so a rule follows
  that does the same. TPROXY sets the mark only of packets that it hands over, and ends its table like ACCEPT.
* `meta skuid` and `meta skgid` are false for packets without a socket, negated or not; `! --uid-owner` is true.
* Words of foreign rules have no translation.
"""

from __future__ import annotations

from mesh_iptables.model import (
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
from mesh_iptables.render.iptables import PORT_UNREACHABLE, address_text, network_text, range_text
from mesh_iptables.value import assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh_iptables.model import Family, Match, Network, PortRange, Rule, Target

WHOLE_MARK = 0xFFFFFFFF
NEVER = "meta l4proto != 0-255"
IP = {4: "ip", 6: "ip6"}
# What xtables call a REJECT message, and nft.
REJECTS = {
    "icmp-net-unreachable": "icmp type net-unreachable",
    "icmp-host-unreachable": "icmp type host-unreachable",
    "icmp-port-unreachable": "icmp type port-unreachable",
    "icmp-proto-unreachable": "icmp type prot-unreachable",
    "icmp-net-prohibited": "icmp type net-prohibited",
    "icmp-host-prohibited": "icmp type host-prohibited",
    "icmp-admin-prohibited": "icmp type admin-prohibited",
    "icmp6-no-route": "icmpv6 type no-route",
    "icmp6-adm-prohibited": "icmpv6 type admin-prohibited",
    "icmp6-addr-unreachable": "icmpv6 type addr-unreachable",
    "icmp6-port-unreachable": "icmpv6 type port-unreachable",
    "icmp6-policy-fail": "icmpv6 type policy-fail",
    "icmp6-reject-route": "icmpv6 type reject-route",
    "tcp-reset": "tcp reset",
}


def statements(rule: Rule, family: Family, chain_name: Callable[[str], str]) -> list[str]:
    """The nft rules that make up one rule, in order; `chain_name` says what nft calls a chain to jump to."""
    tests = [text for match in rule.matches for text in _match(match, rule)]
    if isinstance(rule.target, Tproxy):
        to_socket = f"tproxy to :{rule.target.port.low} meta mark set {rule.target.mark:#x} accept"
        return [" ".join([*tests, to_socket]), " ".join([*tests, "drop"])]
    return [" ".join([*tests, _target(rule.target, family, chain_name)])]


def _match(match: Match, rule: Rule) -> list[str]:
    """The expression of one match of `rule`; none where it is always true."""
    match match:
        case Protocol(name, negated):
            implied = not negated and any(isinstance(other, Ports) for other in rule.matches)
            return [] if implied else [f"meta l4proto {_not(negated)}{name}"]
        case Address():
            return _address(match)
        case Ports():
            return [_ports(match, _protocol(rule))]
        case Interface():
            return _interface(match)
        case Owner(kind, low, high, negated):
            return [f"meta sk{kind} {_not(negated)}{range_text(low, high, '-')}"]
        case Socket():
            # Any socket, a listener on the wildcard address too; `socket wildcard` alone is false for connections
            # that are being opened or closed. Which is meant takes a chain: see `render.nft`.
            return ["socket transparent <= 1"]
        case ConnState(states, _, negated):
            return [_state(states, negated)]
        case PacketMark(value, mask, negated):
            return [_mark("meta mark", value, mask, negated)]
        case ConnectionMark(value, mask, negated):
            return [_mark("ct mark", value, mask, negated)]
        case Unknown(words):
            raise ValueError(f"no nft expression for {' '.join(words)}")
    assert_never(match)


def _protocol(rule: Rule) -> str:
    names = (match.name for match in rule.matches if isinstance(match, Protocol) and not match.negated)
    return next(names, "th")


def _address(match: Address) -> list[str]:
    network, is_not = match.network, _not(match.negated)
    if network.mask == 0:
        return [NEVER] if match.negated else []
    field = f"{IP[network.version]} {'saddr' if match.side == 'source' else 'daddr'}"
    bits = 32 if network.version == 4 else 128
    if network.mask.bit_count() == bits:
        return [f"{field} {is_not}{address_text(network.version, network.address)}"]
    if _has_holes(network, bits):
        mask, address = (address_text(network.version, number) for number in (network.mask, network.address))
        return [f"{field} & {mask} {'!=' if match.negated else '=='} {address}"]
    return [f"{field} {is_not}{network_text(network)}"]


def _has_holes(network: Network, bits: int) -> bool:
    inverse = network.mask ^ (1 << bits) - 1
    return inverse & inverse + 1 != 0


def _ports(match: Ports, protocol: str) -> str:
    ranges = match.ranges
    field = f"{protocol} {'sport' if match.side == 'source' else 'dport'}"
    if len(ranges) == 1:
        return f"{field} {_not(match.negated)}{range_text(ranges[0].low, ranges[0].high, '-')}"
    texts = ", ".join(range_text(ports.low, ports.high, "-") for ports in _merged(ranges))
    return f"{field} {_not(match.negated)}{{ {texts} }}"


def _merged(ranges: tuple[PortRange, ...]) -> list[PortRange]:
    """The same ports in order, without overlaps, which a set of nft does not take."""
    merged: list[PortRange] = []
    for ports in sorted(ranges, key=lambda found: found.low):
        if merged and ports.low <= merged[-1].high + 1:
            merged[-1] = merged[-1].replace(high=max(merged[-1].high, ports.high))
        else:
            merged.append(ports)
    return merged


def _interface(match: Interface) -> list[str]:
    field = "iifname" if match.direction == "in" else "oifname"
    if match.name == "+":
        return [NEVER] if match.negated else []
    name = f"{match.name[:-1]}*" if match.name.endswith("+") else _literal(match.name)
    return [f'{field} {_not(match.negated)}"{name}"']


def _literal(name: str) -> str:
    return f"{name[:-1]}\\*" if name.endswith("*") else name


def _state(states: tuple[str, ...], negated: bool) -> str:
    names = ", ".join(state.lower() for state in states)
    # Written with a set, `!=` means "none of these"; `!= a,b` would compare with both at once.
    return f"ct state {_not(negated)}{names if len(states) == 1 else f'{{ {names} }}'}"


def _mark(field: str, value: int, mask: int, negated: bool) -> str:
    if mask == WHOLE_MARK:
        return f"{field} {_not(negated)}{value:#x}"
    return f"{field} & {mask:#x} {'!=' if negated else '=='} {value:#x}"


def _target(target: Target, family: Family, chain_name: Callable[[str], str]) -> str:
    match target:
        case Verdict(name):
            return name.lower()
        case Reject(message):
            return f"reject with {REJECTS[message or PORT_UNREACHABLE[family]]}"
        case Jump(chain, goto):
            return f"{'goto' if goto else 'jump'} {chain_name(chain)}"
        case Redirect(ports):
            return f"redirect to :{range_text(ports.low, ports.high, '-')}"
        case SetMark(mark):
            return f"meta mark set {mark:#x}"
        case SaveMark():
            return "ct mark set meta mark"
        case RestoreMark():
            return "meta mark set ct mark"
        case Zone(number):
            return f"ct zone set {number}"
        case NoTarget():
            return "counter"
        case Tproxy():
            raise ValueError("TPROXY takes two rules, see statements")
        case Unknown(words):
            raise ValueError(f"no nft statement for {' '.join(words)}")
    assert_never(target)


def _not(negated: bool) -> str:
    return "!= " if negated else ""
