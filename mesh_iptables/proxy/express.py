"""The short way for the most frequent request: seen before, without a body, answered whole by a waiting connection.

It does what an `Exchange` does when nothing out of the ordinary happens, without making one. The moment anything
else happens (an answer in pieces, a status somebody may want to retry, a failure) an `Exchange` is made that stands
where this one stood, and gets to hear of it instead.
"""

from __future__ import annotations

from typing import Protocol

from mesh_iptables.proxy.answers import AnswerHead
from mesh_iptables.proxy.cluster import ClusterState, Host
from mesh_iptables.proxy.exchange import Client, Exchange
from mesh_iptables.proxy.http1 import Fields, ResponseHead
from mesh_iptables.proxy.router import Plan, Router, Way
from mesh_iptables.proxy.surroundings import Surroundings
from mesh_iptables.proxy.upstream import Http1Upstream
from mesh_iptables.proxy.wire import Address, Failure


class ExpressClient(Client, Protocol):
    """What this takes of a client's connection besides."""

    surroundings: Surroundings
    router: Router
    peer: Address
    sni: str

    def answer_whole(self, head: AnswerHead, extra: bytes, payload: bytes) -> None:
        """Like `answer`, for all of an answer."""

    def hand_over(self, exchange: Exchange) -> None:
        """The short way was not for this request."""


class Express:
    """One for each client connection; an `upstream.Receiver` and `cluster.Wanted`."""

    __slots__ = ("_client", "_cluster", "_connection", "_plan", "_request_id", "_way", "host", "original", "started")

    digest: int | None = None

    def __init__(self, client: ExpressClient, original: Address) -> None:
        self._client = client
        self.original = original
        self._plan: Plan | None = None
        self._way: Way | None = None
        self._cluster: ClusterState | None = None
        self.host: Host | None = None
        self._connection: Http1Upstream | None = None
        self.started = 0.0
        self._request_id = ""

    @property
    def name(self) -> str:
        """See `cluster.Wanted`."""
        return self._plan.name if self._plan is not None else ""

    def takes(self, plan: Plan, way: Way) -> bool:
        """Send the request if a connection is waiting for it; else nothing has happened, but `host` may be chosen."""
        surroundings = self._client.surroundings
        cluster = surroundings.clusters.get(way.cluster)
        self.host = None
        if cluster is None or not (cluster.immediate and cluster.speaks_http1):
            return False
        self._plan = plan
        host = self.host = cluster.pick(self)
        pool = host.pools.get(way.key if cluster.named_pools else "") if host is not None else None
        if host is None or pool is None or not pool.idle or cluster.requests >= cluster.config.limits.max_requests:
            return False
        cluster.requests += 1
        host.active += 1
        self._way, self._cluster = way, cluster
        self.started = surroundings.outside.now
        connection: Http1Upstream = pool.idle.pop()  # type: ignore[assignment]  # pools hold what their maker made
        self._connection = connection
        if plan.wants_id:
            request_id = self._request_id = surroundings.ids.next()
            head = b"%bx-request-id: %b\r\n%b\r\n" % (way.head.start(), request_id.encode(), way.lines)
        else:
            head = way.head.http1(way.lines)
        surroundings.stats.upstream_requests += 1
        connection.start_whole(self, head, is_head=way.head.method == "HEAD")
        return True

    # --- from the upstream --------------------------------------------------------------------------------

    def answered(self, head: ResponseHead, payload: bytes, ended: bool) -> None:
        """See `upstream.Receiver`."""
        client, way, plan, cluster = self._client, self._way, self._plan, self._cluster
        assert way is not None
        assert plan is not None
        assert cluster is not None
        if not ended or head.status >= 400 or cluster.config.outlier is not None or "grpc-status" in head.names:
            self._promoted().answered(head, payload, ended)
            return
        surroundings, router = client.surroundings, client.router
        answer = router.answer(plan, way, head)
        now = surroundings.outside.now
        lines = b"x-envoy-upstream-service-time: %d\r\n" % int((now - self.started) * 1000) if way.timed else b""
        if not answer.dated:
            lines += surroundings.outside.date_line()
        surroundings.stats.requests[head.status] += 1
        if surroundings.logging:
            self._log(head.status, len(payload))
        self._connection = None
        client.answer_whole(answer, lines, payload)

    def _log(self, status: int, sent: int) -> None:
        exchange = self._promoted()
        exchange.log_answer(status, sent)

    def _promoted(self) -> Exchange:
        """An exchange in the same place."""
        client, plan = self._client, self._plan
        assert plan is not None
        exchange = Exchange(client.surroundings, client.router, client, plan, client.peer, self.original, client.sni)
        assert self._way is not None
        assert self._cluster is not None
        assert self.host is not None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.receiver = exchange
        exchange.take_over(self._way, self._cluster, self.host, connection, self.started, self._request_id)
        client.hand_over(exchange)
        return exchange

    def interim(self, head: ResponseHead) -> None:
        """See `upstream.Receiver`."""
        self._client.interim(head)

    def answer_body(self, payload: bytes, ended: bool) -> None:
        """Comes behind a head only, when the exchange is the receiver."""

    def trailers(self, fields: Fields) -> None:
        """HTTP/1 has none that are passed on."""

    def switched(self, head: ResponseHead, connection: Http1Upstream, rest: bytes) -> None:
        """See `upstream.Receiver`."""
        self._promoted().switched(head, connection, rest)

    def upstream_failed(self, failure: Failure, detail: str) -> None:
        """See `upstream.Receiver`."""
        self._promoted().upstream_failed(failure, detail)

    def upstream_drained(self) -> None:
        """Nothing waits for that."""

    # --- from the client ----------------------------------------------------------------------------------

    def client_gone(self) -> None:
        """Nobody waits for the answer any more."""
        self._promoted().client_gone()

    def client_drained(self) -> None:
        """Nothing waits for that."""
