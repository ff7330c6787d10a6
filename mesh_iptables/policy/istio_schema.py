"""The Istio documents as types: one class per message, one attribute per field of the reference.

A field that is here but not supported is refused by name in `istio_checks`; one that is not here is reported as
`unknown-field`. Enumerations stay text where an unknown value has a complaint of its own.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from mesh_iptables.policy.durations import Duration

Port = Annotated[int, Meta(ge=1, le=65535)]
Count = Annotated[int, Meta(ge=0, le=4294967295)]
Text = Annotated[str, Meta(max_length=65536)]
Labels = dict[str, str]


class Message(Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of all messages: attributes are `snake_case` here and `camelCase` in documents."""


# --- mesh settings -----------------------------------------------------------------------------------------


class EgressProxy(Message, frozen=True):
    host: str
    subset: str = ""
    port: PortSelector | None = None


class MeshOutboundTrafficPolicy(Message, frozen=True):
    mode: str | None = None
    egress_proxy: EgressProxy | None = None


class MeshConfig(Message, frozen=True):
    outbound_traffic_policy: MeshOutboundTrafficPolicy | None = None
    protocol_detection_timeout: Duration = Duration(0)
    connect_timeout: Duration | None = None
    dns_refresh_rate: Duration | None = None
    default_http_retry_policy: HttpRetry | None = None
    proxy_listen_port: Port | None = None
    default_service_export_to: tuple[str, ...] = ()
    default_virtual_service_export_to: tuple[str, ...] = ()
    default_destination_rule_export_to: tuple[str, ...] = ()


class IstioOperator(Message, frozen=True):
    mesh_config: MeshConfig = MeshConfig()


# --- services ----------------------------------------------------------------------------------------------


class WorkloadSelector(Message, frozen=True):
    labels: Labels = {}


class ServicePort(Message, frozen=True):
    number: Port
    name: str = ""
    protocol: str = ""
    target_port: Port | None = None


class ServiceEndpoint(Message, frozen=True):
    address: str
    ports: dict[str, Port] = {}
    labels: Labels = {}
    weight: Count = 0
    locality: str = ""
    network: str = ""
    service_account: str = ""


class ServiceEntry(Message, frozen=True):
    hosts: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    location: str = "MESH_EXTERNAL"
    resolution: str = "NONE"
    endpoints: tuple[ServiceEndpoint, ...] = ()
    workload_selector: WorkloadSelector | None = None
    export_to: tuple[str, ...] = ()
    config_scope: str | None = None
    subject_alt_names: tuple[str, ...] = ()


class WorkloadEntry(Message, frozen=True):
    address: str = ""
    ports: dict[str, Port] = {}
    labels: Labels = {}
    weight: Count = 0
    locality: str = ""
    network: str = ""
    service_account: str = ""


# --- routing -----------------------------------------------------------------------------------------------


class PortSelector(Message, frozen=True):
    number: Port


class Destination(Message, frozen=True):
    host: str
    subset: str = ""
    port: PortSelector | None = None


class StringMatch(Message, frozen=True):
    exact: str | None = None
    prefix: str | None = None
    regex: Text | None = None


class HeaderOperations(Message, frozen=True):
    set: dict[str, str] = {}
    add: dict[str, str] = {}
    remove: tuple[str, ...] = ()


class Headers(Message, frozen=True):
    request: HeaderOperations = HeaderOperations()
    response: HeaderOperations = HeaderOperations()


class HttpDestination(Message, frozen=True):
    destination: Destination
    weight: Count | None = None
    headers: Headers = Headers()


class TcpDestination(Message, frozen=True):
    destination: Destination
    weight: Count | None = None


class HttpMatch(Message, frozen=True):
    name: str = ""
    uri: StringMatch | None = None
    scheme: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: dict[str, StringMatch] = {}
    without_headers: dict[str, StringMatch] = {}
    query_params: dict[str, StringMatch] = {}
    port: Port | None = None
    source_labels: Labels = {}
    source_namespace: str = ""
    ignore_uri_case: bool = False
    gateways: tuple[str, ...] = ()


class HttpRedirect(Message, frozen=True):
    uri: str = ""
    authority: str = ""
    scheme: str = ""
    redirect_code: int = 301


class Body(Message, frozen=True):
    text: Text = field(default="", name="string")


class DirectResponse(Message, frozen=True):
    status: int
    body: Body = Body()


class UriRegexRewrite(Message, frozen=True):
    match: Text = ""
    rewrite: str = ""


class HttpRewrite(Message, frozen=True):
    uri: str = ""
    uri_regex_rewrite: UriRegexRewrite | None = None
    authority: str = ""


class HttpRetry(Message, frozen=True):
    attempts: int = 0
    per_try_timeout: Duration = Duration(0)
    retry_on: str = ""
    backoff: Duration | None = None


class Percent(Message, frozen=True):
    value: float = 0.0


class FaultDelay(Message, frozen=True):
    fixed_delay: Duration | None = None
    percentage: Percent | None = None


