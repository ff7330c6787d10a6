"""A client's HTTP/2 connection in clear text (prior knowledge): every stream is one exchange. No I/O of its own.

The protocol itself is the library `h2`'s, loaded when the first client speaks it. A stream gives the peer credit for
what has been passed on only, so that a slow upstream slows its own stream and no other.
"""

from __future__ import annotations

import re

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

from mesh_iptables.proxy.answers import AnswerHead, LocalReply
from mesh_iptables.proxy.exchange import Exchange
from mesh_iptables.proxy.http1 import CHUNKED, HTTP2, METHODS, Fields, RequestHead, ResponseHead
from mesh_iptables.proxy.router import Router
from mesh_iptables.proxy.surroundings import Surroundings
from mesh_iptables.proxy.upstream import Http1Upstream
from mesh_iptables.proxy.wire import Address, Failure, Wire

HeaderList = list[tuple[str, str]]

_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*+")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]++")
_TARGET = re.compile(r"[^\x00-\x20\x7f]++")
_STREAMS = 100
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})


class BadHeaders(Exception):
    """A header list that is no request or answer."""


def decoded(headers: list[tuple[bytes, bytes]]) -> tuple[dict[str, str], Fields]:
    """Pseudo-headers without their colon, and the fields; raises BadHeaders."""
    pseudo: dict[str, str] = {}
    fields: Fields = []
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if not _VALUE.fullmatch(value):
            raise BadHeaders(f"invalid value of {name}")
        if name.startswith(":"):
            pseudo[name[1:]] = value
        elif _NAME.fullmatch(name):
            fields.append((name, value))
        else:
            raise BadHeaders("invalid name")
    return pseudo, fields


def request_head(headers: list[tuple[bytes, bytes]], *, ended: bool) -> RequestHead:
    """A request's head; raises BadHeaders."""
    pseudo, fields = decoded(headers)
    method, target = pseudo.get("method", ""), pseudo.get("path", "*" if pseudo.get("method") == "CONNECT" else "")
    if method not in METHODS or not _TARGET.fullmatch(target):
        raise BadHeaders("invalid request")
    if "authority" in pseudo:
        fields = [("host", pseudo["authority"]), *(field for field in fields if field[0] != "host")]
    names = frozenset(name for name, _ in fields)
    length = next((value for name, value in fields if name == "content-length"), "")
    framing = 0 if ended else int(length) if length.isdecimal() and len(length) < 19 else CHUNKED
    return RequestHead(method, target, HTTP2, _with_one_cookie(fields), framing, names=names)


def _with_one_cookie(fields: Fields) -> Fields:
    """Cookies may come as crumbs (RFC 9113, 8.2.3)."""
    crumbs = [value for name, value in fields if name == "cookie"]
    if len(crumbs) < 2:
        return fields
    return [*(field for field in fields if field[0] != "cookie"), ("cookie", "; ".join(crumbs))]


def encoded(fields: Fields) -> list[tuple[bytes, bytes]]:
    """Fields as bytes: latin-1, in which every byte of a message has its own character."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]


def field_lines(extra: bytes) -> Fields:
    """Field lines as `exchange` makes them, taken apart."""
    lines = extra.decode("latin-1").split("\r\n")
    return [(name, value) for name, _, value in (line.partition(": ") for line in lines if line)]


class Outbox:
    """The body of one stream on its way out, as far as the peer's windows allow."""

    def __init__(self, http2: H2Connection, stream: int) -> None:
        self._http2 = http2
        self._stream = stream
        self._data = b""
        self._ends = False
        self.trailers: Fields = []
        self.done = False

    def __len__(self) -> int:
        return len(self._data)

    def put(self, data: bytes, *, ends: bool) -> None:
        self._data += data
        self._ends = self._ends or ends
        self.flush()

    def flush(self) -> None:
        """Send what the windows take; the caller sends what h2 then holds."""
        while not self.done:
            window = min(self._http2.local_flow_control_window(self._stream), self._http2.max_outbound_frame_size)
            part = self._data[: max(window, 0)]
            self._data = self._data[len(part) :]
            last = self._ends and not self._data
            if part or last:
                self._http2.send_data(self._stream, part, end_stream=last and not self.trailers)
            if last and self.trailers:
                self._http2.send_headers(self._stream, encoded(self.trailers), end_stream=True)
            self.done = last
            if not part:
                return


