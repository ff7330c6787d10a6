"""The compiled egress policy: all that an engine may know, as frozen values. No documents, no I/O.

How the pieces hang together, from the outside in:

    EgressPolicy ── listeners by (address, port) ── Listener ── Chain ── HttpAction(RouteTable ─ VirtualHost ─ Rule)
                 │                                                   └── TcpAction(weighted cluster names)
                 ├─ clusters by name ── Cluster ── Endpoint, Limits, Outlier, TlsOrigination
                 └─ default: DefaultAction, for what no listener takes

Conventions: durations are seconds as float; 0.0 means "none, for ever" unless a field says otherwise. Host
names and header names are lower case. Addresses are text as `ipaddress` prints them. Ports are 1-65535, with 0
for "any" where a field says so. A cluster is always named, never embedded: a rule may name one that does not
exist, which is answered 503 (flag NC). Names of things are Envoy's and Istio's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

ANY_ADDRESS = "0.0.0.0"
"""Listener address that takes every destination, IPv6 ones too."""

ANY_PORT = 0
"""Listener port that takes every destination port (profile osm has one such listener)."""

UNLIMITED = 4294967295
"""What a limit that nobody set is."""

PASSTHROUGH_CLUSTER = "PassthroughCluster"
BLACKHOLE_CLUSTER = "BlackHoleCluster"


# --- where something came from -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Origin:
    """The document behind a part of the policy; `field` is a path such as `spec.http[0]`, or empty."""

    file: str
    line: int
    resource: str  # Kind/namespace/name
    field: str = ""

    def __str__(self) -> str:
        if not self.line:  # not from a file
            return f"{self.file} {self.resource}".strip()
        place = f"{self.file}:{self.line}: {self.resource}"
        return f"{place}: {self.field}" if self.field else place


BUILT_IN = Origin("", 0, "built-in")


# --- what the client is, and how the profile behaves -------------------------------------------------------


class Profile(Enum):
    """The dialect the policy was compiled in; engines follow `Behaviour`, this is for people and dumps."""

    ISTIO = "istio"
    ISTIO_1_0 = "istio-1.0"
    OSM = "osm"
    FENCE = "fence"  # --allow


@dataclass(frozen=True, slots=True)
class Identity:
    """The workload whose connections are decided."""

    namespace: str = "default"
    service_account: str = "default"
    labels: tuple[tuple[str, str], ...] = ()


class HeaderStyle(Enum):
    """What proxied and proxy-made answers carry: Envoy's own headers, or only the site's."""

    ENVOY = "envoy"
    TRANSPARENT = "transparent"


class ExpectContinue(Enum):
    """`Expect: 100-continue` goes to the upstream, or the proxy answers it and removes the header."""

    FORWARD = "forward"
    ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Flags of a profile (and of `--option`) that hold for every connection."""

    header_style: HeaderStyle = HeaderStyle.ENVOY
    accept_http_10: bool = False  # otherwise HTTP/1.0 on an HTTP chain is answered 426
    normalise_path: bool = True  # before matching, and so forwarded
    attempt_count_header: bool = True  # x-envoy-attempt-count to the upstream
    expect_continue: ExpectContinue = ExpectContinue.FORWARD
    header_timeout: float = 60.0  # to complete a request head, then 408; engine python only
    dns_refresh: float = 60.0  # after a failed look-up; successes follow their TTL
    max_header_bytes: int = 60 * 1024
    max_headers: int = 100
    max_inspected_bytes: int = 64 * 1024
    absolute_names: bool = False  # names are looked up as they are, not completed by the search list
    ipv6: bool = False  # look up AAAA instead of A: only in a pod that has no IPv4


# --- matching ----------------------------------------------------------------------------------------------


class MatchKind(Enum):
    EXACT = "exact"
    PREFIX = "prefix"
    REGEX = "regex"  # RE2, the whole value
    PRESENT = "present"  # any value


@dataclass(frozen=True, slots=True)
class StringMatch:
    kind: MatchKind
    value: str = ""
    ignore_case: bool = False  # exact, prefix and regex alike


