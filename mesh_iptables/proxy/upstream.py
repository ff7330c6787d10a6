"""HTTP/1.1 connections to a site: one request at a time, its answer taken apart. No I/O of its own."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from mesh_iptables.proxy.cluster import ClusterState, Host, Pooled, Waiter, tls_client
from mesh_iptables.proxy.http1 import (
    CHUNKED,
    LAST_CHUNK,
    RESPONSE_HEAD_LIMIT,
    BodyReader,
    Fields,
    Malformed,
    ResponseHead,
    UntilCloseBody,
    body_reader,
    chunk,
    head_end,
    parse_response_head,
)
from mesh_iptables.proxy.wire import Failure, Wire

_MEMO_SIZE = 1024
_MEMO_HEAD = 2048  # bytes; larger heads are rarely the same twice


class OutgoingHead:
    """A request head for an upstream; what is the same for many requests is encoded once."""

    __slots__ = ("_encoded", "assumes_empty", "authority", "fields", "framing", "method", "target", "upgrade")

    def __init__(
        self, method: str, target: str, authority: str, fields: Fields, framing: int, upgrade: str = ""
    ) -> None:
        self.assumes_empty = False  # the length 0 is not the client's, but what HTTP/1.1 needs
        self.method = method
        self.target = target
        self.authority = authority
        self.fields = fields  # without host; framing and upgrade fields included
        self.framing = framing
        self.upgrade = upgrade
        self._encoded: bytes | None = None

    def start(self) -> bytes:
        """The head for HTTP/1.1 without the empty line, so that field lines may follow."""
        if self._encoded is None:
            lines = "".join([f"{name}: {value}\r\n" for name, value in self.fields])
            text = f"{self.method} {self.target} HTTP/1.1\r\nhost: {self.authority}\r\n{lines}"
            self._encoded = text.encode("latin-1")
        return self._encoded

    def http1(self, extra: bytes) -> bytes:
        """The head for HTTP/1.1; `extra` are further field lines."""
        return b"%b%b\r\n" % (self.start(), extra)


class Receiver(Protocol):
    """Whoever sent a request."""

    def interim(self, head: ResponseHead) -> None:
        """An 1xx answer, which is not the last."""

    def answered(self, head: ResponseHead, payload: bytes, ended: bool) -> None:
        """The head, with as much of the body as came along."""

    def answer_body(self, payload: bytes, ended: bool) -> None:
        """More of the body."""

    def trailers(self, fields: Fields) -> None:
        """What HTTP/2 sends behind the body; comes before the body's end."""

    def switched(self, head: ResponseHead, connection: Http1Upstream, rest: bytes) -> None:
        """101: the wire now belongs to the receiver (`Http1Upstream.surrender`)."""

    def upstream_failed(self, failure: Failure, detail: str) -> None:
        """No (complete) answer will come."""

    def upstream_drained(self) -> None:
        """The upstream has taken all that was sent."""


class Pool:
    """Connections to one host, and the requests that wait for one."""

    __slots__ = ("cluster", "connecting", "host", "idle", "name", "open", "waiting")

    def __init__(self, cluster: ClusterState, host: Host, name: str) -> None:
        self.cluster = cluster
        self.host = host
        self.name = name
        self.idle: list[Pooled] = []
        self.waiting: deque[Waiter] = deque()
        self.connecting = 0
        self.open = 0

    def request(self, waiter: Waiter) -> None:
        """An idle connection at once, or a place in the queue."""
        cluster = self.cluster
        limits = cluster.config.limits
        if self.idle:
            if cluster.requests >= limits.max_requests:
                waiter.refused(self.host, Failure.OVERFLOW, "overflow")
                return
            self._give(self.idle.pop(), waiter)
            return
        if cluster.pending >= limits.max_pending_requests:
            waiter.refused(self.host, Failure.OVERFLOW, "overflow")
            return
        cluster.pending += 1
        self.waiting.append(waiter)
        self._connect()

    def forget(self, waiter: Waiter) -> None:
        """A waiter that gave up."""
        try:
            self.waiting.remove(waiter)
        except ValueError:
            return
        self.cluster.pending -= 1

    def _connect(self) -> None:
        cluster = self.cluster
        while self.connecting < len(self.waiting):
            # the first connection of a pool is made whatever the limit says, or nothing would ever move
            if cluster.connections >= cluster.config.limits.max_connections and self.open:
                return
            self.connecting += 1
            self.open += 1
            cluster.connections += 1
            self.host.connections += 1
            Http1Upstream(self)  # tells by `opened` or `failed`

    def _give(self, connection: Pooled, waiter: Waiter) -> None:
        self.cluster.requests += 1
        self.host.active += 1
        waiter.ready(connection, self.host)

    def opened(self, connection: Pooled) -> None:
        """A connection is there."""
        self.connecting -= 1
        self.release(connection)

    def release(self, connection: Pooled) -> None:
        """A connection is free for the next request."""
        cluster = self.cluster
        while self.waiting:
            waiter = self.waiting.popleft()
            cluster.pending -= 1
            if cluster.requests < cluster.config.limits.max_requests:
                self._give(connection, waiter)
                return
            waiter.refused(self.host, Failure.OVERFLOW, "overflow")
        connection.idle_since = cluster.outside.now
        if cluster.retired:
            connection.close()
        else:
            self.idle.append(connection)
            if not cluster.sweeping:
                cluster.keep_tidy()

    def failed(self, failure: Failure, detail: str) -> None:
        """A connection could not be made: all who wait for this host are told, as Envoy does."""
        self.connecting -= 1
        waiting, self.waiting = self.waiting, deque()
        self.cluster.pending -= len(waiting)
        self.gone()
        for waiter in waiting:
            waiter.refused(self.host, failure, detail)

    def finished(self) -> None:
        """A request is over, whatever becomes of its connection."""
        self.cluster.requests -= 1
        self.host.active -= 1

    def gone(self) -> None:
        """A connection has ended."""
        self.open -= 1
        self.host.connections -= 1
        self.cluster.connections -= 1
        self._connect()
        self.cluster.tidy_host(self.host)

    def drop_idle(self, before: float) -> None:
        """Close connections that wait since before `before`."""
        idle, self.idle = self.idle, []
        for connection in idle:
            if connection.idle_since < before:
                connection.close()
            else:
                self.idle.append(connection)


