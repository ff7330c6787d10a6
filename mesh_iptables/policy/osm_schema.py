"""The Open Service Mesh and SMI documents as types: one class per message, one attribute per reference field."""

from __future__ import annotations

from msgspec import field

from mesh_iptables.policy.durations import Duration
from mesh_iptables.policy.istio_schema import Count, Message, Port, Text


class EgressSource(Message, frozen=True):
    kind: str
    name: str
    namespace: str = ""


class EgressPort(Message, frozen=True):
    number: Port
    protocol: str


class EgressMatch(Message, frozen=True):
    kind: str
    name: str
    api_group: str = ""


class Egress(Message, frozen=True):
    sources: tuple[EgressSource, ...] = ()
    hosts: tuple[str, ...] = ()
    ip_addresses: tuple[str, ...] = field(default=(), name="ipAddresses")
    ports: tuple[EgressPort, ...] = ()
    matches: tuple[EgressMatch, ...] = ()


class RouteMatch(Message, frozen=True):
    name: str = ""
    path_regex: Text = ".*"
    methods: tuple[str, ...] = ()
    headers: dict[str, Text] = field(default_factory=dict)


class HttpRouteGroup(Message, frozen=True):
    matches: tuple[RouteMatch, ...] = ()


class TcpConnectionSettings(Message, frozen=True):
    max_connections: Count | None = None
    connect_timeout: Duration | None = None


class HttpConnectionSettings(Message, frozen=True):
    max_requests: Count | None = None
    max_pending_requests: Count | None = None
    max_retries: Count | None = None
    max_requests_per_connection: Count | None = None


class ConnectionSettings(Message, frozen=True):
    tcp: TcpConnectionSettings | None = None
    http: HttpConnectionSettings | None = None


class UpstreamTrafficSetting(Message, frozen=True):
    """`rateLimit` and `httpRoutes` are taken only to say that they do not apply to egress."""

    host: str = ""
    connection_settings: ConnectionSettings = ConnectionSettings()
    rate_limit: dict[str, object] | None = None
    http_routes: tuple[dict[str, object], ...] = ()


class TrafficSpec(Message, frozen=True):
    enable_egress: bool = False


class FeatureFlags(Message, frozen=True):
    enable_egress_policy: bool = True


class OsmMeshConfig(Message, frozen=True):
    traffic: TrafficSpec = TrafficSpec()
    feature_flags: FeatureFlags = FeatureFlags()
