"""Services and DestinationRules into clusters, one for each service port and subset. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mesh_iptables.policy import istio_schema as istio
from mesh_iptables.policy.documents import Document
from mesh_iptables.policy.istio_services import Service, selects
from mesh_iptables.policy.model import (
    UNLIMITED,
    Cluster,
    ClusterKind,
    Endpoint,
    HashPolicy,
    HashSource,
    Limits,
    LoadBalancing,
    Outlier,
    TlsOrigination,
    UpstreamProtocol,
)

DestinationRuleDocument = Document[istio.DestinationRule]

_KINDS = {
    "NONE": ClusterKind.ORIGINAL_DST,
    "STATIC": ClusterKind.STATIC,
    "DNS": ClusterKind.STRICT_DNS,
    "DNS_ROUND_ROBIN": ClusterKind.LOGICAL_DNS,
}

_BALANCERS = {
    "ROUND_ROBIN": LoadBalancing.ROUND_ROBIN,
    "RANDOM": LoadBalancing.RANDOM,
    "PASSTHROUGH": LoadBalancing.CLUSTER_PROVIDED,
}

_H2_PORTS = ("HTTP2", "GRPC")


def cluster_name(port: int, subset: str, host: str) -> str:
    return f"outbound|{port}|{subset}|{host}"


@dataclass(frozen=True, slots=True)
class _Effective:
    """The traffic policy of one port after port-level settings and subset are taken in."""

    load_balancer: istio.LoadBalancer | None = None
    connection_pool: istio.ConnectionPool | None = None
    outlier_detection: istio.OutlierDetection | None = None
    tls: istio.ClientTls | None = None


def clusters_of(
    service: Service, rule: DestinationRuleDocument | None, *, connect_timeout: float, pin: bool
) -> Iterator[Cluster]:
    """The cluster of a service port, then one for each subset."""
    spec = rule.spec if rule else istio.DestinationRule()
    whole = _effective(spec.traffic_policy, None, service.number)
    yield _cluster(service, "", service.endpoints, whole, connect_timeout, pin=pin)
    for subset in spec.subsets:
        endpoints = tuple(endpoint for endpoint in service.endpoints if selects(subset.labels, endpoint.labels))
        effective = _effective(spec.traffic_policy, subset.traffic_policy, service.number)
        yield _cluster(service, subset.name, endpoints, effective, connect_timeout, pin=pin)


def _effective(rule: istio.TrafficPolicy | None, subset: istio.TrafficPolicy | None, port: int) -> _Effective:
    layers = [policy for policy in (subset, rule) if policy is not None]
    for policy in layers:
        for settings in policy.port_level_settings:
            if settings.port.number == port:
                return _merged([settings])  # it replaces all the rest
    return _merged(layers)


def _merged(layers: Sequence[istio.TrafficPolicy | istio.PortTrafficPolicy]) -> _Effective:
    """Part by part the first layer that has it."""
    return _Effective(
        next((layer.load_balancer for layer in layers if layer.load_balancer), None),
        next((layer.connection_pool for layer in layers if layer.connection_pool), None),
        next((layer.outlier_detection for layer in layers if layer.outlier_detection), None),
        next((layer.tls for layer in layers if layer.tls), None),
    )


def _cluster(
    service: Service,
    subset: str,
    endpoints: tuple[Endpoint, ...],
    policy: _Effective,
    connect_timeout: float,
    *,
    pin: bool,
) -> Cluster:
    kind = _KINDS[service.resolution]
    if pin and kind is ClusterKind.ORIGINAL_DST and not service.addresses and "*" not in service.host:
        kind = ClusterKind.STRICT_DNS
        endpoints = (Endpoint(service.host, service.target_port or service.number),)
    balancing = _balancing(policy.load_balancer)
    if balancing is LoadBalancing.CLUSTER_PROVIDED:
        kind = ClusterKind.ORIGINAL_DST
    if kind is ClusterKind.ORIGINAL_DST:
        balancing, endpoints = LoadBalancing.CLUSTER_PROVIDED, ()
    if kind is ClusterKind.LOGICAL_DNS:
        endpoints = endpoints[:1]
        kind = kind if endpoints else ClusterKind.STATIC  # no name to look up: no endpoint at all
    tcp = (policy.connection_pool and policy.connection_pool.tcp) or istio.TcpPool()
    http = (policy.connection_pool and policy.connection_pool.http) or istio.HttpPool()
    return Cluster(
        name=cluster_name(service.number, subset, service.host),
        kind=kind,
        host=service.host,
        port=service.number,
        subset=subset,
        endpoints=endpoints,
        port_override=service.target_port if kind is ClusterKind.ORIGINAL_DST else 0,
        connect_timeout=tcp.connect_timeout or connect_timeout,
        lb=balancing,
        limits=_limits(tcp, http),
        outlier=_outlier(policy.outlier_detection),
        tls=_tls(policy.tls, service.subject_alt_names),
        protocol=_protocol(service, http),
        tcp_idle_timeout=3600.0 if tcp.idle_timeout is None else tcp.idle_timeout,
        http_idle_timeout=3600.0 if http.idle_timeout is None else http.idle_timeout,
        origin=service.origin,
    )


def _balancing(balancer: istio.LoadBalancer | None) -> LoadBalancing:
    if balancer is None:
        return LoadBalancing.LEAST_REQUEST
    if balancer.consistent_hash:
        return LoadBalancing.RING_HASH
    return _BALANCERS.get(balancer.simple or "", LoadBalancing.LEAST_REQUEST)


def _limits(tcp: istio.TcpPool, http: istio.HttpPool) -> Limits:
    """In a DestinationRule 0 means "not set"."""
    return Limits(
        max_connections=tcp.max_connections or UNLIMITED,
        max_pending_requests=http.http1_max_pending_requests or UNLIMITED,
        max_requests=http.http2_max_requests or UNLIMITED,
        max_retries=http.max_retries or UNLIMITED,
        max_requests_per_connection=http.max_requests_per_connection,
    )


def _outlier(detection: istio.OutlierDetection | None) -> Outlier | None:
    if detection is None:
        return None
    return Outlier(
        consecutive_5xx=detection.consecutive_5xx_errors or 0,
        consecutive_gateway_errors=detection.consecutive_gateway_errors or 0,
        interval=detection.interval or 10.0,
        base_ejection_time=detection.base_ejection_time or 30.0,
        max_ejection_percent=10 if detection.max_ejection_percent is None else detection.max_ejection_percent,
        min_health_percent=detection.min_health_percent or 0,
    )


def _tls(tls: istio.ClientTls | None, entry_names: tuple[str, ...]) -> TlsOrigination | None:
    if tls is None or tls.mode == "DISABLE":
        return None
    names = tls.subject_alt_names or entry_names
    mutual = tls.mode == "MUTUAL"
    return TlsOrigination(
        certificate=tls.client_certificate if mutual else None,
        private_key=tls.private_key if mutual else None,
        ca_file=tls.ca_certificates or None,
        sni=tls.sni or None,
        sans=names,
        sni_from_host=not tls.sni,
        # setting the SNI alone switches the check of the name off, as in Istio; a warning says so
        verify_host=not tls.sni and not names and not tls.insecure_skip_verify,
        verify=not tls.insecure_skip_verify,
    )


def _protocol(service: Service, http: istio.HttpPool) -> UpstreamProtocol:
    upgraded = service.declared in _H2_PORTS or http.h2_upgrade_policy == "UPGRADE"
    return UpstreamProtocol.HTTP2 if upgraded else UpstreamProtocol.HTTP1


def hash_policies(rule: DestinationRuleDocument | None, subset: str, port: int) -> Iterator[HashPolicy]:
    """What requests to a destination are hashed by, if its policy balances by hash."""
    if rule is None:
        return
    own = next((each.traffic_policy for each in rule.spec.subsets if each.name == subset), None)
    balancer = _effective(rule.spec.traffic_policy, own, port).load_balancer
    key = balancer.consistent_hash if balancer else None
    if key is None:
        return
    if key.http_cookie:
        yield HashPolicy(HashSource.COOKIE, key.http_cookie.name, key.http_cookie.path, key.http_cookie.ttl)
    elif key.http_header_name:
        yield HashPolicy(HashSource.HEADER, key.http_header_name.lower())
    elif key.http_query_parameter_name:
        yield HashPolicy(HashSource.QUERY, key.http_query_parameter_name)
    elif key.use_source_ip:
        yield HashPolicy(HashSource.SOURCE_IP)


def index_by_name(clusters: Iterable[Cluster]) -> Mapping[str, Cluster]:
    """By name; of two clusters with one name the first."""
    index: dict[str, Cluster] = {}
    for cluster in clusters:
        index.setdefault(cluster.name, cluster)
    return index