class FaultAbort(Message, frozen=True):
    http_status: int | None = None
    percentage: Percent | None = None


class HttpFault(Message, frozen=True):
    delay: FaultDelay | None = None
    abort: FaultAbort | None = None


class HttpMirror(Message, frozen=True):
    destination: Destination
    percentage: Percent | None = None


class HttpRoute(Message, frozen=True):
    name: str = ""
    match: tuple[HttpMatch, ...] = ()
    route: tuple[HttpDestination, ...] = ()
    redirect: HttpRedirect | None = None
    direct_response: DirectResponse | None = None
    timeout: Duration = Duration(0)
    retries: HttpRetry | None = None
    fault: HttpFault | None = None
    rewrite: HttpRewrite | None = None
    headers: Headers = Headers()
    mirror: Destination | None = None
    mirrors: tuple[HttpMirror, ...] = ()
    mirror_percentage: Percent | None = None


class TlsMatch(Message, frozen=True):
    sni_hosts: tuple[str, ...] = ()
    port: Port | None = None
    destination_subnets: tuple[str, ...] = ()
    source_labels: Labels = {}
    source_namespace: str = ""
    gateways: tuple[str, ...] = ()


class TlsRoute(Message, frozen=True):
    match: tuple[TlsMatch, ...] = ()
    route: tuple[TcpDestination, ...] = ()


class TcpMatch(Message, frozen=True):
    port: Port | None = None
    destination_subnets: tuple[str, ...] = ()
    source_labels: Labels = {}
    source_namespace: str = ""
    gateways: tuple[str, ...] = ()


class TcpRoute(Message, frozen=True):
    match: tuple[TcpMatch, ...] = ()
    route: tuple[TcpDestination, ...] = ()


class VirtualService(Message, frozen=True):
    hosts: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    http: tuple[HttpRoute, ...] = ()
    tls: tuple[TlsRoute, ...] = ()
    tcp: tuple[TcpRoute, ...] = ()
    export_to: tuple[str, ...] = ()
    config_scope: str | None = None


# --- traffic policy ----------------------------------------------------------------------------------------


class ClientTls(Message, frozen=True):
    mode: str = "DISABLE"
    client_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    credential_name: str = ""
    sni: str = ""
    subject_alt_names: tuple[str, ...] = ()
    insecure_skip_verify: bool = False


class TcpPool(Message, frozen=True):
    max_connections: Count = 0
    connect_timeout: Duration | None = None
    idle_timeout: Duration | None = None


class HttpPool(Message, frozen=True):
    http1_max_pending_requests: Count = 0
    http2_max_requests: Count = 0
    max_requests_per_connection: Count = 0
    max_retries: Count = 0
    idle_timeout: Duration | None = None
    h2_upgrade_policy: str = "DEFAULT"


class ConnectionPool(Message, frozen=True):
    tcp: TcpPool | None = None
    http: HttpPool | None = None


class OutlierDetection(Message, frozen=True):
    consecutive_5xx_errors: Count | None = field(default=None, name="consecutive5xxErrors")
    consecutive_gateway_errors: Count | None = None
    interval: Duration | None = None
    base_ejection_time: Duration | None = None
    max_ejection_percent: Annotated[int, Meta(ge=0, le=100)] | None = None
    min_health_percent: Annotated[int, Meta(ge=0, le=100)] | None = None


class HttpCookie(Message, frozen=True):
    name: str
    path: str = ""
    ttl: Duration | None = None


class ConsistentHash(Message, frozen=True):
    http_header_name: str = ""
    http_query_parameter_name: str = ""
    use_source_ip: bool = False
    http_cookie: HttpCookie | None = None
    minimum_ring_size: Count = 0


class LoadBalancer(Message, frozen=True):
    simple: str | None = None
    consistent_hash: ConsistentHash | None = None


class PortTrafficPolicy(Message, frozen=True):
    port: PortSelector
    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTls | None = None


class TrafficPolicy(Message, frozen=True):
    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTls | None = None
    port_level_settings: tuple[PortTrafficPolicy, ...] = ()


class Subset(Message, frozen=True):
    name: str
    labels: Labels = {}
    traffic_policy: TrafficPolicy | None = None


class DestinationRule(Message, frozen=True):
    host: str = ""
    traffic_policy: TrafficPolicy | None = None
    subsets: tuple[Subset, ...] = ()
    export_to: tuple[str, ...] = ()
    config_scope: str | None = None
    workload_selector: WorkloadSelector | None = None


# --- visibility --------------------------------------------------------------------------------------------


class SidecarEgress(Message, frozen=True):
    hosts: tuple[str, ...] = ()
    port: ServicePort | None = None
    bind: str | None = None
    capture_mode: str | None = None


class Sidecar(Message, frozen=True):
    workload_selector: WorkloadSelector | None = None
    egress: tuple[SidecarEgress, ...] = ()
    outbound_traffic_policy: MeshOutboundTrafficPolicy | None = None