@dataclass(frozen=True, slots=True)
class NamedMatch:
    """A header or query parameter by name. Several values of one header are joined with a comma first."""

    name: str  # header names in lower case, query parameters as written
    match: StringMatch
    inverted: bool = False  # withoutHeaders: the value (of an absent header: empty) does not match


@dataclass(frozen=True, slots=True)
class RequestMatch:
    """All given parts must hold; without any it matches every request.

    `path` looks at the path without query and fragment. `methods` are alternatives (none: any method).
    `authority` is Host as the client sent it, port included.
    """

    path: StringMatch | None = None
    scheme: StringMatch | None = None
    methods: tuple[StringMatch, ...] = ()
    authority: StringMatch | None = None
    headers: tuple[NamedMatch, ...] = ()
    query: tuple[NamedMatch, ...] = ()


# --- what happens to a request -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HeaderOperations:
    """In this order: remove, then set (replace), then add. `host` is never among them (see `Rewrite`)."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


NO_HEADER_OPERATIONS = HeaderOperations()


@dataclass(frozen=True, slots=True)
class WeightedCluster:
    """A destination; a weight is relative to the sum of its siblings and never 0."""

    cluster: str
    weight: int = 1
    request_headers: HeaderOperations = NO_HEADER_OPERATIONS
    response_headers: HeaderOperations = NO_HEADER_OPERATIONS
    authority: str | None = None  # replaces Host for this destination


@dataclass(frozen=True, slots=True)
class RouteTo:
    """Forward the request to one of the clusters, drawn by weight for each request."""

    targets: tuple[WeightedCluster, ...]


@dataclass(frozen=True, slots=True)
class Redirect:
    """Answer with a `location` of scheme, authority and path; what is None is taken from the request.

    A `path` without a query of its own keeps the query of the request.
    """

    status: int = 301
    scheme: str | None = None
    authority: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class DirectResponse:
    status: int
    body: str = ""


RouteAction = RouteTo | Redirect | DirectResponse


@dataclass(frozen=True, slots=True)
class RegexRewrite:
    """RE2 substitution over the path without its query; `\\1` in `substitution` are groups."""

    pattern: str
    substitution: str


@dataclass(frozen=True, slots=True)
class Rewrite:
    """`path` replaces what the rule matched: the prefix of a prefix match, else the whole path (query kept).

    A rule without a path match counts as the prefix `/`. Of `path` and `regex` at most one is set.
    """

    path: str | None = None
    regex: RegexRewrite | None = None
    authority: str | None = None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`attempts` tries after the first one. `on` are Envoy's `retry-on` tokens (RETRY_TOKENS)."""

    attempts: int
    on: tuple[str, ...]
    statuses: tuple[int, ...] = ()  # used with the token retriable-status-codes
    per_try_timeout: float = 0.0
    backoff_base: float = 0.025
    backoff_max: float = 0.25


RETRY_TOKENS = frozenset(
    {
        "5xx",
        "gateway-error",
        "reset",
        "reset-before-request",
        "connect-failure",
        "envoy-ratelimited",
        "retriable-4xx",
        "refused-stream",
        "retriable-status-codes",
        "retriable-headers",
        "http3-post-connect-failure",
        "cancelled",
        "deadline-exceeded",
        "internal",
        "resource-exhausted",
        "unavailable",
    }
)


@dataclass(frozen=True, slots=True)
class FaultDelay:
    seconds: float
    percent: float  # 0-100


@dataclass(frozen=True, slots=True)
class FaultAbort:
    status: int
    percent: float  # 0-100


@dataclass(frozen=True, slots=True)
class Fault:
    """Drawn for each request: first the delay (outside the request timeout), then the abort (never retried)."""

    delay: FaultDelay | None = None
    abort: FaultAbort | None = None


@dataclass(frozen=True, slots=True)
class Mirror:
    """Copies of `percent` of the requests; their Host gets `-shadow`, their answers are dropped."""

    cluster: str
    percent: float = 100.0


class HashSource(Enum):
    HEADER = "header"
    COOKIE = "cookie"
    SOURCE_IP = "source_ip"
    QUERY = "query"