class Http2Connection:
    """Owns the client's wire."""

    def __init__(
        self, surroundings: Surroundings, router: Router, wire: Wire, peer: Address, original: Address
    ) -> None:
        self.surroundings = surroundings
        self.router = router
        self.wire = wire
        self.peer = peer
        self.original = original
        self.http2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self.http2.update_settings(
            {
                SettingCodes.MAX_CONCURRENT_STREAMS: _STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: router.behaviour.max_header_bytes,
            }
        )
        self.http2.initiate_connection()
        self._streams: dict[int, Http2Stream] = {}
        self._retired = False
        self.last_used = surroundings.outside.now

    # --- events of the wire -------------------------------------------------------------------------------

    def connected(self) -> None: ...

    def received(self, data: bytes) -> None:
        self.last_used = self.surroundings.outside.now
        try:
            events = self.http2.receive_data(data)
        except ProtocolError:
            self.push()
            self._end()
            self.wire.close()
            return
        for event in events:
            self._handle(event)
        self.push()

    def _handle(self, event: Event) -> None:
        match event:
            case RequestReceived(stream_id=number, headers=headers) if number and headers:
                self._begin(number, headers, ended=event.stream_ended is not None)
            case DataReceived(stream_id=number, data=data, flow_controlled_length=credit) if number:
                self._data(number, data or b"", credit or 0, ended=event.stream_ended is not None)
            case TrailersReceived(stream_id=number) | StreamEnded(stream_id=number) if number in self._streams:
                self._streams[number].ends()
            case StreamReset(stream_id=number) if number in self._streams:
                self._streams.pop(number).gone()
            case WindowUpdated():
                for stream in list(self._streams.values()):
                    stream.flush()
            case ConnectionTerminated():
                self._retired = True
            case _:
                pass

    def _begin(self, number: int, headers: list[tuple[bytes, bytes]], *, ended: bool) -> None:
        try:
            head = request_head(headers, ended=ended)
        except BadHeaders:
            self.http2.reset_stream(number, ErrorCodes.PROTOCOL_ERROR)
            return
        stream = self._streams[number] = Http2Stream(self, number, head, ended=ended)
        stream.begin()

    def _data(self, number: int, data: bytes, credit: int, *, ended: bool) -> None:
        stream = self._streams.get(number)
        if stream is None:
            self.http2.acknowledge_received_data(credit, number)
        else:
            stream.takes(data, credit, ended=ended)

    def push(self) -> None:
        """Send what h2 has to send."""
        data = self.http2.data_to_send()
        if data:
            self.wire.send(data)

    def over(self, number: int) -> None:
        """A stream has been answered, or given up."""
        self._streams.pop(number, None)
        self.push()
        if self._retired and not self._streams:
            self.wire.close()

    def drained(self) -> None:
        for stream in list(self._streams.values()):
            stream.exchange.client_drained()

    def ended(self) -> None:
        self._retired = True
        if not self._streams:
            self.wire.close()

    def broken(self, failure: Failure, detail: str) -> None:  # noqa: ARG002
        self._end()

    def _end(self) -> None:
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.gone()

    def retire(self) -> None:
        """No further request; see `HttpConnection.retire`."""
        self._retired = True
        self.http2.close_connection()
        self.push()
        if not self._streams:
            self.wire.close()


