"""Copies of requests for a second site, whose answers nobody waits for."""

from __future__ import annotations

from collections.abc import Sequence

from mesh_iptables.policy.model import Mirror
from mesh_iptables.proxy.cluster import ClusterState, Destination, Host, Pooled, Queue
from mesh_iptables.proxy.http1 import CHUNKED, Fields, ResponseHead
from mesh_iptables.proxy.router import Plan
from mesh_iptables.proxy.surroundings import Surroundings
from mesh_iptables.proxy.upstream import Http1Upstream, OutgoingHead
from mesh_iptables.proxy.wire import Address, Failure

_TIMEOUT = 60.0


def send_copies(
    surroundings: Surroundings,
    mirrors: Sequence[Mirror],
    plan: Plan,
    head: OutgoingHead,
    body: bytes,
    original: Address,
) -> None:
    """Send the request, whose body must be complete, to each mirror that chance picks."""
    for mirror in mirrors:
        cluster = surroundings.clusters.get(mirror.cluster)
        if cluster is not None and surroundings.outside.chance() * 100 < mirror.percent:
            _Copy(surroundings, cluster, plan, head, body).send(original)


def _shadowed(authority: str) -> str:
    """Envoy's mark of a copy: `host-shadow:port`."""
    name, colon, port = authority.rpartition(":")
    return f"{name}-shadow:{port}" if colon and port.isdecimal() else f"{authority}-shadow"


class _Copy:
    """A `cluster.Waiter` and `upstream.Receiver` that is content with anything."""

    def __init__(
        self, surroundings: Surroundings, cluster: ClusterState, plan: Plan, head: OutgoingHead, body: bytes
    ) -> None:
        self._surroundings = surroundings
        self._cluster = cluster
        self._plan = plan
        self._body = body
        self._head = OutgoingHead(head.method, head.target, _shadowed(head.authority), head.fields, head.framing)
        self._connection: Http1Upstream | None = None
        self._pool: Queue | None = None

    def send(self, original: Address) -> None:
        self._surroundings.outside.call_later(_TIMEOUT, self._give_up)
        self._cluster.choose(Destination(original, self._plan.name), self._chosen)

    def _chosen(self, host: Host | None) -> None:
        if host is not None:
            self._pool = self._cluster.pool_for(host, self._plan.name)
            self._pool.request(self)

    def ready(self, connection: Pooled, host: Host) -> None:  # noqa: ARG002
        self._pool = None
        if isinstance(connection, Http1Upstream):
            self._connection = connection
            body = self._body if self._head.framing == CHUNKED or self._head.framing else b""
            connection.start(
                self, self._head, f"x-request-id: {self._surroundings.ids.next()}\r\n".encode(), body, ended=True
            )

    def _give_up(self) -> None:
        connection, self._connection = self._connection, None
        if self._pool is not None:
            self._pool.forget(self)
        if connection is not None:
            connection.cancel()

    def refused(self, host: Host | None, failure: Failure | None, detail: str) -> None: ...
    def interim(self, head: ResponseHead) -> None: ...
    def upstream_drained(self) -> None: ...
    def answered(self, head: ResponseHead, payload: bytes, ended: bool) -> None:  # noqa: ARG002
        if ended:
            self._connection = None

    def trailers(self, fields: Fields) -> None: ...

    def answer_body(self, payload: bytes, ended: bool) -> None:  # noqa: ARG002
        if ended:
            self._connection = None

    def switched(self, head: ResponseHead, connection: Http1Upstream, rest: bytes) -> None:  # noqa: ARG002
        self._connection = None
        connection.surrender().abort()
        connection.surrendered_ended()

    def upstream_failed(self, failure: Failure, detail: str) -> None:  # noqa: ARG002
        self._connection = None
