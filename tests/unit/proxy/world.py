"""A scripted outside for the state machines: wires that remember, a clock and names that do what they are told."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count

from mesh_iptables.policy.engine import PolicyIndex
from mesh_iptables.policy.model import (
    ANY_ADDRESS,
    PASSTHROUGH_CLUSTER,
    Behaviour,
    Chain,
    ChainMatch,
    Cluster,
    ClusterKind,
    DefaultAction,
    EgressPolicy,
    Endpoint,
    HttpAction,
    Identity,
    Listener,
    LoadBalancing,
    Profile,
    RouteTable,
    RouteTo,
    Rule,
    TcpAction,
    VirtualHost,
    WeightedCluster,
)
from mesh_iptables.policy.model import RequestMatch as Any_
from mesh_iptables.proxy.access_log import Record
from mesh_iptables.proxy.cluster import Clusters, Resolution
from mesh_iptables.proxy.connection import Active, Connection
from mesh_iptables.proxy.pools import make_pool
from mesh_iptables.proxy.request_ids import RequestIds
from mesh_iptables.proxy.stats import Stats
from mesh_iptables.proxy.surroundings import Surroundings
from mesh_iptables.proxy.wire import Address, Failure, Handler, TlsClient

SITE = ("192.0.2.10", 80)
PEER = ("10.0.0.2", 40000)


class FakeWire:
    """A `wire.Wire`; `sent` is what arrived at the peer since it was last read with `take`."""

    def __init__(self, handler: Handler, remote: Address, tls: TlsClient | None = None) -> None:
        self.handler = handler
        self.remote = remote
        self.tls = tls
        self.local: Address | None = ("10.0.0.2", 50000)
        self.sent = b""
        self.unsent = 0
        self.paused = self.finished = self.closed = self.aborted = False

    def take(self) -> bytes:
        """What arrived at the peer."""
        sent, self.sent = self.sent, b""
        return sent

    def send(self, data: bytes) -> None:
        assert not self.closed
        assert not self.finished
        self.sent += data

    def finish(self) -> None:
        self.finished = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    # what the peer does
    def connects(self) -> FakeWire:
        self.handler.connected()
        return self

    def says(self, data: bytes) -> None:
        self.handler.received(data)

    def ends(self) -> None:
        self.handler.ended()

    def breaks(self, failure: Failure = Failure.TERMINATION) -> None:
        self.handler.broken(failure, "test")


@dataclass
class FakeTimer:
    when: float
    call: Callable[[], None] | None

    def cancel(self) -> None:
        self.call = None


@dataclass
class World:
    """A `wire.Outside` and `cluster.Names`; `upstreams` are the connections that were asked for, oldest first."""

    now: float = 1000.0
    fraction: float = 0.0  # what chance answers
    upstreams: list[FakeWire] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    relayed: list[tuple[FakeWire, FakeWire]] = field(default_factory=list)
    watchers: dict[str, list[Callable[[Resolution], None]]] = field(default_factory=dict)
    names: dict[str, Resolution] = field(default_factory=dict)
    _timers: list[tuple[float, int, FakeTimer]] = field(default_factory=list)
    _ids: count[int] = field(default_factory=count)

    def call_later(self, seconds: float, call: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(self.now + seconds, call)
        heapq.heappush(self._timers, (timer.when, next(self._ids), timer))
        return timer

    def passes(self, seconds: float) -> None:
        """Let time pass, and happen what is due."""
        until = self.now + seconds
        while self._timers and self._timers[0][0] <= until + 1e-9:
            when, _, timer = heapq.heappop(self._timers)
            self.now = max(self.now, when)
            call, timer.call = timer.call, None
            if call is not None:
                call()
        self.now = until

    def connect(
        self,
        address: Address,
        handler: Handler,
        timeout: float,  # noqa: ARG002
        tls: TlsClient | None,
        source: str | None = None,  # noqa: ARG002
    ) -> FakeWire:
        wire = FakeWire(handler, address, tls)
        self.upstreams.append(wire)
        return wire

    def relay(self, client: FakeWire, upstream: FakeWire, done: Callable[[int, int], None], idle: float) -> None:  # noqa: ARG002
        self.relayed.append((client, upstream))
        self.relay_done = done

    def date_line(self) -> bytes:
        return b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"

    def chance(self) -> float:
        return self.fraction

    def log(self, record: Record) -> None:
        self.records.append(record)

    def watch(self, name: str, told: Callable[[Resolution], None]) -> Callable[[], None]:
        self.watchers.setdefault(name, []).append(told)
        if name in self.names:
            told(self.names[name])
        return lambda: self.watchers[name].remove(told)

    def resolve(self, name: str, told: Callable[[Resolution], None]) -> None:
        told(self.names.get(name, Resolution()))

    def resolves(self, name: str, *addresses: str, failed: bool = False) -> None:
        """A look-up of `name` has ended."""
        self.names[name] = Resolution(addresses, failed)
        for told in self.watchers.get(name, []):
            told(self.names[name])

    @property
    def upstream(self) -> FakeWire:
        """The newest upstream connection."""
        return self.upstreams[-1]

    # --- the proxy in this world --------------------------------------------------------------------------

    def activate(self, policy: EgressPolicy, *, logging: bool = True) -> Active:
        """Put a policy into force."""
        clusters = Clusters(policy.clusters, self, self, make_pool)  # type: ignore[arg-type]
        surroundings = Surroundings(self, clusters, Stats(), RequestIds(), logging)  # type: ignore[arg-type]
        clusters.start()
        return Active(PolicyIndex(policy), surroundings)

    def accept(self, active: Active, original: Address = SITE, peer: Address = PEER) -> FakeWire:
        """A client's connection that was redirected on its way to `original`."""
        wire = FakeWire(None, peer)  # type: ignore[arg-type]
        connection = Connection(active, wire, peer, original)
        wire.handler = connection
        connection.accepted()
        return wire


