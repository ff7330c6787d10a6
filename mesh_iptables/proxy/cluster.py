"""A cluster at work: its hosts, who of them gets the next request, how many may be under way, who is ejected.

Names are resolved elsewhere (`Names`); a cluster is told the outcome. HTTP connections wait in a `Pool` for their
next request, one pool per host (and server name, where TLS takes it from the request), whatever client
connection the request comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from mesh_iptables.policy.model import Cluster, ClusterKind, Endpoint, TlsOrigination, UpstreamProtocol
from mesh_iptables.proxy.balance import Strategy, strategy_for
from mesh_iptables.proxy.wire import Address, Failure, Handler, Outside, TlsClient, Wire

_HTTP2_POOL = " by HTTP/2"  # no host name has a blank
_FIRST_LOOK_UP = 1.0  # seconds that requests wait for it
_SWEEP = 30.0  # seconds between looks at idle connections
_STARTED_AT_ONCE = 64  # clusters


@dataclass(frozen=True, slots=True)
class Resolution:
    """The outcome of a look-up. `failed`: no answer could be had, which says nothing about the name.

    `special` are those of the addresses that a guarded cluster must not connect to, each with what it is.
    """

    addresses: tuple[str, ...] = ()
    failed: bool = False
    special: tuple[tuple[str, str], ...] = ()


class Names(Protocol):
    """Resolves host names and keeps them fresh."""

    def watch(self, name: str, told: Callable[[Resolution], None]) -> Callable[[], None]:
        """Tell now and whenever it changes what `name` resolves to; the result ends that."""

    def resolve(self, name: str, told: Callable[[Resolution], None]) -> None:
        """Tell once, perhaps within this call."""


class Wanted(Protocol):
    """What a request or connection brings along that matters for choosing a host."""

    @property
    def original(self) -> Address:
        """Where the client connected to."""

    @property
    def name(self) -> str:
        """The host of the request, or the SNI; without a port."""

    @property
    def digest(self) -> int | None:
        """Its hash, if a policy gives it one."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A `Wanted` of its own."""

    original: Address
    name: str = ""
    digest: int | None = None


class Host:
    """One address of a cluster."""

    __slots__ = (
        "active",
        "address",
        "connections",
        "ejected_until",
        "ejections",
        "key",
        "pools",
        "row_5xx",
        "row_gateway",
        "weight",
    )

    def __init__(self, address: Address, weight: int = 1) -> None:
        self.address = address
        self.weight = weight
        self.key = f"{address[0]}:{address[1]}"
        self.active = 0  # requests, or connections of TCP chains
        self.connections = 0
        self.row_5xx = 0
        self.row_gateway = 0
        self.ejections = 0
        self.ejected_until = 0.0
        self.pools: dict[str, Queue] = {}


class Pooled(Protocol):
    """An upstream connection that can carry requests."""

    idle_since: float

    def close(self) -> None:
        """End it; nobody uses it."""


class Waiter(Protocol):
    """Wants a connection for one request. Exactly one of the two is called, once."""

    def ready(self, connection: Pooled, host: Host) -> None:
        """Here it is; hand it back with `Pool.release`, or `Pool.gone` when it ended."""

    def refused(self, host: Host | None, failure: Failure | None, detail: str) -> None:
        """There is none. Without a host nobody was there to ask (`no healthy upstream`)."""


class Queue(Protocol):
    """A pool, of whatever protocol."""

    open: int  # connections
    idle: list[Pooled]

    @property
    def waiting(self) -> Sized:
        """Requests without a connection yet."""

    def request(self, waiter: Waiter) -> None:
        """A connection at once, or a place in the queue."""

    def forget(self, waiter: Waiter) -> None:
        """It gave up."""

    def drop_idle(self, before: float) -> None:
        """Close connections that wait since before `before`."""


class PoolMaker(Protocol):
    """Makes the pool of a host; `name` is that of the TLS server, where it comes from the request."""

    def __call__(self, cluster: ClusterState, host: Host, name: str, *, http2: bool) -> Queue: ...