@dataclass(frozen=True, slots=True)
class HashPolicy:
    """What a ring-hash cluster hashes. A cookie that is absent and has a `ttl` is made by the proxy."""

    source: HashSource
    name: str = ""
    path: str = ""
    ttl: float | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One route: the first rule of a virtual host whose `match` holds decides."""

    name: str
    match: RequestMatch
    action: RouteAction
    timeout: float = 0.0  # from the end of the request to the end of the answer, over all tries
    retry: RetryPolicy | None = None
    fault: Fault | None = None
    rewrite: Rewrite | None = None
    request_headers: HeaderOperations = NO_HEADER_OPERATIONS
    response_headers: HeaderOperations = NO_HEADER_OPERATIONS
    mirrors: tuple[Mirror, ...] = ()
    hash_policies: tuple[HashPolicy, ...] = ()
    origin: Origin = field(default=BUILT_IN, compare=False)


@dataclass(frozen=True, slots=True)
class VirtualHost:
    """`domains`: exact names, `*.suffix`, or `*`; with a port (`name:80`) where ports are compared."""

    name: str
    domains: tuple[str, ...]
    rules: tuple[Rule, ...]
    origin: Origin = field(default=BUILT_IN, compare=False)


@dataclass(frozen=True, slots=True)
class RouteTable:
    """Virtual hosts of one port. No domain is in two of them.

    `fallback` takes hosts that no virtual host names (its only domain is `*`); without it they get 404 (NR).
    """

    name: str
    vhosts: tuple[VirtualHost, ...]
    ignore_port: bool  # strip the port of Host before comparing
    fallback: VirtualHost | None = None


# --- listeners and chains ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HttpAction:
    routes: RouteTable


@dataclass(frozen=True, slots=True)
class TcpAction:
    """Copy bytes to one of the clusters, drawn by weight for each connection."""

    targets: tuple[WeightedCluster, ...]


ChainAction = HttpAction | TcpAction

TLS = "tls"
RAW = "raw_buffer"


@dataclass(frozen=True, slots=True)
class ChainMatch:
    """Criteria in the order they are applied (and never revisited); an empty one matches all.

    `protocols` are `http/1.0`, `http/1.1`, `h2c` as HTTP inspection found, or the ALPN of a ClientHello.
    """

    dst_port: int = ANY_PORT
    dst_cidrs: tuple[str, ...] = ()
    sni: tuple[str, ...] = ()  # exact or `*.suffix`
    transport: str = ""  # TLS, RAW or empty
    protocols: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chain:
    name: str
    match: ChainMatch
    action: ChainAction
    origin: Origin = field(default=BUILT_IN, compare=False)


@dataclass(frozen=True, slots=True)
class Listener:
    """Chains for one original destination, or for all (`ANY_ADDRESS`, `ANY_PORT`).

    Without inspection the engine must not wait for client bytes. `inspect_timeout` 0.0 waits for ever; when it
    runs out the connection goes on with nothing detected. `opaque_ports` are never inspected. No chain and no
    `default_chain`: close.
    """

    name: str
    address: str
    port: int
    chains: tuple[Chain, ...]
    default_chain: Chain | None = None
    inspect_tls: bool = False
    inspect_http: bool = False
    inspect_timeout: float = 0.0
    opaque_ports: frozenset[int] = frozenset()


class DefaultAction(Enum):
    """For connections that no listener takes.

    PASSTHROUGH: to the chain `default_chain` of the policy. BLACKHOLE: accept, then close without a byte.
    REFUSE: the redirect port is not opened at all (then there are no listeners either).
    """

    PASSTHROUGH = "passthrough"
    BLACKHOLE = "blackhole"
    REFUSE = "refuse"


# --- clusters ----------------------------------------------------------------------------------------------


class ClusterKind(Enum):
    """How a cluster finds its endpoints.

    ORIGINAL_DST: where the client connected, with `port_override` if set. STATIC: the endpoints, addresses only.
    STRICT_DNS: every address of every endpoint name; a failed look-up removes them. LOGICAL_DNS: the first
    address of the one endpoint name when a connection is opened; a failed look-up keeps the last good one.
    FORWARD: the name the client asked for (Host without port on HTTP chains, SNI on TLS chains), which a rule
    or a chain has already allowed, resolved by the proxy itself; the port is `port_override`.
    """

    ORIGINAL_DST = "original_dst"
    STATIC = "static"
    STRICT_DNS = "strict_dns"
    LOGICAL_DNS = "logical_dns"
    FORWARD = "forward"


class LoadBalancing(Enum):
    LEAST_REQUEST = "LEAST_REQUEST"
    ROUND_ROBIN = "ROUND_ROBIN"
    RANDOM = "RANDOM"
    RING_HASH = "RING_HASH"  # by the hash policies of the rule; without one: random
    CLUSTER_PROVIDED = "CLUSTER_PROVIDED"  # ORIGINAL_DST and FORWARD


class UpstreamProtocol(Enum):
    HTTP1 = "http1"
    HTTP2 = "http2"
    SAME_AS_CLIENT = "same_as_client"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`address` is an IP, or a name in the DNS kinds."""

    address: str
    port: int
    weight: int = 1
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Beyond them a request is answered 503 overflow (UO), a connection is closed. 0 is zero, not "unset"."""

    max_connections: int = UNLIMITED
    max_pending_requests: int = UNLIMITED
    max_requests: int = UNLIMITED  # HTTP/1.1 and HTTP/2 alike
    max_retries: int = UNLIMITED
    max_requests_per_connection: int = 0  # 0: no limit


@dataclass(frozen=True, slots=True)
class Outlier:
    """Ejection of endpoints; a count of 0 switches that kind of detection off."""

    consecutive_5xx: int = 0
    consecutive_gateway_errors: int = 0
    interval: float = 10.0
    base_ejection_time: float = 30.0
    max_ejection_percent: int = 10
    min_health_percent: int = 0


@dataclass(frozen=True, slots=True)
class TlsOrigination:
    """TLS 1.2-1.3 to the upstream.

    `ca_file` None is the system's store, never "do not verify". `sni_from_host`: the SNI is the host of the
    request (port stripped) and, with `verify_host`, the certificate must name it; TCP chains then send no SNI.
    `sans`: the certificate must carry one of them. `verify` False: no check at all (insecureSkipVerify).
    """

    certificate: str | None = None
    private_key: str | None = None
    ca_file: str | None = None
    sni: str | None = None
    sans: tuple[str, ...] = ()
    sni_from_host: bool = False
    verify_host: bool = False
    verify: bool = True


@dataclass(frozen=True, slots=True)
class Cluster:
    """A named upstream. `host`, `port` and `subset` say which service port it is, for people and dumps."""

    name: str
    kind: ClusterKind
    host: str = ""
    port: int = 0
    subset: str = ""
    endpoints: tuple[Endpoint, ...] = ()
    port_override: int = 0  # ORIGINAL_DST: 0 keeps the client's port; FORWARD: always set
    connect_timeout: float = 10.0
    lb: LoadBalancing = LoadBalancing.LEAST_REQUEST
    limits: Limits = Limits()
    outlier: Outlier | None = None
    tls: TlsOrigination | None = None
    guarded: bool = False  # a name must not lead to a special address or one of this machine's own
    permitted: tuple[str, ...] = ()  # addresses that it may lead to all the same
    protocol: UpstreamProtocol = UpstreamProtocol.HTTP1
    tcp_idle_timeout: float = 3600.0
    http_idle_timeout: float = 3600.0  # of pooled connections
    origin: Origin = field(default=BUILT_IN, compare=False)


# --- the whole ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """What one workload may reach, and how.

    `listeners` is looked up as in section "life of a connection": (address, port), then (ANY_ADDRESS, port),
    then (ANY_ADDRESS, ANY_PORT), then `default`. A destination port equal to `redirect_port` is closed first.
    """

    profile: Profile
    identity: Identity
    behaviour: Behaviour
    listeners: Mapping[tuple[str, int], Listener]
    clusters: Mapping[str, Cluster]
    default: DefaultAction
    default_chain: Chain | None = None  # TCP; set exactly with PASSTHROUGH
    redirect_port: int = 15001
    default_origin: Origin = field(default=BUILT_IN, compare=False)
