"""HTTP/2 to a site: one connection for each host, every request a stream of it. No I/O of its own."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError, StreamClosedError

from mesh_iptables.proxy.cluster import ClusterState, Host, Pooled, Waiter, tls_client
from mesh_iptables.proxy.headers import without
from mesh_iptables.proxy.http1 import CHUNKED, ResponseHead
from mesh_iptables.proxy.http2 import BadHeaders, Outbox, decoded, encoded, field_lines
from mesh_iptables.proxy.upstream import OutgoingHead
from mesh_iptables.proxy.wire import Failure, Wire

if TYPE_CHECKING:
    from mesh_iptables.proxy.upstream import Receiver

_FRAME_HEADER = 9  # bytes
_LARGEST_FRAME = 16384
_SETTINGS = 4  # the type of frame that comes first
_HTTP1_ONLY = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade"})


class Http2Pool:
    """Like `cluster.Pool`, with streams for connections."""

    def __init__(self, cluster: ClusterState, host: Host, name: str) -> None:
        self.cluster = cluster
        self.host = host
        self.name = name
        self.waiting: deque[Waiter] = deque()
        self.idle: list[Pooled] = []  # streams do not wait for requests
        self.open = 0
        self._site: Site | None = None

    def request(self, waiter: Waiter) -> None:
        """A stream at once, or when the connection is there."""
        limits = self.cluster.config.limits
        full = self.cluster.requests >= limits.max_requests
        if full or self.cluster.pending >= limits.max_pending_requests:
            waiter.refused(self.host, Failure.OVERFLOW, "overflow")
            return
        self.cluster.pending += 1
        self.waiting.append(waiter)
        if self._site is None:
            self.open = 1
            self.host.connections += 1
            self.cluster.connections += 1
            self._site = Site(self)
        else:
            self.serve(self._site)

    def forget(self, waiter: Waiter) -> None:
        """A waiter that gave up."""
        if waiter in self.waiting:
            self.waiting.remove(waiter)
            self.cluster.pending -= 1

    def serve(self, site: Site) -> None:
        """Give waiting requests their streams."""
        while self.waiting and site.ready:
            self.cluster.pending -= 1
            self.cluster.requests += 1
            self.host.active += 1
            self.waiting.popleft().ready(SiteStream(site), self.host)

    def finished(self) -> None:
        """A request is over."""
        self.cluster.requests -= 1
        self.host.active -= 1

    def gone(self, site: Site, failure: Failure, detail: str) -> None:
        """The connection has ended; whoever waited for it is told."""
        if self._site is not site:
            return
        self._site, self.open = None, 0
        self.host.connections -= 1
        self.cluster.connections -= 1
        waiting, self.waiting = self.waiting, deque()
        self.cluster.pending -= len(waiting)
        for waiter in waiting:
            waiter.refused(self.host, failure, detail)
        self.cluster.tidy_host(self.host)

    def drop_idle(self, before: float) -> None:
        """Close a connection without streams that waits since before `before`."""
        if self._site is not None and not self._site.streams and self._site.idle_since < before:
            self._site.close()


class Site:
    """The connection; handler of its wire."""

    def __init__(self, pool: Http2Pool) -> None:
        self._pool = pool
        self.streams: dict[int, SiteStream] = {}
        self.ready = False
        self.idle_since = pool.cluster.outside.now
        self.http2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self._start = b""  # of what it says
        config = pool.cluster.config
        client = tls_client(config.tls, pool.name, ("h2",)) if config.tls is not None else None
        self.wire: Wire = pool.cluster.outside.connect(pool.host.address, self, config.connect_timeout, client)

    def connected(self) -> None:
        self.http2.initiate_connection()
        self.push()
        self.ready = True
        self._pool.serve(self)
        if not self._pool.cluster.sweeping:
            self._pool.cluster.keep_tidy()

    def push(self) -> None:
        """Send what h2 has to send."""
        data = self.http2.data_to_send()
        if data:
            self.wire.send(data)

    def received(self, data: bytes) -> None:
        if len(self._start) < _FRAME_HEADER:
            self._start += data[: _FRAME_HEADER - len(self._start)]
            if len(self._start) == _FRAME_HEADER and not _is_settings(self._start):
                self.broken(Failure.PROTOCOL, "not HTTP/2")  # h2 would wait for the end of a frame that is none
                return
        try:
            events = self.http2.receive_data(data)
        except ProtocolError as error:
            self.broken(Failure.PROTOCOL, str(error))
            return
        for event in events:
            self._handle(event)
        self.push()

    def _handle(self, event: Event) -> None:
        number = getattr(event, "stream_id", None)
        stream = self.streams.get(number) if number else None
        match event:
            case ResponseReceived(headers=headers) if stream is not None and headers:
                stream.answered(headers, ended=event.stream_ended is not None)
            case InformationalResponseReceived(headers=headers) if stream is not None and headers:
                stream.informed(headers)
            case DataReceived(data=data, flow_controlled_length=credit) if stream is not None:
                stream.takes(data or b"", credit or 0, ended=event.stream_ended is not None)
            case TrailersReceived(headers=headers) if stream is not None and headers:
                stream.trailed(headers)
            case StreamEnded() if stream is not None:
                stream.ended()
            case StreamReset() if stream is not None:
                stream.failed(Failure.TERMINATION, "stream reset")
            case WindowUpdated():
                for each in list(self.streams.values()):
                    each.flush()
            case ConnectionTerminated():
                self.broken(Failure.TERMINATION, "connection terminated")
            case _:
                pass

    def over(self, number: int) -> None:
        """A stream is done with."""
        if self.streams.pop(number, None) is not None:
            self._pool.finished()
            self.idle_since = self._pool.cluster.outside.now
            if self._pool.cluster.retired and not self.streams:
                self.close()

    def ended(self) -> None:
        self.broken(Failure.TERMINATION, "upstream closed")

    def broken(self, failure: Failure, detail: str) -> None:
        self.ready = False
        self.wire.close()
        for stream in list(self.streams.values()):
            stream.failed(failure, detail)
        self._pool.gone(self, failure, detail)

    def drained(self) -> None:
        for stream in list(self.streams.values()):
            stream.flush()

    def close(self) -> None:
        """End it; nobody uses it."""
        self.broken(Failure.TERMINATION, "closed")


def _is_settings(header: bytes) -> bool:
    """Whether a site begins as it must, with SETTINGS of an allowed size."""
    return header[3] == _SETTINGS and int.from_bytes(header[:3], "big") <= _LARGEST_FRAME


class SiteStream:
    """One request; an `exchange.Upstream`."""

    idle_since = 0.0

    def __init__(self, site: Site) -> None:
        self._site = site
        self.receiver: Receiver | None = None
        self._number = 0
        self._is_head = False
        self._out: Outbox | None = None
        self._paused = False
        self._credit = 0

    def start(self, receiver: Receiver, head: OutgoingHead, extra: bytes, body: bytes, ended: bool) -> None:
        """Send a request."""
        self.receiver = receiver
        self._is_head = head.method == "HEAD"
        http2 = self._site.http2
        self._number = http2.get_next_available_stream_id()
        self._site.streams[self._number] = self
        dropped = _HTTP1_ONLY if head.framing or not head.assumes_empty else _HTTP1_ONLY | {"content-length"}
        fields = [field for field in (*head.fields, *field_lines(extra)) if field[0] not in dropped]
        pseudo = [(":method", head.method), (":scheme", "http"), (":authority", head.authority), (":path", head.target)]
        http2.send_headers(self._number, encoded([*pseudo, *fields]), end_stream=ended and not body)
        self._out = Outbox(http2, self._number)
        if body:
            self._out.put(body, ends=ended)
        self._site.push()

    def send_body(self, data: bytes, ended: bool) -> None:
        """More of the request's body."""
        if self._out is not None:
            self._out.put(data, ends=ended)
            self._site.push()

    @property
    def unsent(self) -> int:
        return len(self._out or b"") + self._site.wire.unsent

    def flush(self) -> None:
        """The site takes more."""
        if self._out is not None and self._out:
            self._out.flush()
            self._site.push()
            if not self._out and self.receiver is not None:
                self.receiver.upstream_drained()

    def cancel(self) -> None:
        """The receiver wants no answer any more."""
        if self.receiver is not None:
            self._reset()
            self._end()

    def _reset(self) -> None:
        try:
            self._site.http2.reset_stream(self._number, ErrorCodes.CANCEL)
        except (ProtocolError, StreamClosedError):
            return
        self._site.push()

    def _end(self) -> None:
        self.receiver = None
        self._site.over(self._number)

    def close(self) -> None:
        """Streams do not wait for requests."""

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._give_credit()
        self._site.push()

    def _give_credit(self) -> None:
        if self._credit and not self._paused:
            self._site.http2.acknowledge_received_data(self._credit, self._number)
            self._credit = 0

    # --- from the site ------------------------------------------------------------------------------------

    def answered(self, headers: list[tuple[bytes, bytes]], *, ended: bool) -> None:
        """The head of the answer."""
        receiver = self.receiver
        if receiver is None:
            return
        try:
            head = self._head(headers, ended=ended)
        except (BadHeaders, ValueError):
            self._reset()
            self.failed(Failure.PROTOCOL, "invalid answer")
            return
        if ended:
            self._end()
        receiver.answered(head, b"", ended)

    def _head(self, headers: list[tuple[bytes, bytes]], *, ended: bool) -> ResponseHead:
        from mesh_iptables.proxy.answers import reason_phrase

        pseudo, fields = decoded(headers)
        status = int(pseudo.get("status", ""))
        if status == 204:
            fields = without(fields, ("content-length",))  # which HTTP/1 must not say of it
        names = frozenset(name for name, _ in fields)
        bodiless = self._is_head or status < 200 or status in (204, 304)
        if ended and "content-length" not in names and not bodiless:
            fields = [*fields, ("content-length", "0")]
        framing = 0 if ended or bodiless else CHUNKED
        if "content-length" in names and not bodiless:
            framing = int(dict(fields)["content-length"])
        return ResponseHead(status, reason_phrase(status), 1, fields, framing, names=names)

    def informed(self, headers: list[tuple[bytes, bytes]]) -> None:
        """An 1xx answer."""
        if self.receiver is not None:
            pseudo, fields = decoded(headers)
            self.receiver.interim(ResponseHead(int(pseudo["status"]), "", 1, fields))

    def takes(self, data: bytes, credit: int, *, ended: bool) -> None:
        """A piece of the body."""
        receiver = self.receiver
        self._credit += credit
        if not ended:
            if receiver is not None and data:
                receiver.answer_body(data, ended=False)
            self._give_credit()
            return
        self._end()
        if receiver is not None:
            receiver.answer_body(data, ended=True)

    def trailed(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Trailers, which mean something to gRPC."""
        _, fields = decoded(headers)
        if self.receiver is not None:
            self.receiver.trailers(fields)

    def ended(self) -> None:
        """The answer is complete."""
        receiver = self.receiver
        if receiver is not None:
            self._end()
            receiver.answer_body(b"", ended=True)

    def failed(self, failure: Failure, detail: str) -> None:
        """There will be no (complete) answer."""
        receiver = self.receiver
        self._end()
        if receiver is not None:
            receiver.upstream_failed(failure, detail)