class ClusterState:
    """One cluster of the policy in force."""

    def __init__(self, config: Cluster, outside: Outside, names: Names, make_pool: PoolMaker) -> None:
        self.config = config
        self.outside = outside
        self._make_pool = make_pool
        self.connections = 0
        self.pending = 0
        self.requests = 0
        self.retries = 0
        self.retired = False
        self.refusal = ""  # why the last choice was nobody, if the name leads to special addresses alone
        self._names = names
        self._unwatch: list[Callable[[], None]] = []
        self._strategy: Strategy[Host] = strategy_for(config.lb, outside.chance)
        self._by_address: dict[Address, Host] = {}
        self._hosts: list[Host] = []
        self._resolved: dict[Endpoint, tuple[str, ...]] = {}
        self._heard: set[Endpoint] = set()
        self.ejected = 0
        # Whether `pick` can say at once which host it is (None: there is none). FORWARD must look a name up, and who
        # comes before the first look-up of a cluster has ended waits for it, though not for long.
        waits = config.kind in (ClusterKind.STRICT_DNS, ClusterKind.LOGICAL_DNS) and bool(config.endpoints)
        self.immediate = config.kind is not ClusterKind.FORWARD and not waits
        self._first: list[tuple[Wanted, Callable[[Host | None], None]]] = []
        self.speaks_http1 = config.protocol is not UpstreamProtocol.HTTP2  # to clients that do
        self.named_pools = config.tls is not None and config.tls.sni_from_host
        self.sweeping = False
        self._start()

    def _start(self) -> None:
        match self.config.kind:
            case ClusterKind.STATIC:
                self._set_hosts([((item.address, item.port), item.weight) for item in self.config.endpoints])
            case ClusterKind.STRICT_DNS | ClusterKind.LOGICAL_DNS:
                for endpoint in self.config.endpoints:
                    self._watch(endpoint)
                if not self.immediate:
                    self.outside.call_later(_FIRST_LOOK_UP, self._begin)
            case ClusterKind.ORIGINAL_DST | ClusterKind.FORWARD:
                pass  # hosts come with the requests

    def _watch(self, endpoint: Endpoint) -> None:
        def told(resolution: Resolution) -> None:
            self._told(endpoint, resolution)

        self._unwatch.append(self._names.watch(endpoint.address, told))

    def _begin(self) -> None:
        """The first look-ups have ended, or take too long."""
        self.immediate = True
        waiting, self._first = self._first, []
        for wanted, chosen in waiting:
            chosen(self.pick(wanted))

    def _told(self, endpoint: Endpoint, resolution: Resolution) -> None:
        self._take(endpoint, resolution)
        self._heard.add(endpoint)
        if not self.immediate and len(self._heard) == len(set(self.config.endpoints)):
            self._begin()

    def _take(self, endpoint: Endpoint, resolution: Resolution) -> None:
        logical = self.config.kind is ClusterKind.LOGICAL_DNS
        addresses = resolution.addresses
        if resolution.failed or (logical and not addresses):
            return  # the last good answer stays
        addresses = self._usable(resolution)
        self._resolved[endpoint] = addresses[:1] if logical else addresses
        self._set_hosts(
            [((address, item.port), item.weight) for item, found in self._resolved.items() for address in found]
        )

    def _set_hosts(self, wanted: list[tuple[Address, int]]) -> None:
        known = self._by_address
        self._by_address = {address: known.get(address) or Host(address, weight) for address, weight in wanted}
        self._hosts = list(self._by_address.values())
        for address, host in known.items():
            if address not in self._by_address:
                self._drop(host)

    def _drop(self, host: Host) -> None:
        for pool in list(host.pools.values()):
            pool.drop_idle(float("inf"))

    # --- choosing -----------------------------------------------------------------------------------------

    def choose(self, wanted: Wanted, chosen: Callable[[Host | None], None]) -> None:
        """Give the host for a request or connection, None when there is none; perhaps not before this returns."""
        if self.config.kind is ClusterKind.FORWARD:
            self._forward(wanted, chosen)
        elif self.immediate:
            chosen(self.pick(wanted))
        else:
            self._first.append((wanted, chosen))

    def _forward(self, wanted: Wanted, chosen: Callable[[Host | None], None]) -> None:
        def told(resolution: Resolution) -> None:
            addresses = self._usable(resolution)
            if addresses:
                host = self._host_at((addresses[0], self.config.port_override or wanted.original[1]))
                chosen(host)
                if not (host.connections or host.pools):  # nobody wants it any more
                    self.tidy_host(host)
            else:
                chosen(None)

        self.refusal = ""
        if wanted.name:
            self._names.resolve(wanted.name, told)
        else:
            chosen(None)

    def _usable(self, resolution: Resolution) -> tuple[str, ...]:
        """The addresses that this cluster may connect to."""
        special = resolution.special
        if not (special and self.config.guarded):
            self.refusal = ""
            return resolution.addresses
        refused = {address: what for address, what in special if address not in self.config.permitted}
        usable = tuple(address for address in resolution.addresses if address not in refused)
        self.refusal = "" if usable else ", ".join(f"{address} is {what}" for address, what in refused.items())
        return usable

    def _host_at(self, address: Address) -> Host:
        host = self._by_address.get(address)
        if host is None:
            host = self._by_address[address] = Host(address)
        return host

    def pick(self, wanted: Wanted) -> Host | None:
        """The host for a request or connection, if that can be said at once; see `immediate`."""
        hosts = self._hosts
        if self.ejected:
            hosts = self._healthy()
        if len(hosts) == 1:
            return hosts[0]
        return self._strategy.pick(hosts, wanted.digest) if hosts else None

    def refuses(self) -> bool:
        """Whether a request that comes now is refused at once, for want of a host or by a limit."""
        limits = self.config.limits
        if self.requests >= limits.max_requests or self.pending >= limits.max_pending_requests:
            return True
        named = self.config.kind not in (ClusterKind.ORIGINAL_DST, ClusterKind.FORWARD)
        return named and self.immediate and not (self._healthy() if self.ejected else self._hosts)

    def speaks_http2(self, *, to_http2_client: bool) -> bool:
        """Whether a request goes on by HTTP/2."""
        protocol = self.config.protocol
        if protocol is UpstreamProtocol.HTTP1:
            return False
        return protocol is UpstreamProtocol.HTTP2 or to_http2_client

    def pool_for(self, host: Host, name: str, *, http2: bool = False) -> Queue:
        """The pool of a host; `name` counts only where TLS takes its server name from the request."""
        key = name.lower() if self.named_pools else ""
        if http2:
            key += _HTTP2_POOL
        pool = host.pools.get(key)
        if pool is None:
            pool = host.pools[key] = self._make_pool(self, host, name if self.named_pools else "", http2=http2)
        return pool

    def tidy_host(self, host: Host) -> None:
        """Hosts that came with a request go with their last connection, pools without one go too."""
        for key in [key for key, pool in host.pools.items() if not (pool.open or pool.waiting)]:
            del host.pools[key]
        unused = not (host.connections or host.active or host.pools)
        if unused and host not in self._hosts and self._by_address.get(host.address) is host:
            del self._by_address[host.address]

    # --- outlier detection --------------------------------------------------------------------------------

    def report(self, host: Host, status: int) -> None:
        """The outcome of a request; a failed connection counts as 503."""
        outlier = self.config.outlier
        if outlier is None:
            return
        host.row_5xx = host.row_5xx + 1 if status >= 500 else 0
        host.row_gateway = host.row_gateway + 1 if status in (502, 503, 504) else 0
        if (outlier.consecutive_5xx and host.row_5xx >= outlier.consecutive_5xx) or (
            outlier.consecutive_gateway_errors and host.row_gateway >= outlier.consecutive_gateway_errors
        ):
            self._eject(host)

    def _eject(self, host: Host) -> None:
        outlier = self.config.outlier
        assert outlier is not None
        host.row_5xx = host.row_gateway = 0
        if host.ejected_until or 100 * (self.ejected + 1) > outlier.max_ejection_percent * len(self._hosts):
            return
        self.ejected += 1
        host.ejections += 1
        host.ejected_until = self.outside.now + outlier.base_ejection_time * host.ejections
        if self.ejected == 1:
            self.outside.call_later(outlier.interval, self._review)

    def _review(self) -> None:
        """Let those back in whose time is over; they are looked at once per interval."""
        outlier = self.config.outlier
        assert outlier is not None
        now = self.outside.now
        for host in self._hosts:
            if host.ejected_until and host.ejected_until <= now:
                host.ejected_until = 0.0
        self.ejected = sum(1 for host in self._hosts if host.ejected_until)
        if self.ejected and not self.retired:
            self.outside.call_later(outlier.interval, self._review)

    def _healthy(self) -> list[Host]:
        healthy = [host for host in self._hosts if not host.ejected_until]
        minimum = self.config.outlier.min_health_percent if self.config.outlier else 0
        # with too few left, all are used: better a bad host than the load of all on the rest
        return self._hosts if 100 * len(healthy) < minimum * len(self._hosts) else healthy

    # --- upkeep -------------------------------------------------------------------------------------------

    def keep_tidy(self) -> None:
        """See to it that idle connections are closed in time."""
        self.sweeping = True
        self.outside.call_later(min(_SWEEP, max(1.0, self.config.http_idle_timeout / 2)), self._sweep)

    def _sweep(self) -> None:
        self.sweeping = False
        before = self.outside.now - self.config.http_idle_timeout
        for pool in self._pools():
            pool.drop_idle(before)
        if self.connections and not self.retired:
            self.keep_tidy()

    def retire(self) -> None:
        """Another policy is in force: requests under way may finish, idle connections end now."""
        self.retired = True
        for stop in self._unwatch:
            stop()
        self._unwatch.clear()  # they lead back to here, and thousands of circles take long to collect
        for pool in self._pools():
            pool.drop_idle(float("inf"))

    def _pools(self) -> list[Queue]:
        return [pool for host in list(self._by_address.values()) for pool in list(host.pools.values())]

    @property
    def hosts(self) -> list[Host]:
        """For dumps."""
        return list(self._by_address.values())