class Http2Stream:
    """One request: the `Client` of its exchange."""

    def __init__(self, connection: Http2Connection, number: int, head: RequestHead, *, ended: bool) -> None:
        self._connection = connection
        self._number = number
        self._ended = ended
        self._credit = 0  # received, and not yet given back
        self._paused = False
        self._over = False
        self._is_head = head.method == "HEAD"
        self._out = Outbox(connection.http2, number)
        plan = connection.router.plan_for(head)
        self._wants_continue = plan.wants_continue
        self.exchange = Exchange(
            connection.surroundings, connection.router, self, plan, connection.peer, connection.original
        )

    def begin(self) -> None:
        if self._wants_continue and not self._ended:
            self._connection.http2.send_headers(self._number, [(":status", "100")])
        self.exchange.begin(b"", self._ended)

    # --- from the client ----------------------------------------------------------------------------------

    def takes(self, data: bytes, credit: int, *, ended: bool) -> None:
        """A piece of the request's body."""
        self._credit += credit
        self._ended = self._ended or ended
        if data or ended:
            self.exchange.body(data, ended)
        self._give_credit()

    def ends(self) -> None:
        """The request is complete."""
        if not self._ended:
            self._ended = True
            self.exchange.body(b"", ended=True)

    def _give_credit(self) -> None:
        if self._credit and not self._paused and not self._over:
            self._connection.http2.acknowledge_received_data(self._credit, self._number)
            self._credit = 0

    def gone(self) -> None:
        """The client wants no answer."""
        self._over = True
        self.exchange.client_gone()

    def flush(self) -> None:
        """The client takes more."""
        if self._over:
            return
        self._out.flush()
        if self._out.done:
            self._close()
        elif not self._out:
            self.exchange.client_drained()

    # --- commands of the exchange -------------------------------------------------------------------------

    @property
    def unsent(self) -> int:
        return len(self._out) + self._connection.wire.unsent

    def interim(self, head: ResponseHead) -> None:
        self._connection.http2.send_headers(self._number, encoded([(":status", str(head.status)), *head.fields]))
        self._connection.push()

    def answer(self, head: AnswerHead, extra: bytes, payload: bytes, ended: bool) -> None:
        fields = [field for field in (*head.fields, *field_lines(extra)) if field[0] not in _HOP_BY_HOP]
        alone = self._is_head or (ended and not payload)
        self._send_headers(head.status, fields, ends=alone)
        if alone:
            self._close()
        else:
            self.answer_body(payload, ended)

    def _send_headers(self, status: int, fields: Fields, *, ends: bool) -> None:
        whole = encoded([(":status", str(status)), *fields])
        self._connection.http2.send_headers(self._number, whole, end_stream=ends)

    def answer_body(self, payload: bytes, ended: bool) -> None:
        if self._over:
            return
        self._out.put(payload, ends=ended)
        if self._out.done:
            self._close()
        else:
            self._connection.push()

    def trailers(self, fields: Fields) -> None:
        self._out.trailers = fields

    def reply(self, reply: LocalReply, head: AnswerHead, extra: bytes) -> None:
        body = b"" if self._is_head else reply.text.encode()
        self._send_headers(reply.status, [*head.fields, *field_lines(extra)], ends=not body)
        if body:
            self._out.put(body, ends=True)
        if not body or self._out.done:
            self._close()

    def break_off(self) -> None:
        if not self._over:
            self._over = True
            self._connection.http2.reset_stream(self._number, ErrorCodes.INTERNAL_ERROR)
            self._connection.over(self._number)

    def _close(self) -> None:
        """The answer is complete; what is still to come of the request is refused."""
        if self._over:
            return
        if not self._ended:
            self._connection.http2.reset_stream(self._number, ErrorCodes.NO_ERROR)
        self._over = True
        self._connection.over(self._number)

    def switch(self, head: AnswerHead, extra: bytes, upstream: Http1Upstream, rest: bytes) -> None:  # noqa: ARG002
        upstream.surrender().abort()
        upstream.surrendered_ended()
        self.break_off()  # nothing can be upgraded in HTTP/2

    def pause_body(self) -> None:
        self._paused = True

    def resume_body(self) -> None:
        self._paused = False
        self._give_credit()
        self._connection.push()
