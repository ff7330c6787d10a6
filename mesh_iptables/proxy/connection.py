"""A connection from its acceptance until its chain is known; TCP chains to their end. No sockets.

    accepted ─► listener ─► (first bytes, if the listener asks for them) ─► chain ─► HTTP: `http_connection` takes over
                                                                                 └─► TCP: connect, then relay

A connection that nothing takes is closed without a byte; how that looks to the client (RST or FIN) is no contract.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh_iptables.policy.engine import NOTHING, ChainIndex, Inspected, ListenerIndex, PolicyIndex
from mesh_iptables.policy.model import TcpAction
from mesh_iptables.policy.routing import Deny, Reason, RouteIndex, pick
from mesh_iptables.proxy.access_log import Record
from mesh_iptables.proxy.cluster import ClusterState, Host, open_tcp
from mesh_iptables.proxy.http_connection import HttpConnection
from mesh_iptables.proxy.router import Router
from mesh_iptables.proxy.sniff import Sniffer, SniffLimit
from mesh_iptables.proxy.surroundings import Surroundings
from mesh_iptables.proxy.wire import Address, Failure, Timer, Wire

_UNKNOWN: Address = ("", 0)


@dataclass(slots=True)
class Active:
    """The policy in force, and what its connections share."""

    index: PolicyIndex
    surroundings: Surroundings
    routers: dict[int, Router] = field(default_factory=dict)

    def router_for(self, routes: RouteIndex) -> Router:
        """One per route table, so that its plans are remembered across connections."""
        router = self.routers.get(id(routes))
        if router is None:
            router = self.routers[id(routes)] = Router(routes, self.index.policy.behaviour)
        return router


class Connection:
    """Owns the client's wire until a chain takes it."""

    __slots__ = ("_active", "_listener", "_original", "_peer", "_sniffer", "_timer", "_wire")

    def __init__(self, active: Active, wire: Wire, peer: Address, original: Address) -> None:
        self._active = active
        self._wire = wire
        self._peer = peer
        self._original = original
        self._sniffer: Sniffer | None = None
        self._timer: Timer | None = None
        self._listener: ListenerIndex | None = None

    def accepted(self) -> None:
        """Begin; the wire must have this connection as its handler."""
        listener = self._active.index.listener_for(*self._original)
        if isinstance(listener, Deny):
            self._refuse(listener.reason)
            return
        self._listener = listener
        inspection = listener.inspection_for(self._original[1])
        if not (inspection.tls or inspection.http):
            self._choose(NOTHING)
            return
        self._sniffer = Sniffer(tls=inspection.tls, http=inspection.http)
        if inspection.timeout:
            outside = self._active.surroundings.outside
            self._timer = outside.call_later(inspection.timeout, self._timed_out)

    def _timed_out(self) -> None:
        self._timer = None
        self._choose(NOTHING)

    def connected(self) -> None:
        pass  # it was accepted

    def received(self, data: bytes) -> None:
        assert self._sniffer is not None
        try:
            found = self._sniffer.feed(data)
        except SniffLimit:
            self._refuse(Reason.NO_CHAIN)
            return
        if found is not None:
            self._choose(Inspected(found.transport, found.server_name, found.protocols))

    def ended(self) -> None:
        self._refuse(Reason.NO_CHAIN)  # as Envoy does: what was begun cannot be completed any more

    def broken(self, failure: Failure, detail: str) -> None:  # noqa: ARG002
        self._cancel_timer()

    def drained(self) -> None:
        pass  # nothing was sent

    def retire(self) -> None:
        """The proxy is about to end: a client that has said nothing has nothing to lose."""
        if self._sniffer is not None and not self._sniffer.data:
            self._cancel_timer()
            self._wire.close()

    def _choose(self, found: Inspected) -> None:
        self._cancel_timer()
        assert self._listener is not None
        chain = self._listener.chain_for(*self._original, found)
        if isinstance(chain, Deny):
            self._refuse(chain.reason, found.sni)
            return
        early = bytes(self._sniffer.data) if self._sniffer is not None else b""
        if chain.routes is not None:
            self._serve_http(chain.routes, found.sni, early)
        else:
            TcpSession(self._active, self._wire, self._peer, self._original, chain, found.sni, early).begin()

    def _serve_http(self, routes: RouteIndex, sni: str, early: bytes) -> None:
        active = self._active
        connection = HttpConnection(
            active.surroundings, active.router_for(routes), self._wire, self._peer, self._original, sni
        )
        self._wire.handler = connection
        if early:
            connection.received(early)

    def _refuse(self, reason: Reason, sni: str = "") -> None:
        self._cancel_timer()
        surroundings = self._active.surroundings
        surroundings.stats.reasons[reason.value] += 1
        self._wire.close()
        if surroundings.logging:
            flags = "" if reason is Reason.LOOP else "NR"
            record = Record(self._peer, self._original, 0.0, flags=flags, reason=reason.value, sni=sni)
            surroundings.outside.log(record)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class TcpSession:
    """A connection of a TCP chain: one upstream connection, made at once, then bytes both ways; a `cluster.Wanted`."""

    __slots__ = (
        "_active",
        "_chain",
        "_client",
        "_cluster",
        "_early",
        "_host",
        "_peer",
        "_started",
        "_upstream",
        "name",
        "original",
    )

    digest: int | None = None

    def __init__(
        self,
        active: Active,
        client: Wire,
        peer: Address,
        original: Address,
        chain: ChainIndex,
        sni: str = "",
        early: bytes = b"",
    ) -> None:
        self._active = active
        self._client: Wire | None = client  # None once the relay has it
        self._peer = peer
        self.original = original
        self._chain = chain
        self.name = sni
        self._early = early
        self._started = active.surroundings.outside.now
        self._cluster: ClusterState | None = None
        self._host: Host | None = None
        self._upstream: Wire | None = None

    def begin(self) -> None:
        """Find the upstream and connect."""
        surroundings = self._active.surroundings
        assert self._client is not None
        self._client.handler = _ClientWaits(self)
        self._client.pause()
        action = self._chain.chain.action
        assert isinstance(action, TcpAction)
        targets = action.targets
        target = targets[0] if len(targets) == 1 else pick(targets, surroundings.outside.chance())
        cluster = self._cluster = surroundings.clusters.get(target.cluster)
        if cluster is None:
            self._fail("NC", "cluster_not_found")
        elif self._is_full(cluster):
            self._fail("UO", "overflow")
        else:
            cluster.choose(self, self._chosen)

    def _is_full(self, cluster: ClusterState) -> bool:
        """Whether a limit forbids one more connection; while it is being made it counts as pending, too."""
        limits = cluster.config.limits
        return cluster.connections >= limits.max_connections or cluster.pending >= limits.max_pending_requests

    def _chosen(self, host: Host | None) -> None:
        assert self._cluster is not None
        if self._client is None:  # it went away while a name was looked up
            return
        if host is None:
            refusal = self._cluster.refusal
            self._fail("UH", f"address_refused{{{refusal}}}" if refusal else "no_healthy_upstream")
            return
        self._host = host
        host.active += 1
        host.connections += 1
        self._cluster.connections += 1
        self._cluster.pending += 1
        self._upstream = open_tcp(self._cluster, host, self)

    def connected(self) -> None:
        assert self._upstream is not None
        assert self._cluster is not None
        self._cluster.pending -= 1
        if self._early:
            self._upstream.send(self._early)
        outside = self._active.surroundings.outside
        client, upstream = self._client, self._upstream
        self._client = self._upstream = None
        if not self._active.surroundings.logging:  # an idle connection should not hold what nobody will read
            self._peer = self.original = _UNKNOWN
        if client is not None:
            outside.relay(client, upstream, self._done, self._cluster.config.tcp_idle_timeout)

    def broken(self, failure: Failure, detail: str) -> None:
        """The upstream could not be reached; once it was, the relay is in charge."""
        self._release()
        if self._cluster is not None and self._host is not None:
            self._cluster.pending -= 1
            self._cluster.report(self._host, 503)
        flags = "UF,URX" if failure in (Failure.CONNECT, Failure.CONNECT_TIMEOUT) else "UC"
        self._fail(flags, failure.value, detail)

    def client_broken(self) -> None:
        """The client went away while we were connecting."""
        self._client = None
        if self._upstream is not None and self._cluster is not None:
            self._upstream.abort()
            self._cluster.pending -= 1
            self._release()
        self._finish("DC", "downstream_remote_disconnect")

    def received(self, data: bytes) -> None:
        """Nothing is received before the relay takes over."""

    def ended(self) -> None:
        """See `received`."""

    def drained(self) -> None:
        """See `received`."""

    def _done(self, up: int, down: int) -> None:
        self._release()
        self._finish("", "", received=up + len(self._early), sent=down)

    def _release(self) -> None:
        host, cluster = self._host, self._cluster
        if host is not None and cluster is not None:
            host.active -= 1
            host.connections -= 1
            cluster.connections -= 1
            cluster.tidy_host(host)

    def _fail(self, flags: str, detail: str, failure: str = "") -> None:
        if self._client is not None:
            self._client.close()
        self._finish(flags, detail, failure=failure)

    def _finish(self, flags: str, detail: str, failure: str = "", received: int = 0, sent: int = 0) -> None:
        surroundings = self._active.surroundings
        surroundings.stats.reasons[self._chain.reason.value] += 1
        if surroundings.logging:
            cluster, host = self._cluster, self._host
            surroundings.outside.log(
                Record(
                    self._peer,
                    self.original,
                    surroundings.outside.now - self._started,
                    flags=flags,
                    detail=detail,
                    reason=self._chain.reason.value,
                    received=received,
                    sent=sent,
                    sni=self.name,
                    cluster=cluster.config.name if cluster is not None else "",
                    upstream=host.key if host is not None else "",
                    failure=failure,
                )
            )


class _ClientWaits:
    """Handler of the client's wire while the upstream is being connected."""

    __slots__ = ("_session",)

    def __init__(self, session: TcpSession) -> None:
        self._session = session

    def connected(self) -> None:
        pass

    def received(self, data: bytes) -> None:
        pass  # the wire is paused

    def ended(self) -> None:
        pass  # half-closed: the relay will see it again

    def broken(self, failure: Failure, detail: str) -> None:  # noqa: ARG002
        self._session.client_broken()

    def drained(self) -> None:
        pass