# --- policies ---------------------------------------------------------------------------------------------

PLAIN = Behaviour()
ORIGINAL = Cluster("site", ClusterKind.ORIGINAL_DST, lb=LoadBalancing.CLUSTER_PROVIDED, connect_timeout=5.0)
PASSTHROUGH = Cluster(PASSTHROUGH_CLUSTER, ClusterKind.ORIGINAL_DST, lb=LoadBalancing.CLUSTER_PROVIDED)


def static(name: str, *addresses: str, port: int = 80, **more: object) -> Cluster:
    """A STATIC cluster."""
    endpoints = tuple(Endpoint(address, port) for address in addresses)
    return Cluster(name, ClusterKind.STATIC, endpoints=endpoints, **more)  # type: ignore[arg-type]


def rule(cluster: str = "site", **more: object) -> Rule:
    """A rule that takes every request to `cluster`."""
    values: dict[str, object] = {"name": "", "match": Any_(), "action": RouteTo((WeightedCluster(cluster),)), **more}
    return Rule(**values)  # type: ignore[arg-type]


def http_policy(
    *rules: Rule,
    clusters: tuple[Cluster, ...] = (ORIGINAL,),
    behaviour: Behaviour = PLAIN,
    inspect: bool = False,
    fallback: VirtualHost | None = None,
    domains: tuple[str, ...] = ("example.com",),
) -> EgressPolicy:
    """Port 80 speaks HTTP, and one virtual host is known there."""
    table = RouteTable("80", (VirtualHost("known", domains, rules or (rule(),)),), ignore_port=True, fallback=fallback)
    protocols = ("http/1.1", "h2c") if inspect else ()
    chain = Chain("80", ChainMatch(protocols=protocols), HttpAction(table))
    listener = Listener("0.0.0.0_80", ANY_ADDRESS, 80, (chain,), inspect_http=inspect)
    return policy((listener,), clusters, behaviour)


def tcp_policy(*targets: WeightedCluster, clusters: tuple[Cluster, ...] = (ORIGINAL,)) -> EgressPolicy:
    """Port 80 is opaque."""
    chain = Chain("tcp", ChainMatch(), TcpAction(targets or (WeightedCluster("site"),)))
    return policy((Listener("0.0.0.0_80", ANY_ADDRESS, 80, (chain,)),), clusters)


def policy(
    listeners: tuple[Listener, ...] = (),
    clusters: tuple[Cluster, ...] = (),
    behaviour: Behaviour = PLAIN,
    *,
    passthrough: bool = False,
) -> EgressPolicy:
    """A whole policy; what no listener takes is closed, or passes."""
    chain = Chain("passthrough", ChainMatch(), TcpAction((WeightedCluster(PASSTHROUGH_CLUSTER),)))
    known: Mapping[str, Cluster] = {cluster.name: cluster for cluster in (*clusters, PASSTHROUGH)}
    return EgressPolicy(
        Profile.ISTIO,
        Identity(),
        behaviour,
        {(item.address, item.port): item for item in listeners},
        known,
        DefaultAction.PASSTHROUGH if passthrough else DefaultAction.BLACKHOLE,
        chain if passthrough else None,
    )
