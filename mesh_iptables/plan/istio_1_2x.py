"""The rules of today's istio-iptables, in its order, for both families at once. Pure.

Where both families have a rule, that of IPv6 follows that of IPv4 directly: so one sequence is the iptables program
of each family, read one by one, and the nft program, read as it stands. Quirks of the original are kept unless a fix
is asked for; each is named, with its listed number, where it stands.
"""

from __future__ import annotations

from mesh_iptables.model import (
    ACCEPT,
    BUILT_IN,
    DROP,
    RETURN,
    Address,
    ChainOperation,
    ConnectionMark,
    ConnState,
    Interface,
    Jump,
    LoopbackAddress,
    Network,
    Owner,
    PacketMark,
    Plan,
    PortRange,
    Ports,
    Protocol,
    Redirect,
    RestoreMark,
    RouteMarked,
    Rule,
    RuleOperation,
    SaveMark,
    SetMark,
    Tproxy,
    Zone,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mesh_iptables.config_1_2x import Config
    from mesh_iptables.model import Family, Match, Operation, Side, Table, Target

    Families = tuple[Family, ...]

DIALECT = "istio-1.2x"

INBOUND, OUTPUT, OUTPUT_DNS = "ISTIO_INBOUND", "ISTIO_OUTPUT", "ISTIO_OUTPUT_DNS"
REDIRECT, IN_REDIRECT = "ISTIO_REDIRECT", "ISTIO_IN_REDIRECT"
DIVERT, TPROXY, DROP_CHAIN = "ISTIO_DIVERT", "ISTIO_TPROXY", "ISTIO_DROP"

TCP, UDP = Protocol("tcp"), Protocol("udp")
IN_LO, OUT_LO = Interface("in", "lo"), Interface("out", "lo")
DNS, DNS_PROXY = PortRange(53, 53), PortRange(15053, 15053)
IPV6_LOCALHOST = Network(6, 1, (1 << 128) - 1, "::1/128")
# The proxy sends what came from outside on to the application from this address.
PASS_THROUGH: dict[Family, Network] = {
    "ipv4": Network(4, 0x7F000006, 0xFFFFFFFF, "127.0.0.6/32"),
    "ipv6": Network(6, 6, (1 << 128) - 1, "::6/128"),
}
SELF_CALL_MARK = 1338
TO_APPLICATION, TO_RESOLVER = 2, 1  # conntrack zones: application and proxy, proxy and resolver
OPEN_CONNECTION = ConnState(("RELATED", "ESTABLISHED"))


def plan(config: Config) -> Plan:
    """All that istio-iptables would do for these settings."""
    rules = tuple(_rules(config))
    chains = tuple(_chains(rules, _families(config)))
    return Plan(DIALECT, tuple(_cleanup(rules, chains)), (*chains, *rules, *_routing(config)))


def _families(config: Config) -> Families:
    return ("ipv4", "ipv6") if config.ipv6 else ("ipv4",)


def _rules(config: Config) -> Iterator[RuleOperation]:
    both = _families(config)
    yield from _interfaces(config, both)
    if config.drop_invalid:
        yield from _drop_invalid(config, both)
    yield from _proxy_ports(config, both)
    if config.inbound_ports:
        yield from _tproxy_chains(config, both) if config.mode == "TPROXY" else ()
        yield from _inbound(config, both)
    yield from _outbound(config, both)
    yield from _owners(config, both)
    yield from _owner_groups(config, both)
    if config.dns.enabled:
        yield from _dns(config, both)
    yield from _destinations(config, both)
    if _marks_packets(config):
        yield from _tproxy_marks(config, both)


def _marks_packets(config: Config) -> bool:
    """Whether TPROXY is at work."""
    # N12: the original marks packets also where nothing inbound is captured and no route is made for the mark.
    return config.mode == "TPROXY" and (bool(config.inbound_ports) or "N12" not in config.fixes)


def _interfaces(config: Config, both: Families) -> Iterator[RuleOperation]:
    why = "excluded interface"
    tables: tuple[Table, ...] = ("nat", "mangle") if _marks_packets(config) else ("nat",)
    for table in tables:
        for name in config.exclude_interfaces:
            yield from _append(both, table, "PREROUTING", Interface("in", name), to=RETURN, why=why, option="-c")
            yield from _append(both, table, "OUTPUT", Interface("out", name), to=RETURN, why=why, option="-c")
    for name in config.virtual_interfaces:  # each in front of the one before: the kernel has them in reverse order
        yield from _insert(
            1, both, "nat", "PREROUTING", Interface("in", name), to=RETURN, why="virtual machine", option="-k"
        )


def _drop_invalid(config: Config, both: Families) -> Iterator[RuleOperation]:
    # N15: all protocols with iptables; the native nft form of the original asks for TCP.
    only = (TCP,) if "N15" in config.fixes else ()
    why, option = "a packet outside its connection would reset it", "--drop-invalid"
    invalid = ConnState(("INVALID",))
    yield from _append(both, "mangle", "PREROUTING", *only, invalid, to=Jump(DROP_CHAIN), why=why, option=option)
    yield from _append(both, "mangle", DROP_CHAIN, to=DROP, why=why, option=option)


def _proxy_ports(config: Config, both: Families) -> Iterator[RuleOperation]:
    # The chain ISTIO_INBOUND is made with this rule also where nothing jumps to it.
    tunnel = _dport(config.tunnel_port)
    yield from _append(
        both, "nat", INBOUND, TCP, tunnel, to=RETURN, why="the tunnel reaches the proxy directly", option="-e"
    )
    yield from _append(
        both,
        "nat",
        REDIRECT,
        TCP,
        to=Redirect(config.proxy_port),
        why="outbound connections go to the proxy",
        option="-p",
    )
    to_inbound = Redirect(config.inbound_capture_port)
    yield from _append(
        both, "nat", IN_REDIRECT, TCP, to=to_inbound, why="inbound connections go to the proxy", option="-z"
    )


def _tproxy_chains(config: Config, both: Families) -> Iterator[RuleOperation]:
    mark = config.tproxy_mark
    yield from _append(
        both,
        "mangle",
        DIVERT,
        to=SetMark(mark.value, mark.spelled),
        why="mark, so that routing delivers here",
        option="-t",
    )
    yield from _append(both, "mangle", DIVERT, to=ACCEPT, why="the open connection keeps its socket")
    to_proxy = Tproxy(config.inbound_capture_port, mark.value, mark.spelled)
    for family in both:
        elsewhere = _to_localhost(config, family, negated=True)
        yield from _append(
            (family,), "mangle", TPROXY, elsewhere, TCP, to=to_proxy, why="to the proxy, unchanged", option="-z"
        )


def _inbound(config: Config, both: Families) -> Iterator[RuleOperation]:
    table: Table = "mangle" if config.mode == "TPROXY" else "nat"
    selected = config.inbound_ports
    yield from _append(both, table, "PREROUTING", TCP, to=Jump(INBOUND), why="look at inbound TCP", option="-b")
    if selected.wildcard:
        for port in selected.exclude:
            yield from _append(
                both, table, INBOUND, TCP, _dport(port), to=RETURN, why="excluded inbound port", option="-d"
            )
        yield from _capture(config, both, (), "all other inbound TCP")
    for port in selected.include:  # N19: a rule or two for each, however long the list
        yield from _capture(config, both, (_dport(port),), "included inbound port")


def _capture(config: Config, both: Families, only: tuple[Match, ...], why: str) -> Iterator[RuleOperation]:
    if config.mode == "REDIRECT":
        yield from _append(both, "nat", INBOUND, TCP, *only, to=Jump(IN_REDIRECT), why=why, option="-b")
        return
    yield from _append(
        both, "mangle", INBOUND, TCP, *only, OPEN_CONNECTION, to=Jump(DIVERT), why="already open", option="-b"
    )
    yield from _append(both, "mangle", INBOUND, TCP, *only, to=Jump(TPROXY), why=why, option="-b")


def _outbound(config: Config, both: Families) -> Iterator[RuleOperation]:
    yield from _append(both, "nat", "OUTPUT", to=Jump(OUTPUT), why="look at everything outbound")
    for port in config.exclude_outbound_ports:
        for protocol in (TCP, UDP):
            yield from _append_output(
                both, protocol, _dport(port), to=RETURN, why="excluded outbound port", option="-o"
            )
    for family in both:
        from_proxy = Address("source", PASS_THROUGH[family])
        yield from _append_output(
            (family,), OUT_LO, from_proxy, to=RETURN, why="the proxy hands inbound connections on"
        )


def _owners(config: Config, both: Families) -> Iterator[RuleOperation]:
    owners = (*config.proxy_uids, *config.proxy_gids)
    # N1: the second rule of the first owner hides the first rule of every other owner.
    self_calls_first = "N1" in config.fixes
    if self_calls_first:
        for owner in owners:
            yield from _self_call(config, both, owner)
    for owner in owners:
        if not self_calls_first:
            yield from _self_call(config, both, owner)
        yield from _leave_alone(config, both, owner)


def _self_call(config: Config, both: Families, owner: Owner) -> Iterator[RuleOperation]:
    """A call of the Pod to itself by way of the proxy: it must come in like one from outside."""
    # N2: with DNS capture port 53 is left out for users, but not for groups.
    leaves_dns_out = config.dns.enabled and (owner.kind == "uid" or "N2" in config.fixes)
    ports = (DNS, config.tunnel_port) if leaves_dns_out else (config.tunnel_port,)
    others = Ports("destination", ports, negated=True)
    for family in both:
        elsewhere = _to_localhost(config, family, negated=True)
        yield from _append_output(
            (family,),
            OUT_LO,
            elsewhere,
            TCP,
            others,
            owner,
            to=Jump(IN_REDIRECT),
            why="the Pod calls itself through the proxy",
            option=OWNER_OPTIONS[owner.kind],
        )


def _leave_alone(config: Config, both: Families, owner: Owner) -> Iterator[RuleOperation]:
    option = OWNER_OPTIONS[owner.kind]
    if not config.outbound_loopback:
        but_dns = (TCP, Ports("destination", (DNS,), negated=True)) if config.dns.enabled else ()
        anybody_else = owner.replace(negated=True)
        yield from _append_output(
            both, OUT_LO, *but_dns, anybody_else, to=RETURN, why="the application calls itself directly", option=option
        )
    yield from _append_output(
        both, owner, to=RETURN, why="the proxy's own traffic must not come back to it", option=option
    )


OWNER_OPTIONS = {"uid": "-u", "gid": "-g"}


def _owner_groups(config: Config, both: Families) -> Iterator[RuleOperation]:
    groups = config.owner_groups
    for group in groups.exclude:
        yield from _append_output(
            both, group, to=RETURN, why="excluded group", option="ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"
        )
    if not groups.wildcard:
        # N8: of an empty list nothing is left but `-j RETURN`, and nothing outbound is captured.
        others = [group.replace(negated=True) for group in groups.include]
        yield from _append_output(
            both, *others, to=RETURN, why="only listed groups are captured", option="ISTIO_OUTBOUND_OWNER_GROUPS"
        )


def _dns(config: Config, both: Families) -> Iterator[RuleOperation]:
    option = "--redirect-dns"
    served = tuple(family for family in both if config.dns.everything or _servers(config, family))
    # N17: the original tells conntrack zones apart also in a family whose DNS it does not capture.
    zoned = served if "N17" in config.fixes else both
    yield from _append(zoned, "raw", "OUTPUT", to=Jump(OUTPUT_DNS), why="DNS gets conntrack zones", option=option)
    yield from _append_output(served, to=Jump(OUTPUT_DNS), why="look at DNS", option=option)
    for protocol, spelled in ((TCP, ""), (UDP, "--to-port")):  # that spelling is the original's
        for families, server in _resolvers(config, both, "destination"):
            yield from _append(
                families,
                "nat",
                OUTPUT_DNS,
                protocol,
                _dport(DNS),
                *server,
                to=Redirect(DNS_PROXY, spelled),
                why="DNS goes to the proxy",
                option=option,
            )
    yield from _proxy_zones(config, zoned, option)
    yield from _application_zones(config, both, served, option)


def _proxy_zones(config: Config, zoned: Families, option: str) -> Iterator[RuleOperation]:
    """Without zones, a source port that application and proxy both use would make one conntrack entry of two flows."""
    for owner in (*config.proxy_uids, *config.proxy_gids):
        yield from _append(
            zoned, "raw", OUTPUT_DNS, UDP, _dport(DNS), owner,
            to=Zone(TO_RESOLVER), why="proxy to resolver", option=option,
        )  # fmt: skip
        answers = Ports("source", (DNS_PROXY,))
        yield from _append(
            zoned, "raw", OUTPUT_DNS, UDP, answers, owner,
            to=Zone(TO_APPLICATION), why="proxy to application", option=option,
        )  # fmt: skip


def _application_zones(config: Config, both: Families, served: Families, option: str) -> Iterator[RuleOperation]:
    yield from _append(served, "raw", "PREROUTING", to=Jump(INBOUND), why="answers of resolvers", option=option)
    to_server = _resolvers(config, both, "destination")
    from_server = _resolvers(config, both, "source")
    for (families, destination), (_, source) in zip(to_server, from_server, strict=True):
        yield from _append(
            families, "raw", OUTPUT_DNS, UDP, _dport(DNS), *destination,
            to=Zone(TO_APPLICATION), why="application to proxy", option=option,
        )  # fmt: skip
        yield from _append(
            families, "raw", INBOUND, UDP, Ports("source", (DNS,)), *source,
            to=Zone(TO_RESOLVER), why="resolver to proxy", option=option,
        )  # fmt: skip


def _resolvers(config: Config, both: Families, side: Side) -> Iterator[tuple[Families, tuple[Match, ...]]]:
    """Whose DNS is captured, and in which families: all in one, or one resolver after the other."""
    if config.dns.everything:
        yield both, ()
        return
    for family in both:
        for server in _servers(config, family):
            yield (family,), (Address(side, server),)


def _servers(config: Config, family: Family) -> list[Network]:
    return [server for server in config.dns.servers if _family(server) == family]


def _destinations(config: Config, both: Families) -> Iterator[RuleOperation]:
    for family in both:
        yield from _append_output((family,), _to_localhost(config, family), to=RETURN, why="localhost stays direct")
    ranges = config.outbound_ranges
    for families, network in _by_family(ranges.exclude, both):
        yield from _append_output(families, _to(network), to=RETURN, why="excluded destination", option="-x")
    # N18: these add to what -i captures; "only these ports" they do not mean.
    for port in config.outbound_ports:
        yield from _append_output(both, TCP, _dport(port), to=Jump(REDIRECT), why="included outbound port", option="-q")
    if ranges.wildcard:
        # N20: all protocols come this far, but only TCP is redirected there; QUIC leaves uncaptured.
        yield from _append_output(both, to=Jump(REDIRECT), why="all other outbound TCP", option="-i")
        yield from _virtual_machines(config, both)
    for families, network in _by_family(ranges.include, both):
        yield from _virtual_machines(config, families, _to(network))
        yield from _append_output(families, _to(network), to=Jump(REDIRECT), why="included destination", option="-i")


def _virtual_machines(config: Config, families: Families, *only: Match) -> Iterator[RuleOperation]:
    for name in config.virtual_interfaces:
        yield from _insert(
            1, families, "nat", "PREROUTING", Interface("in", name), *only,
            to=Jump(REDIRECT), why="outbound from a virtual machine", option="-k",
        )  # fmt: skip


def _tproxy_marks(config: Config, both: Families) -> Iterator[RuleOperation]:
    """The proxy keeps the client's address as source, so answers and calls to itself are told apart by marks."""
    mark, option = config.tproxy_mark.value, "-t"
    marked = PacketMark(mark)
    yield from _append(
        both, "mangle", "PREROUTING", TCP, marked, to=SaveMark(), why="the connection remembers the mark", option=option
    )
    yield from _append(
        both, "mangle", "OUTPUT", TCP, OUT_LO, marked, to=RETURN, why="the proxy hands on over lo", option=option
    )
    for owner in (*config.proxy_uids, *config.proxy_gids):
        for family in both:
            elsewhere = _to_localhost(config, family, negated=True)
            yield from _append(
                (family,), "mangle", "OUTPUT", elsewhere, TCP, OUT_LO, owner,
                to=SetMark(SELF_CALL_MARK), why="the Pod calls itself through the proxy",
                option=OWNER_OPTIONS[owner.kind],
            )  # fmt: skip
    yield from _append(
        both,
        "mangle",
        "OUTPUT",
        TCP,
        ConnectionMark(mark),
        to=RestoreMark(),
        why="answers go to the proxy",
        option=option,
    )
    yield from _insert(1, both, "mangle", INBOUND, TCP, marked, to=RETURN, why="no endless capture", option=option)
    for family in both:
        from_proxy = Address("source", PASS_THROUGH[family])
        yield from _insert(
            2, (family,), "mangle", INBOUND, TCP, from_proxy, IN_LO, to=RETURN, why="the proxy hands on over lo"
        )
    others = PacketMark(SELF_CALL_MARK, negated=True)
    yield from _insert(
        3, both, "mangle", INBOUND, TCP, IN_LO, others, to=RETURN, why="the application calls itself directly"
    )


def _routing(config: Config) -> Iterator[Operation]:
    if config.ipv6:
        yield LoopbackAddress("ipv6", PASS_THROUGH["ipv6"])
    if config.mode == "TPROXY" and config.inbound_ports:
        mark, table = config.tproxy_mark, config.tproxy_route_table
        for family in _families(config):
            yield RouteMarked(family, mark.value, table.value, mark.spelled, table.spelled)


def _chains(rules: Sequence[RuleOperation], families: Families) -> Iterator[ChainOperation]:
    """Our chains: of each table first those that hold a rule, as they appear, then those that are jumped to only."""
    for family in families:
        own = [operation for operation in rules if operation.family == family]
        holders = [(operation.table, operation.chain) for operation in own]
        targets = [
            (operation.table, operation.rule.target.chain)
            for operation in own
            if isinstance(operation.rule.target, Jump)
        ]
        named = [place for place in dict.fromkeys((*holders, *targets)) if place[1] not in BUILT_IN]
        for table, chain in sorted(named, key=lambda place: place[0]):
            yield ChainOperation("new", family, table, chain)


def _cleanup(rules: Sequence[RuleOperation], chains: Sequence[ChainOperation]) -> Iterator[Operation]:
    """What the original does before it applies with --reconcile: take back what this run is about to make."""
    for operation in reversed(rules):
        if operation.chain in BUILT_IN:
            yield operation.replace(verb="delete", position=1)
    for made in reversed(chains):
        yield made.replace(verb="flush")
    for made in reversed(chains):
        yield made.replace(verb="delete")


def _append(
    families: Families, table: Table, chain: str, *matches: Match, to: Target, why: str = "", option: str = ""
) -> Iterator[RuleOperation]:
    rule = Rule(matches, to, why, option)
    for family in families:
        yield RuleOperation("append", family, table, chain, rule, 1, False)


def _insert(
    position: int,
    families: Families,
    table: Table,
    chain: str,
    *matches: Match,
    to: Target,
    why: str = "",
    option: str = "",
) -> Iterator[RuleOperation]:
    rule = Rule(matches, to, why, option)
    for family in families:
        yield RuleOperation("insert", family, table, chain, rule, position, False)


def _append_output(
    families: Families, *matches: Match, to: Target, why: str = "", option: str = ""
) -> Iterator[RuleOperation]:
    return _append(families, "nat", OUTPUT, *matches, to=to, why=why, option=option)


def _to_localhost(config: Config, family: Family, *, negated: bool = False) -> Match:
    return Address("destination", config.loopback if family == "ipv4" else IPV6_LOCALHOST, negated)


def _by_family(networks: Sequence[Network], both: Families) -> Iterator[tuple[Families, Network]]:
    """Networks of IPv4, then those of IPv6, each with its family; none of a family that is off."""
    for family in both:
        for network in networks:
            if _family(network) == family:
                yield (family,), network


def _family(network: Network) -> Family:
    return "ipv4" if network.version == 4 else "ipv6"


def _dport(ports: PortRange) -> Match:
    return Ports("destination", (ports,))


def _to(network: Network) -> Match:
    return Address("destination", network, False)
