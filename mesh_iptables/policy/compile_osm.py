"""Open Service Mesh documents into the compiled policy of one workload. Pure.

There is one listener for all destinations. Every rule is a chain with the destination port: `http` by detected
protocol, `https` by server name and range, `tcp` by range alone. All policies that name the workload's service
account are united; without any, and so without chains, the redirect port is not opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mesh_iptables.policy import hosts
from mesh_iptables.policy import osm_schema as osm
from mesh_iptables.policy.behaviours import behaviour_for
from mesh_iptables.policy.chains import ChainSet
from mesh_iptables.policy.complaint import Complaint
from mesh_iptables.policy.documents import Document, Documents
from mesh_iptables.policy.istio_clusters import index_by_name
from mesh_iptables.policy.model import (
    ANY_ADDRESS,
    ANY_PORT,
    BUILT_IN,
    PASSTHROUGH_CLUSTER,
    TLS,
    UNLIMITED,
    Chain,
    ChainMatch,
    Cluster,
    ClusterKind,
    DefaultAction,
    EgressPolicy,
    Endpoint,
    HttpAction,
    Limits,
    Listener,
    LoadBalancing,
    MatchKind,
    NamedMatch,
    Origin,
    RequestMatch,
    RouteTable,
    RouteTo,
    Rule,
    StringMatch,
    TcpAction,
    UpstreamProtocol,
    VirtualHost,
    WeightedCluster,
)
from mesh_iptables.policy.osm_checks import ROUTE_GROUP, TRAFFIC_SETTING
from mesh_iptables.policy.settings import Settings

EgressDocument = Document[osm.Egress]
Setting = osm.UpstreamTrafficSetting

_INSPECT_TIMEOUT = 15.0
_CONNECT_TIMEOUT = 5.0
_HTTP_PROTOCOLS = ("http/1.0", "http/1.1", "h2c")
_REDIRECT_PORT = 15001


@dataclass(slots=True)
class _Draft:
    """What the policies say, while they are united."""

    rules: dict[int, dict[str, list[Rule]]] = field(default_factory=dict)  # port -> host -> rules
    vhost_origins: dict[tuple[int, str], Origin] = field(default_factory=dict)
    chains: ChainSet = field(default_factory=ChainSet)
    clusters: list[Cluster] = field(default_factory=list)
    opaque_ports: set[int] = field(default_factory=set)
    complaints: list[Complaint] = field(default_factory=list)


def compile_osm(documents: Documents, settings: Settings) -> tuple[EgressPolicy, list[Complaint]]:
    """The policy of the workload in `settings.identity`, and what is doubtful about it."""
    written = documents.of(osm.OsmMeshConfig)
    mesh = written[-1].spec if written else osm.OsmMeshConfig()
    origin = written[-1].field.origin if written else BUILT_IN
    if mesh.traffic.enable_egress:
        return _permissive(settings, origin), []
    draft = _Draft()
    if mesh.feature_flags.enable_egress_policy:
        for document in _policies(documents, settings):
            _add(draft, document, documents)
    listeners = {}
    listener = _listener(draft, settings)
    if listener.chains:
        listeners[ANY_ADDRESS, ANY_PORT] = listener
    policy = EgressPolicy(
        profile=settings.profile,
        identity=settings.identity,
        behaviour=behaviour_for(settings),
        listeners=listeners,
        clusters=index_by_name(draft.clusters),
        default=DefaultAction.BLACKHOLE if listeners else DefaultAction.REFUSE,
        redirect_port=settings.redirect_port or _REDIRECT_PORT,
        default_origin=origin,
    )
    return policy, draft.complaints


def _permissive(settings: Settings, origin: Origin) -> EgressPolicy:
    """`enableEgress: true`: everything passes, and Egress policies are switched off."""
    action = TcpAction((WeightedCluster(PASSTHROUGH_CLUSTER),))
    return EgressPolicy(
        profile=settings.profile,
        identity=settings.identity,
        behaviour=behaviour_for(settings),
        listeners={},
        clusters={PASSTHROUGH_CLUSTER: _original_dst(PASSTHROUGH_CLUSTER, _CONNECT_TIMEOUT)},
        default=DefaultAction.PASSTHROUGH,
        default_chain=Chain("passthrough-outbound", ChainMatch(), action, origin),
        redirect_port=settings.redirect_port or _REDIRECT_PORT,
        default_origin=origin,
    )


def _policies(documents: Documents, settings: Settings) -> list[EgressDocument]:
    """Those whose sources name the workload's service account, oldest first."""
    account = (settings.identity.namespace, settings.identity.service_account)
    found = [
        document
        for document in documents.of(osm.Egress)
        if account in [(source.namespace, source.name) for source in document.spec.sources]
    ]
    return sorted(found, key=lambda document: document.created)


