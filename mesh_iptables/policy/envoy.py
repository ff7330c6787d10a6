"""A compiled policy as a complete static bootstrap for the real Envoy (v3). Pure.

Logical listeners are not bound: the one on the redirect port restores the original destination and hands the
connection to the listener of that address. A listener for every port (profile osm) is bound itself. Either way
the redirect port as a destination goes to the black hole first, since a connection to it would come back to
Envoy for ever. Connections to the pod itself are the matter of `envoy_inbound`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import assert_never

from mesh_iptables.policy.durations import render_seconds
from mesh_iptables.policy.envoy_clusters import cluster, dns_cache, resolved_by_filter, socket_address
from mesh_iptables.policy.envoy_guard import fixed_name, http_guard, tcp_guard
from mesh_iptables.policy.envoy_inbound import INBOUND_LISTENER, Passage, inbound_clusters, own_hosts
from mesh_iptables.policy.envoy_routes import (
    FAULT_FILTER,
    FORWARD_FILTER,
    Message,
    route_configuration,
    typed,
)
from mesh_iptables.policy.model import (
    ANY_ADDRESS,
    ANY_PORT,
    BLACKHOLE_CLUSTER,
    Chain,
    ChainMatch,
    Cluster,
    ClusterKind,
    DefaultAction,
    EgressPolicy,
    ExpectContinue,
    HeaderStyle,
    HttpAction,
    Listener,
    Profile,
    RouteTable,
    RouteTo,
    TcpAction,
    WeightedCluster,
)

_LISTENER = "envoy.extensions.filters.listener"
_NETWORK = "envoy.extensions.filters.network"

TEXT_LOG = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE%'
    " %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS%"
    ' "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% %DURATION%'
    ' %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%"'
    ' "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER%'
    " %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
)

_JSON_LOG = {
    "time": "%START_TIME%",
    "destination": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "source": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "sni": "%REQUESTED_SERVER_NAME%",
    "host": "%REQ(:AUTHORITY)%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "termination": "%CONNECTION_TERMINATION_DETAILS%",
    "upstream_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "cluster": "%UPSTREAM_CLUSTER%",
    "upstream": "%UPSTREAM_HOST%",
    "route": "%ROUTE_NAME%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration_ms": "%DURATION%",
}


@dataclass(frozen=True, slots=True)
class Site:
    """What the bootstrap says about where Envoy runs.

    `access_log` is a file, or `-` for standard output. `pod_address` and `pod_name` only make up the node id.
    `ca_bundle` is the system's store of certificates as one file. A port or a limit of 0 is none.
    """

    admin_address: str = "127.0.0.1"
    admin_port: int = 15000
    access_log: str = "-"
    json_log: bool = False
    pod_address: str = "127.0.0.1"
    pod_name: str = "mesh-iptables"
    ca_bundle: str = "/etc/ssl/certs/ca-certificates.crt"
    ipv6: bool = False  # take IPv6 destinations too
    own_addresses: tuple[str, ...] = ()  # of this machine: inbound, and where a guarded name must not lead to
    inbound_port: int = 0
    transparent: bool = False  # connections are brought by TPROXY
    max_connections: int = 0


def bootstrap(policy: EgressPolicy, site: Site) -> Message:
    """The whole configuration, ready for `json.dumps`. With DefaultAction.REFUSE it has no listener at all."""
    return {
        "node": node(policy, site),
        **_admin(policy, site),
        "static_resources": {
            "listeners": [*_Writer(policy, site).listeners()],
            "clusters": [*_cluster_messages(policy, site)],
        },
        **_overload_manager(site),
    }


def _cluster_messages(policy: EgressPolicy, site: Site) -> Iterator[Message]:
    for each in _clusters(policy).values():
        yield cluster(each, policy.behaviour, site.ca_bundle)
    if site.inbound_port or own_hosts(site.own_addresses, ipv6=site.ipv6):
        yield from inbound_clusters(ipv6=site.ipv6)


def _overload_manager(site: Site) -> Message:
    """Beyond the limit Envoy closes new connections."""
    if not site.max_connections:
        return {}
    url = "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    config = typed(url, max_active_downstream_connections=site.max_connections)
    name = "envoy.resource_monitors.global_downstream_max_connections"
    return {"overload_manager": {"resource_monitors": [{"name": name, "typed_config": config}]}}


def _admin(policy: EgressPolicy, site: Site) -> Message:
    """The admin port, unless there is to be none; who is fenced in can reach it, but not change how Envoy works."""
    message: Message = {}
    if site.admin_port:
        address = socket_address(site.admin_address, site.admin_port)
        # a probe must hear that a full proxy is alive
        full: Message = {"ignore_global_conn_limit": True} if site.max_connections else {}
        message["admin"] = {"address": address, **full}
    if policy.profile is Profile.FENCE:
        message["layered_runtime"] = {"layers": [{"name": "fixed", "static_layer": {}}]}
    return message


def node(policy: EgressPolicy, site: Site) -> Message:
    namespace = policy.identity.namespace
    name = f"sidecar~{site.pod_address}~{site.pod_name}.{namespace}~{namespace}.svc.cluster.local"
    labels = dict(policy.identity.labels)
    metadata = {"NAMESPACE": namespace, "SERVICE_ACCOUNT": policy.identity.service_account, "LABELS": labels}
    return {"id": name, "cluster": f"{site.pod_name}.{namespace}", "metadata": metadata}


def _clusters(policy: EgressPolicy) -> dict[str, Cluster]:
    blackhole = Cluster(BLACKHOLE_CLUSTER, ClusterKind.STATIC)
    return {BLACKHOLE_CLUSTER: blackhole, **policy.clusters}


_BLACKHOLE = TcpAction((WeightedCluster(BLACKHOLE_CLUSTER),))


class _Writer:
    """Listeners of one policy."""

    def __init__(self, policy: EgressPolicy, site: Site) -> None:
        self._policy = policy
        self._site = site
        self._guard = Chain("virtualOutbound-blackhole", ChainMatch(dst_port=policy.redirect_port), _BLACKHOLE)
        self._passage = Passage(
            own_hosts(site.own_addresses, ipv6=site.ipv6),
            policy.redirect_port,
            tuple(port for port in (site.inbound_port, site.admin_port) if port),
            site.ipv6,
            self._access_log(),
        )

    def listeners(self) -> Iterator[Message]:
        if self._policy.default is not DefaultAction.REFUSE:
            yield from self._outbound()
        if self._site.inbound_port:
            yield self._virtual_inbound(self._site.inbound_port)

    def _outbound(self) -> Iterator[Message]:
        policy = self._policy
        whole = policy.listeners.get((ANY_ADDRESS, ANY_PORT))
        if whole:
            yield self._bound(whole)
            return
        yield self._virtual_outbound()
        logical = [each for each in policy.listeners.values() if each.port != policy.redirect_port]
        own = [*self._passage.own_listeners(listener.port for listener in logical)]
        taken = [message["address"] for message in own]
        found = (self.logical(listener) for listener in logical)
        yield from (message for message in found if message["address"] not in taken)
        yield from own

    def _virtual_inbound(self, port: int) -> Message:
        return {
            "name": INBOUND_LISTENER,
            **self._bound_address(port),
            "traffic_direction": "INBOUND",
            "listener_filters": [_original_dst()],
            "filter_chains": self._passage.inbound_chains(),
            "access_log": self._unmatched_log(),
        }

    def _virtual_outbound(self) -> Message:
        everything = self._policy.default_chain or Chain("virtualOutbound-catchall-tcp", ChainMatch(), _BLACKHOLE)
        return {
            "name": "virtualOutbound",
            **self._bound_address(self._policy.redirect_port),
            "use_original_dst": True,
            "traffic_direction": "OUTBOUND",
            "filter_chains": [
                self._chain(self._guard, "virtualOutbound"),
                *self._passage.own_chains(),
                self._chain(everything, "virtualOutbound"),
            ],
            "access_log": self._unmatched_log(),
        }

    def _bound(self, listener: Listener) -> Message:
        """One listener for every destination, which finds the original one by itself."""
        chains = [chain for chain in listener.chains if chain.match.dst_port != self._policy.redirect_port]
        # without inspection of the redirect port, so that it is closed at once
        opaque = listener.opaque_ports | {self._policy.redirect_port}
        guarded = replace(listener, chains=(self._guard, *chains), opaque_ports=opaque)
        message = self._inspected(guarded)
        filters, written = message.get("listener_filters", []), message["filter_chains"]
        assert isinstance(filters, list)
        assert isinstance(written, list)
        ports = sorted({chain.match.dst_port for chain in chains if chain.match.dst_port} - {*self._passage.closed})
        own = [*self._passage.closed_chains(), *self._passage.own_chains(ports)]
        return {
            **message,
            **self._bound_address(self._policy.redirect_port),
            "listener_filters": [_original_dst(), *filters],
            "filter_chains": [*written, *own],
        }

    def _bound_address(self, port: int) -> Message:
        message: Message = {"address": socket_address(ANY_ADDRESS, port)}
        if self._site.ipv6:
            message["additional_addresses"] = [{"address": socket_address("::", port)}]
        if self._site.transparent:
            message["transparent"] = True
        return message

    def logical(self, listener: Listener) -> Message:
        """A listener that only `virtualOutbound` hands connections to."""
        message = self._inspected(listener)
        message["address"] = socket_address(listener.address, listener.port)
        if self._site.ipv6 and listener.address == ANY_ADDRESS:
            message["additional_addresses"] = [{"address": socket_address("::", listener.port)}]
        message["bind_to_port"] = False
        return message

    def _inspected(self, listener: Listener) -> Message:
        message: Message = {
            "name": listener.name,
            "traffic_direction": "OUTBOUND",
            "filter_chains": [self._chain(chain, listener.name) for chain in listener.chains],
            "access_log": self._unmatched_log(),
        }
        if listener.default_chain:
            message["default_filter_chain"] = self._chain(listener.default_chain, listener.name)
        filters = [*_inspectors(listener)]
        if filters:
            message["listener_filters"] = filters
            message["listener_filters_timeout"] = render_seconds(listener.inspect_timeout)
            message["continue_on_listener_filters_timeout"] = True
        return message

    # --- chains --------------------------------------------------------------------------------------------

    def _chain(self, chain: Chain, listener: str) -> Message:
        message: Message = {"name": chain.name}
        match = _chain_match(chain.match)
        if match:
            message["filter_chain_match"] = match
        action = chain.action
        match action:
            case HttpAction(routes):
                message["filters"] = [self._http_manager(routes, listener)]
            case TcpAction():
                message["filters"] = [*self._tcp_filters(action)]
            case _:
                assert_never(action)
        return message

    def _tcp_filters(self, action: TcpAction) -> Iterator[Message]:
        clusters = [self._policy.clusters.get(target.cluster) for target in action.targets]
        if clusters[0] is not None:
            yield from self._resolving_filters(clusters[0])
        idle = min((each.tcp_idle_timeout for each in clusters if each), default=3600.0)
        config = typed(
            f"{_NETWORK}.tcp_proxy.v3.TcpProxy",
            stat_prefix=action.targets[0].cluster,
            idle_timeout=render_seconds(idle),
            access_log=[self._access_log()],
            **_tcp_targets(action),
        )
        yield {"name": "envoy.filters.network.tcp_proxy", "typed_config": config}

    def _resolving_filters(self, cluster: Cluster) -> Iterator[Message]:
        """What finds the address for a connection, where that is not left to the cluster."""
        if not resolved_by_filter(cluster):
            return
        if cluster.host:
            yield fixed_name(cluster)
        behaviour = self._policy.behaviour
        url = f"{_NETWORK}.sni_dynamic_forward_proxy.v3.FilterConfig"
        config = typed(url, port_value=cluster.port, dns_cache_config=dns_cache(behaviour))
        if cluster.guarded:
            config["save_upstream_address"] = True
        yield {"name": "envoy.filters.network.sni_dynamic_forward_proxy", "typed_config": config}
        if cluster.guarded:
            yield tcp_guard(cluster, self._site.own_addresses, behaviour)

    def _http_manager(self, routes: RouteTable, listener: str) -> Message:
        behaviour = self._policy.behaviour
        config = typed(
            f"{_NETWORK}.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix=f"outbound_{listener}",
            codec_type="AUTO",
            route_config=route_configuration(
                routes, self._policy.clusters, attempt_count=behaviour.attempt_count_header
            ),
            http_filters=[*self._http_filters(routes)],
            use_remote_address=False,
            normalize_path=behaviour.normalise_path,
            path_with_escaped_slashes_action="KEEP_UNCHANGED",
            stream_idle_timeout="0s",
            proxy_100_continue=behaviour.expect_continue is ExpectContinue.FORWARD,
            upgrade_configs=[{"upgrade_type": "websocket"}],
            access_log=[self._access_log()],
        )
        if behaviour.accept_http_10:
            config["http_protocol_options"] = {"accept_http_10": True}
        if behaviour.header_style is HeaderStyle.TRANSPARENT:
            config["server_header_transformation"] = "PASS_THROUGH"
        return {"name": "envoy.filters.network.http_connection_manager", "typed_config": config}

    def _http_filters(self, routes: RouteTable) -> Iterator[Message]:
        yield {"name": FAULT_FILTER, "typed_config": typed("envoy.extensions.filters.http.fault.v3.HTTPFault")}
        forwards = self._forwards(routes)
        if forwards:
            yield from self._forward_filters(forwards)
        router = typed("envoy.extensions.filters.http.router.v3.Router")
        if self._policy.behaviour.header_style is HeaderStyle.TRANSPARENT:
            router["suppress_envoy_headers"] = True
        yield {"name": "envoy.filters.http.router", "typed_config": router}

    def _forward_filters(self, clusters: list[Cluster]) -> Iterator[Message]:
        behaviour = self._policy.behaviour
        url = "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig"
        config = typed(url, dns_cache_config=dns_cache(behaviour))
        guarded = [each for each in clusters if each.guarded]
        if guarded:
            config["save_upstream_address"] = True
        yield {"name": FORWARD_FILTER, "typed_config": config}
        if guarded:
            yield http_guard(guarded, self._site.own_addresses, behaviour)

    def _forwards(self, routes: RouteTable) -> list[Cluster]:
        """The clusters of its rules that resolve the name the client asked for."""
        names = {
            target.cluster
            for vhost in routes.vhosts
            for rule in vhost.rules
            if isinstance(rule.action, RouteTo)
            for target in rule.action.targets
        }
        found = (self._policy.clusters.get(name) for name in sorted(names))
        return [each for each in found if each is not None and each.kind is ClusterKind.FORWARD]

    # --- access log ----------------------------------------------------------------------------------------

    def _access_log(self) -> Message:
        log_format: Message = {"text_format_source": {"inline_string": TEXT_LOG}}
        if self._site.json_log:
            log_format = {"json_format": _JSON_LOG}
        if self._site.access_log == "-":
            url = "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"
            return {"name": "envoy.access_loggers.stdout", "typed_config": typed(url, log_format=log_format)}
        url = "envoy.extensions.access_loggers.file.v3.FileAccessLog"
        config = typed(url, path=self._site.access_log, log_format=log_format)
        return {"name": "envoy.access_loggers.file", "typed_config": config}

    def _unmatched_log(self) -> list[Message]:
        """The log of a listener itself: connections that no chain takes (flag NR)."""
        return [{**self._access_log(), "filter": {"response_flag_filter": {"flags": ["NR"]}}}]


def _tcp_targets(action: TcpAction) -> Message:
    if len(action.targets) == 1:
        return {"cluster": action.targets[0].cluster}
    members = [{"name": target.cluster, "weight": target.weight} for target in action.targets]
    return {"weighted_clusters": {"clusters": members}}


def _chain_match(match: ChainMatch) -> Message:
    message: Message = {}
    if match.dst_port:
        message["destination_port"] = match.dst_port
    if match.dst_cidrs:
        networks = [ip_network(cidr, strict=False) for cidr in match.dst_cidrs]
        message["prefix_ranges"] = [
            {"address_prefix": str(net.network_address), "prefix_len": net.prefixlen} for net in networks
        ]
    if match.sni:
        message["server_names"] = list(match.sni)
    if match.transport:
        message["transport_protocol"] = match.transport
    if match.protocols:
        message["application_protocols"] = list(match.protocols)
    return message


def _original_dst() -> Message:
    config = typed(f"{_LISTENER}.original_dst.v3.OriginalDst")
    return {"name": "envoy.filters.listener.original_dst", "typed_config": config}


def _inspectors(listener: Listener) -> Iterator[Message]:
    if listener.inspect_tls:
        yield _inspector("tls_inspector", "TlsInspector", listener)
    if listener.inspect_http:
        yield _inspector("http_inspector", "HttpInspector", listener)


def _inspector(name: str, message_type: str, listener: Listener) -> Message:
    config = typed(f"{_LISTENER}.{name}.v3.{message_type}")
    message: Message = {"name": f"envoy.filters.listener.{name}", "typed_config": config}
    if listener.opaque_ports:
        message["filter_disabled"] = _ports_predicate(sorted(listener.opaque_ports))
    return message


def _ports_predicate(ports: list[int]) -> Message:
    rules: list[Message] = [{"destination_port_range": {"start": port, "end": port + 1}} for port in ports]
    return rules[0] if len(rules) == 1 else {"or_match": {"rules": rules}}