class Http1Upstream:
    """Owned by its pool while idle, by a `Receiver` from `start` to the end of the answer or `cancel`."""

    __slots__ = (
        "_body",
        "_buffer",
        "_chunked",
        "_is_head",
        "_keep",
        "_opened",
        "_pool",
        "_request_done",
        "_serves",
        "idle_since",
        "receiver",
        "served",
        "wire",
    )

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.receiver: Receiver | None = None
        self._buffer = b""
        self._body: BodyReader | None = None
        self._is_head = False
        self._chunked = False
        self._keep = True
        self._opened = False
        self._request_done = True
        self.idle_since = 0.0
        self.served = 0
        cluster = pool.cluster
        self._serves = cluster.config.limits.max_requests_per_connection or 1 << 62
        tls = cluster.config.tls
        client = tls_client(tls, pool.name, ("http/1.1",)) if tls is not None else None
        self.wire: Wire = cluster.outside.connect(pool.host.address, self, cluster.config.connect_timeout, client)

    # --- the request --------------------------------------------------------------------------------------

    def start(self, receiver: Receiver, head: OutgoingHead, extra: bytes, body: bytes, ended: bool) -> None:
        """Send a request; `body` is what of it is there already."""
        self.receiver = receiver
        self._is_head = head.method == "HEAD"
        self._chunked = head.framing == CHUNKED
        self._keep = True
        self._request_done = ended
        self.served += 1
        data = head.http1(extra)
        if body or (ended and self._chunked):
            data += self._encoded(body, ended)
        self.wire.send(data)

    def start_whole(self, receiver: Receiver, head: bytes, *, is_head: bool) -> None:
        """Send a request without a body; `head` is all of it."""
        self.receiver = receiver
        self._is_head = is_head
        self._chunked = False
        self._keep = self._request_done = True
        self.served += 1
        self.wire.send(head)

    def send_body(self, data: bytes, ended: bool) -> None:
        """More of the request's body."""
        self._request_done = ended
        self.wire.send(self._encoded(data, ended))

    def _encoded(self, data: bytes, ended: bool) -> bytes:
        if not self._chunked:
            return data
        coded = chunk(data) if data else b""
        return coded + LAST_CHUNK if ended else coded

    def cancel(self) -> None:
        """The receiver wants no answer any more; the connection cannot be used again."""
        if self.receiver is not None:
            self.receiver = None
            self.wire.abort()
            self._pool.finished()
            self._pool.gone()

    def surrender(self) -> Wire:
        """Give the wire away for good (after `switched`); the pool counts it until `surrendered_ended`."""
        self.receiver = None
        return self.wire

    def surrendered_ended(self) -> None:
        """A wire that was given away has ended."""
        self._pool.finished()
        self._pool.gone()

    def close(self) -> None:
        """End an idle connection."""
        self.wire.close()
        self._pool.gone()

    @property
    def unsent(self) -> int:
        return self.wire.unsent

    def pause(self) -> None:
        self.wire.pause()

    def resume(self) -> None:
        self.wire.resume()

    # --- events of the wire -------------------------------------------------------------------------------

    def connected(self) -> None:
        self._opened = True
        self._pool.opened(self)

    def drained(self) -> None:
        if self.receiver is not None:
            self.receiver.upstream_drained()

    def ended(self) -> None:
        body = self._body
        if self.receiver is not None and isinstance(body, UntilCloseBody):
            self._complete(b"")
        else:
            self.broken(Failure.TERMINATION, "upstream closed")

    def broken(self, failure: Failure, detail: str) -> None:
        if not self._opened:
            self._pool.failed(failure, detail)
            return
        receiver, self.receiver = self.receiver, None
        self.wire.close()
        if receiver is None:
            self._unlist()
            self._pool.gone()
            return
        self._pool.finished()
        receiver.upstream_failed(failure, detail)
        self._pool.gone()

    def _unlist(self) -> None:
        if self in self._pool.idle:
            self._pool.idle.remove(self)

    def received(self, data: bytes) -> None:
        receiver = self.receiver
        if receiver is None:
            self.broken(Failure.PROTOCOL, "bytes without a request")
            return
        if self._body is None and not self._buffer:
            # nearly every answer: a head that was seen before, and all of its body
            end = data.find(b"\r\n\r\n") + 4
            head = _memo.get(data[:end])
            if head is not None and head.status >= 200 and head.framing == len(data) - end and not self._is_head:
                self._keep = head.keep_alive
                self._finish(receiver, head, data[end:])
                return
        try:
            if self._body is None:
                self._head(self._buffer + data if self._buffer else data)
            else:
                self._more(self._body, data)
        except Malformed as error:
            self._fail_protocol(error.detail)

    def _fail_protocol(self, detail: str) -> None:
        receiver, self.receiver = self.receiver, None
        self.wire.abort()
        self._pool.finished()
        if receiver is not None:
            receiver.upstream_failed(Failure.PROTOCOL, detail)
        self._pool.gone()

    # --- the answer ---------------------------------------------------------------------------------------

    def _head(self, data: bytes) -> None:
        while True:
            end = head_end(data)
            if end < 0:
                self._incomplete(data)
                return
            head = _parsed(data[:end])
            data = data[end:]
            if head.status >= 200 or head.status == 101:
                break
            assert self.receiver is not None
            self.receiver.interim(head)
            if not data or self.receiver is None:
                self._buffer = data
                return
        self._buffer = b""
        self._final(head, data)

    def _incomplete(self, data: bytes) -> None:
        if len(data) > RESPONSE_HEAD_LIMIT:
            raise Malformed("response head too large")
        if not b"HTTP/1.".startswith(data[:7]):
            raise Malformed("not HTTP")
        self._buffer = data

    def _final(self, head: ResponseHead, data: bytes) -> None:
        receiver = self.receiver
        assert receiver is not None
        if head.status == 101:
            receiver.switched(head, self, data)
            return
        self._keep = head.keep_alive
        framing = 0 if self._is_head else head.framing
        if framing == len(data):  # all in one piece, the most frequent case
            self._finish(receiver, head, data)
            return
        body = self._body = body_reader(framing)
        payload = body.feed(data) if data else b""
        if body.rest is None:
            receiver.answered(head, payload, ended=False)
        else:
            self._keep = self._keep and not body.rest
            self._finish(receiver, head, payload)

    def _more(self, body: BodyReader, data: bytes) -> None:
        payload = body.feed(data)
        if body.rest is None:
            if payload and self.receiver is not None:
                self.receiver.answer_body(payload, ended=False)
            return
        self._keep = self._keep and not body.rest
        self._complete(payload)

    def _complete(self, payload: bytes) -> None:
        receiver, self.receiver, self._body = self.receiver, None, None
        self._pool.finished()
        if receiver is not None:
            receiver.answer_body(payload, ended=True)
        self._hand_back()

    def _finish(self, receiver: Receiver, head: ResponseHead, payload: bytes) -> None:
        self.receiver = self._body = None
        self._pool.finished()
        receiver.answered(head, payload, ended=True)
        self._hand_back()

    def _hand_back(self) -> None:
        if self._keep and self._request_done and self.served < self._serves:
            self._pool.release(self)
        else:
            self.wire.close()
            self._pool.gone()


_memo: dict[bytes, ResponseHead] = {}


def _parsed(data: bytes) -> ResponseHead:
    """Parsed heads are kept a while: a site's answers differ in few ways, and a `date` lives for a second."""
    head = _memo.get(data)
    if head is None:
        head = parse_response_head(data)
        if len(data) <= _MEMO_HEAD:
            if len(_memo) >= _MEMO_SIZE:
                _memo.clear()
            _memo[data] = head
    return head