def _add(draft: _Draft, document: EgressDocument, documents: Documents) -> None:
    named = {(match.api_group, match.kind): match.name for match in document.spec.matches}
    setting = Setting()
    if TRAFFIC_SETTING in named:
        found = _named(documents.of(Setting), document.namespace, named[TRAFFIC_SETTING])
        if found is None:
            text = f"names the UpstreamTrafficSetting '{named[TRAFFIC_SETTING]}', which is missing: it is dropped"
            draft.complaints.append((document.field / "matches").warning("eg-uts-missing", text))
            return
        setting = found.spec
    for number, port in enumerate(document.spec.ports):
        origin = (document.field / "ports" / number).origin
        _PROTOCOLS[port.protocol.lower()](_Port(draft, document, documents, setting, port.number, origin))


def _named(documents: Iterable[Document[Setting]], namespace: str, name: str) -> Document[Setting] | None:
    return next((each for each in documents if (each.namespace, each.name) == (namespace, name)), None)


@dataclass(frozen=True, slots=True)
class _Port:
    """One port of one policy on its way into the draft."""

    draft: _Draft
    document: EgressDocument
    documents: Documents
    setting: Setting
    number: int
    origin: Origin

    @property
    def host_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(hosts.canonical(host) for host in self.document.spec.hosts))

    @property
    def ranges(self) -> tuple[str, ...]:
        networks = [hosts.network(cidr) for cidr in self.document.spec.ip_addresses]
        return tuple(dict.fromkeys(str(network) for network in networks if network is not None))


def _add_http(port: _Port) -> None:
    for host in port.host_names:
        name = f"{host}:{port.number}"
        rules = port.draft.rules.setdefault(port.number, {}).setdefault(host, [])
        rules.extend(rule for rule in _rules(port, name) if rule not in rules)
        port.draft.vhost_origins.setdefault((port.number, host), port.origin)
        port.draft.clusters.append(_host_cluster(port, host, name))


def _rules(port: _Port, cluster: str) -> Iterator[Rule]:
    """Everything is allowed, or what the route groups list; a group that is missing lists nothing."""
    action = RouteTo((WeightedCluster(cluster),))
    names = [match.name for match in port.document.spec.matches if (match.api_group, match.kind) == ROUTE_GROUP]
    if not names:
        yield Rule("allow-all", RequestMatch(), action, origin=port.origin)
    for name in names:
        groups = [
            group
            for group in port.documents.of(osm.HttpRouteGroup)
            if (group.namespace, group.name) == (port.document.namespace, name)
        ]
        if not groups:
            text = f"name the HTTPRouteGroup '{name}', which is missing: it allows nothing"
            port.draft.complaints.append((port.document.field / "matches").warning("eg-group-missing", text))
        for group in groups[:1]:
            for number, match in enumerate(group.spec.matches):
                origin = (group.field / "matches" / number).origin
                yield Rule(f"{name}/{match.name}", _request_match(match), action, origin=origin)


def _request_match(match: osm.RouteMatch) -> RequestMatch:
    methods = () if "*" in match.methods else match.methods
    headers = {name.lower(): StringMatch(MatchKind.REGEX, value) for name, value in match.headers.items()}
    authority = headers.pop("host", None)
    return RequestMatch(
        path=StringMatch(MatchKind.REGEX, match.path_regex),
        methods=tuple(StringMatch(MatchKind.EXACT, method) for method in methods),
        authority=authority,
        headers=tuple(NamedMatch(name, value) for name, value in headers.items()),
    )


