"""The vocabulary: matches, targets, rules, operations, plan.

Numbers are what the kernel compares. Where the user may have written them in another way (`http`, `0x50`, `10/8`,
`root`) the value also keeps that spelling, for output that follows the original tools to the letter; a spelling plays
no part when values are compared.
"""

from __future__ import annotations

from mesh_iptables.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Family = Literal["ipv4", "ipv6"]
    Table = Literal["filter", "mangle", "nat", "raw"]
    Side = Literal["source", "destination"]
    Direction = Literal["in", "out"]
    OwnerKind = Literal["uid", "gid"]
    ChainVerb = Literal["new", "flush", "delete"]
    RuleVerb = Literal["append", "insert", "delete"]

UNKNOWN_ID = 0xFFFFFFFF  # of an owner known by name only, in a dry run: "no owner", which no socket has
BUILT_IN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")  # in the order of iptables-save


class PortRange(Value):
    """Ports `low` to `high`, both included, 0 to 65535."""

    _silent = ("spelled",)
    low: int
    high: int
    spelled: str = ""


class Network(Value):
    """Addresses that agree with `address` in the bits of `mask`; both as numbers, `address` already masked.

    `further` marks the second and later addresses of a host name: iptables makes one rule of each, from one command.
    """

    _silent = ("spelled", "further")
    version: int
    address: int
    mask: int
    spelled: str = ""
    further: bool = False


class Protocol(Value):
    """The transport protocol: `tcp`, `udp`, …"""

    name: str
    negated: bool = False


class Address(Value):
    """The source or destination address is in `network`."""

    side: Side
    network: Network
    negated: bool = False


class Ports(Value):
    """The source or destination port is in one of `ranges`."""

    side: Side
    ranges: tuple[PortRange, ...]
    negated: bool = False


class Interface(Value):
    """The packet came in by, or goes out by, interface `name`."""

    direction: Direction
    name: str
    negated: bool = False


class Owner(Value):
    """The socket was made by a user or group with an id from `low` to `high`."""

    _silent = ("spelled",)
    kind: OwnerKind
    low: int
    high: int
    negated: bool = False
    spelled: str = ""


class Socket(Value):
    """An open socket, not one that listens on the wildcard address, will take the packet."""


class ConnState(Value):
    """The state of the connection is one of `states`; `module` is the match that asks, which makes no difference."""

    _silent = ("module",)
    states: tuple[str, ...]
    module: Literal["state", "conntrack"] = "conntrack"
    negated: bool = False


class PacketMark(Value):
    """The packet's mark, masked, equals `value`."""

    value: int
    mask: int = 0xFFFFFFFF
    negated: bool = False


class ConnectionMark(Value):
    """The mark of the packet's connection, masked, equals `value`."""

    value: int
    mask: int = 0xFFFFFFFF
    negated: bool = False


class Unknown(Value):
    """Words of a foreign rule that this vocabulary has no name for, as `iptables-save` prints them."""

    words: tuple[str, ...]


class Verdict(Value):
    """`ACCEPT`, `RETURN` or `DROP`."""

    name: Literal["ACCEPT", "RETURN", "DROP"]


class Reject(Value):
    """Refuse with an ICMP message; an empty `message` is the family's "port unreachable"."""

    message: str = ""


class Jump(Value):
    """Go on in another chain; with `goto`, without a way back to this one."""

    chain: str
    goto: bool = False


class Redirect(Value):
    """Change the destination to this host and one of `ports`; `spelled` is the option where a tool writes another."""

    _silent = ("spelled",)
    ports: PortRange
    spelled: str = ""


class Tproxy(Value):
    """Hand the packet, unchanged, to the transparent socket on `port`, and set its mark."""

    _silent = ("mark_spelled",)
    port: PortRange
    mark: int
    mark_spelled: str = ""


class SetMark(Value):
    """Set the packet's mark."""

    _silent = ("spelled",)
    mark: int
    spelled: str = ""


class SaveMark(Value):
    """Copy the packet's mark to its connection."""


class RestoreMark(Value):
    """Copy the connection's mark to the packet."""


class Zone(Value):
    """Put the packet into a conntrack zone."""

    number: int


class NoTarget(Value):
    """Count the packet and go on."""


ACCEPT, RETURN, DROP = Verdict("ACCEPT"), Verdict("RETURN"), Verdict("DROP")

Match = Protocol | Address | Ports | Interface | Owner | Socket | ConnState | PacketMark | ConnectionMark | Unknown
Target = Verdict | Reject | Jump | Redirect | Tproxy | SetMark | SaveMark | RestoreMark | Zone | NoTarget | Unknown


class Rule(Value):
    """All of `matches`, in written order, lead to `target`.

    `option` is the setting that made the rule ("" where every plan has it) and `why` a few words for a person.
    """

    _silent = ("why", "option")
    matches: tuple[Match, ...]
    target: Target
    why: str = ""
    option: str = ""

    @property
    def has_further_address(self) -> bool:
        """Whether iptables makes this rule by itself, from the command before it (see `Network.further`)."""
        return any(isinstance(match, Address) and match.network.further for match in self.matches)


class ChainOperation(Value):
    """Make, empty or remove a chain of one's own; `flush` takes built-in ones too."""

    verb: ChainVerb
    family: Family
    table: Table
    chain: str
    optional: bool = False  # the original goes on when this fails


class RuleOperation(Value):
    """Append, insert (at `position`, from 1) or delete one rule."""

    verb: RuleVerb
    family: Family
    table: Table
    chain: str
    rule: Rule
    position: int = 1
    optional: bool = False  # the original goes on when this fails


class RouteMarked(Value):
    """Deliver packets with `mark` on this host: a rule to look up `table`, and there a local default route."""

    _silent = ("mark_spelled", "table_spelled")
    family: Family
    mark: int
    table: int
    mark_spelled: str = ""
    table_spelled: str = ""


class LoopbackAddress(Value):
    """Give `lo` one more address."""

    family: Family
    network: Network


Operation = ChainOperation | RuleOperation | RouteMarked | LoopbackAddress


class Plan(Value):
    """What one run of a dialect does: `cleanup` first, each failure ignored, then `setup`."""

    dialect: str
    cleanup: tuple[Operation, ...]
    setup: tuple[Operation, ...]