class _OriginalDst(ClusterState):
    """A cluster whose host is where the client connected."""

    def pick(self, wanted: Wanted) -> Host | None:
        address = wanted.original
        if self.config.port_override:
            address = address[0], self.config.port_override
        return self._by_address.get(address) or self._host_at(address)


def tls_client(tls: TlsOrigination, name: str, alpn: tuple[str, ...] = ()) -> TlsClient:
    """What to ask of TLS for a request to host `name` (empty on TCP chains)."""
    sni = name if tls.sni_from_host and name else tls.sni
    names = tls.sans or ((name,) if tls.verify_host and name else ())
    return TlsClient(tls.certificate, tls.private_key, tls.ca_file, sni or None, names, tls.verify, alpn)


class Clusters:
    """All clusters of one policy, made when first used, except those whose names must be resolved beforehand."""

    def __init__(self, configs: Mapping[str, Cluster], outside: Outside, names: Names, make_pool: PoolMaker) -> None:
        self._configs = configs
        self._outside = outside
        self._names = names
        self._make_pool = make_pool
        self._states: dict[str, ClusterState] = {}
        self._retired = False

    def start(self) -> None:
        """Begin to resolve names, a few at a time: what passes must not wait for thousands."""
        resolved = (ClusterKind.STRICT_DNS, ClusterKind.LOGICAL_DNS)
        self._start_some(iter([name for name, config in self._configs.items() if config.kind in resolved]))

    def _start_some(self, names: Iterator[str]) -> None:
        some = [] if self._retired else list(islice(names, _STARTED_AT_ONCE))
        for name in some:
            self.get(name)
        if some:
            self._outside.call_later(0.0, lambda: self._start_some(names))

    def get(self, name: str) -> ClusterState | None:
        """None when the policy has no such cluster."""
        state = self._states.get(name)
        if state is None and name in self._configs:
            config = self._configs[name]
            kind = _OriginalDst if config.kind is ClusterKind.ORIGINAL_DST else ClusterState
            state = self._states[name] = kind(config, self._outside, self._names, self._make_pool)
        return state

    def retire(self) -> None:
        """See `ClusterState.retire`."""
        self._retired = True
        for state in self._states.values():
            state.retire()

    def __iter__(self) -> Iterator[ClusterState]:
        return iter(list(self._states.values()))


def open_tcp(cluster: ClusterState, host: Host, handler: Handler, source: str | None = None) -> Wire:
    """Begin to connect for a TCP chain."""
    tls = cluster.config.tls
    client = tls_client(tls, "") if tls is not None else None
    return cluster.outside.connect(host.address, handler, cluster.config.connect_timeout, client, source)
