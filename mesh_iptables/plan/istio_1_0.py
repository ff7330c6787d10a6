"""The rules of istio-iptables.sh as of Istio 1.0, in its order. Pure.

Its known bugs that reach the kernel are kept, each named where it stands.
"""

from __future__ import annotations

from mesh_iptables.model import (
    ACCEPT,
    RETURN,
    Address,
    ChainOperation,
    ConnState,
    Interface,
    Jump,
    Network,
    Plan,
    PortRange,
    Ports,
    Protocol,
    Redirect,
    Reject,
    RouteMarked,
    Rule,
    RuleOperation,
    SetMark,
    Socket,
    Tproxy,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh_iptables.config import Config
    from mesh_iptables.model import Match, Operation, Table, Target

DIALECT = "istio-1.0"

INBOUND, OUTPUT = "ISTIO_INBOUND", "ISTIO_OUTPUT"
REDIRECT, IN_REDIRECT = "ISTIO_REDIRECT", "ISTIO_IN_REDIRECT"
DIVERT, TPROXY = "ISTIO_DIVERT", "ISTIO_TPROXY"

TCP = Protocol("tcp")
LOCALHOST = Network(4, 0x7F000001, 0xFFFFFFFF, "127.0.0.1/32")
TO_LOCALHOST, NOT_TO_LOCALHOST = Address("destination", LOCALHOST), Address("destination", LOCALHOST, negated=True)
SSH = PortRange(22, 22)

OWN_CHAINS: tuple[tuple[Table, str], ...] = (
    ("nat", OUTPUT),
    ("nat", INBOUND),
    ("mangle", INBOUND),
    ("mangle", DIVERT),
    ("mangle", TPROXY),
    ("nat", REDIRECT),
    ("nat", IN_REDIRECT),
)
OWN_JUMPS: tuple[tuple[Table, str, Rule], ...] = (
    ("nat", "PREROUTING", Rule((TCP,), Jump(INBOUND))),
    ("mangle", "PREROUTING", Rule((TCP,), Jump(INBOUND))),
    ("nat", "OUTPUT", Rule((TCP,), Jump(OUTPUT))),
)
LOCKDOWN = (
    Rule((ConnState(("ESTABLISHED",), "state"),), ACCEPT, "open IPv6 connections go on", "ENABLE_INBOUND_IPV6"),
    Rule((), Reject(), "inbound IPv6 cannot be captured, so it is refused", "ENABLE_INBOUND_IPV6"),
)


def plan(config: Config) -> Plan:
    """All that the script would do for these settings."""
    return Plan(DIALECT, tuple(_cleanup()), tuple(_setup(config)))


def _cleanup() -> Iterator[Operation]:
    # The script deletes one copy of each jump only; a doubled one keeps its chain alive. `apply` does better.
    for table, chain, jump in OWN_JUMPS:
        yield RuleOperation("delete", "ipv4", table, chain, jump)
    for table, chain in OWN_CHAINS:
        yield ChainOperation("flush", "ipv4", table, chain)
        yield ChainOperation("delete", "ipv4", table, chain)


def _setup(config: Config) -> Iterator[Operation]:
    yield from _redirect_chain(REDIRECT, config.proxy_port, "outbound connections go to the proxy", "-p")
    # In TPROXY mode nothing jumps to this chain; the script makes it all the same.
    own_port = config.inbound_capture_port != config.proxy_port
    option = "INBOUND_CAPTURE_PORT" if own_port else "-p"
    yield from _redirect_chain(IN_REDIRECT, config.inbound_capture_port, "inbound connections go to the proxy", option)
    if config.inbound_ports:
        yield from _tproxy_chains(config) if config.mode == "TPROXY" else ()
        yield from _inbound(config)
    yield from _outbound(config)
    if config.ipv6_lockdown:
        yield from _ipv6_lockdown()


def _redirect_chain(chain: str, ports: PortRange, why: str, option: str) -> Iterator[Operation]:
    yield _new("nat", chain)
    yield _append("nat", chain, TCP, to=Redirect(ports), why=why, option=option)


def _tproxy_chains(config: Config) -> Iterator[Operation]:
    mark = config.tproxy_mark
    variable = "ISTIO_INBOUND_TPROXY_MARK"
    yield _new("mangle", DIVERT)
    yield _append(
        "mangle",
        DIVERT,
        to=SetMark(mark.value, mark.spelled),
        why="mark, so that routing delivers here",
        option=variable,
    )
    yield _append("mangle", DIVERT, to=ACCEPT, why="the open connection keeps its socket")
    table = config.tproxy_route_table
    yield RouteMarked("ipv4", mark.value, table.value, mark.spelled, table.spelled)
    yield _new("mangle", TPROXY)
    # The script takes the outbound port here and ignores INBOUND_CAPTURE_PORT.
    to_proxy = Tproxy(config.proxy_port, mark.value, mark.spelled)
    yield _append("mangle", TPROXY, NOT_TO_LOCALHOST, TCP, to=to_proxy, why="to the proxy, unchanged", option="-p")


def _inbound(config: Config) -> Iterator[Operation]:
    table: Table = "mangle" if config.mode == "TPROXY" else "nat"
    selected = config.inbound_ports
    yield _new(table, INBOUND)
    yield _append(table, "PREROUTING", TCP, to=Jump(INBOUND), why="look at inbound TCP", option="-b")
    if selected.wildcard:
        # SSH stays reachable whatever the user asks for.
        yield _append(table, INBOUND, TCP, _dport(SSH), to=RETURN, why="SSH is left alone", option="-b")
        for port in selected.exclude:
            yield _append(table, INBOUND, TCP, _dport(port), to=RETURN, why="excluded inbound port", option="-d")
        yield from _capture(config, table, (), "all other inbound TCP")
    for port in selected.include:
        yield from _capture(config, table, (_dport(port),), "included inbound port")


def _capture(config: Config, table: Table, only: tuple[Match, ...], why: str) -> Iterator[Operation]:
    if config.mode == "REDIRECT":
        yield _append(table, INBOUND, TCP, *only, to=Jump(IN_REDIRECT), why=why, option="-b")
        return
    for _ in range(2 if only else 1):  # the script writes this rule twice for each listed port
        yield _append(
            table, INBOUND, TCP, *only, Socket(), to=Jump(DIVERT), why="already open", option="-b", optional=True
        )
    yield _append(table, INBOUND, TCP, *only, to=Jump(TPROXY), why=why, option="-b")


def _outbound(config: Config) -> Iterator[Operation]:
    yield _new("nat", OUTPUT)
    yield _append("nat", "OUTPUT", TCP, to=Jump(OUTPUT), why="look at outbound TCP")
    # Any owner's, the proxy's too: a call to the Pod's own address over lo.
    yield _append_output(Interface("out", "lo"), NOT_TO_LOCALHOST, to=Jump(REDIRECT), why="the Pod calls itself")
    why = "the proxy's own traffic must not come back to it"
    for owner in config.proxy_uids:
        yield _append_output(owner, to=RETURN, why=why, option="-u")
    for owner in config.proxy_gids:
        yield _append_output(owner, to=RETURN, why=why, option="-g")
    yield _append_output(TO_LOCALHOST, to=RETURN, why="localhost stays direct")
    ranges = config.outbound_ranges
    for network in ranges.exclude:
        yield _append_output(_to(network), to=RETURN, why="excluded destination", option="-x")
    if ranges.wildcard:
        yield _append_output(to=Jump(REDIRECT), why="all other outbound TCP", option="-i")
    for network in ranges.include:
        yield _append_output(_to(network), to=Jump(REDIRECT), why="included destination", option="-i")
    if ranges.include:
        yield _append_output(to=RETURN, why="all other destinations stay direct", option="-i")


def _ipv6_lockdown() -> Iterator[Operation]:
    # The script empties INPUT, foreign rules and all, and `clean` never takes these two back; `apply` keeps foreign
    # rules and `clean` removes the pair. It also refuses ::1 and neighbour discovery: kept, it is what Pods had.
    yield ChainOperation("flush", "ipv6", "filter", "INPUT", optional=True)
    for rule in LOCKDOWN:
        yield RuleOperation(
            "append", "ipv6", "filter", "INPUT", rule.replace(option="ENABLE_INBOUND_IPV6"), optional=True
        )


def _new(table: Table, chain: str) -> Operation:
    return ChainOperation("new", "ipv4", table, chain)


def _append(
    table: Table,
    chain: str,
    *matches: Match,
    to: Target,
    why: str = "",
    option: str = "",
    optional: bool = False,
) -> Operation:
    return RuleOperation("append", "ipv4", table, chain, Rule(matches, to, why, option), 1, optional)


def _append_output(*matches: Match, to: Target, why: str, option: str = "") -> Operation:
    return _append("nat", OUTPUT, *matches, to=to, why=why, option=option)


def _dport(ports: PortRange) -> Match:
    return Ports("destination", (ports,))


def _to(network: Network) -> Match:
    return Address("destination", network)