def _add_https(port: _Port) -> None:
    if not port.host_names:
        return
    cluster = _port_cluster(port)
    match = ChainMatch(port.number, port.ranges, port.host_names, TLS)
    action = TcpAction((WeightedCluster(cluster.name),))
    port.draft.clusters.append(cluster)
    port.draft.chains.add(Chain(f"egress-https.{port.number}", match, action, port.origin))
    if not port.ranges:
        text = f"a client that sends one of the hosts as SNI reaches any address on port {port.number}"
        port.draft.complaints.append(port.document.field.warning("W-SNI-SPOOF", f"{text}; limit it by ipAddresses"))


def _add_tcp(port: _Port) -> None:
    cluster = _port_cluster(port)
    match = ChainMatch(port.number, port.ranges)
    action = TcpAction((WeightedCluster(cluster.name),))
    port.draft.clusters.append(cluster)
    port.draft.chains.add(Chain(f"egress-tcp.{port.number}", match, action, port.origin))


def _add_server_first(port: _Port) -> None:
    port.draft.opaque_ports.add(port.number)
    _add_tcp(port)


_PROTOCOLS = {
    "http": _add_http,
    "https": _add_https,
    "tcp": _add_tcp,
    "tcp-server-first": _add_server_first,
}


def _listener(draft: _Draft, settings: Settings) -> Listener:
    timeout = settings.options.listener_filter_timeout
    for port, rules_by_host in draft.rules.items():
        vhosts = tuple(
            VirtualHost(host, (host, f"{host}:{port}"), tuple(rules), draft.vhost_origins[port, host])
            for host, rules in rules_by_host.items()
        )
        table = RouteTable(f"rds-egress.{port}", vhosts, ignore_port=False)
        match = ChainMatch(port, protocols=_HTTP_PROTOCOLS)
        draft.chains.add(Chain(f"egress-http.{port}", match, HttpAction(table), vhosts[0].origin))
    return Listener(
        name="outbound-listener",
        address=ANY_ADDRESS,
        port=ANY_PORT,
        chains=draft.chains.chains(),
        inspect_tls=True,
        inspect_http=True,
        inspect_timeout=_INSPECT_TIMEOUT if timeout is None else timeout,
        opaque_ports=frozenset(draft.opaque_ports),
    )


# --- clusters ----------------------------------------------------------------------------------------------


def _host_cluster(port: _Port, host: str, name: str) -> Cluster:
    return Cluster(
        name=name,
        kind=ClusterKind.STRICT_DNS,
        host=host,
        port=port.number,
        endpoints=() if "*" in host else (Endpoint(host, port.number),),
        connect_timeout=_connect_timeout(port.setting),
        limits=_limits(port.setting),
        protocol=UpstreamProtocol.SAME_AS_CLIENT,
        origin=port.origin,
    )


def _port_cluster(port: _Port) -> Cluster:
    """The original destination on one port. Of several policies for a port the oldest sets the limits."""
    timeout = _connect_timeout(port.setting)
    return _original_dst(str(port.number), timeout, port.number, _limits(port.setting), port.origin)


def _original_dst(
    name: str, timeout: float, port: int = 0, limits: Limits | None = None, origin: Origin | None = None
) -> Cluster:
    return Cluster(
        name=name,
        kind=ClusterKind.ORIGINAL_DST,
        port=port,
        connect_timeout=timeout,
        lb=LoadBalancing.CLUSTER_PROVIDED,
        limits=limits or Limits(),
        origin=origin or BUILT_IN,
    )


def _connect_timeout(setting: Setting) -> float:
    tcp = setting.connection_settings.tcp
    return (tcp and tcp.connect_timeout) or _CONNECT_TIMEOUT


def _limits(setting: Setting) -> Limits:
    """Here 0 means zero, other than in a DestinationRule."""
    tcp = setting.connection_settings.tcp or osm.TcpConnectionSettings()
    http = setting.connection_settings.http or osm.HttpConnectionSettings()
    return Limits(
        max_connections=_given(tcp.max_connections),
        max_pending_requests=_given(http.max_pending_requests),
        max_requests=_given(http.max_requests),
        max_retries=_given(http.max_retries),
        max_requests_per_connection=http.max_requests_per_connection or 0,
    )


def _given(limit: int | None) -> int:
    return UNLIMITED if limit is None else limit
