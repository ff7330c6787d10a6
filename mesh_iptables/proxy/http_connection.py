"""A client's HTTP/1.x connection: requests one after the other, each answered before the next is begun.

Pipelined requests wait in `_buffer`, so answers cannot change places. Whether the connection outlives an answer is
decided when its head is sent: not if the request was not read to its end by then, as what follows could not be told
from its body. Such a connection is closed after the client had time to read the answer.
"""

from __future__ import annotations

from mesh_iptables.proxy.answers import AnswerHead, LocalReply, local_lines
from mesh_iptables.proxy.cluster import Host
from mesh_iptables.proxy.exchange import Exchange
from mesh_iptables.proxy.express import Express
from mesh_iptables.proxy.http1 import (
    CHUNKED,
    LAST_CHUNK,
    BodyReader,
    Fields,
    Malformed,
    ResponseHead,
    body_reader,
    chunk,
    encode_head,
    head_end,
    may_begin_request,
)
from mesh_iptables.proxy.router import Plan, Router, Way, malformed_reply
from mesh_iptables.proxy.sniff import H2_PREFACE
from mesh_iptables.proxy.surroundings import Surroundings
from mesh_iptables.proxy.upstream import Http1Upstream
from mesh_iptables.proxy.wire import Address, Failure, Timer, Wire

_WAITING_LIMIT = 65536  # bytes of pipelined requests that are read ahead
_KEPT = (b"connection: keep-alive\r\n", b"")  # what HTTP/1.0 and HTTP/1.1 must say of a connection that stays open
_CLOSE_DELAY = 1.0  # seconds to read the last answer before the connection goes
_TUNNEL_IDLE = 3600.0
_H2_START = H2_PREFACE[:12]  # as much of it makes Envoy change over
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class HttpConnection:
    """Owns the client's wire; is the `Client` of one `Exchange` at a time."""

    __slots__ = (
        "_answering",
        "_body",
        "_buffer",
        "_close",
        "_coded",
        "_exchange",
        "_express",
        "_is_head",
        "_linger",
        "_minor",
        "_original",
        "_paused",
        "_pumping",
        "_shut",
        "_silent",
        "_timer",
        "_upgrading",
        "_wire",
        "last_used",
        "peer",
        "router",
        "sni",
        "surroundings",
    )

    def __init__(
        self, surroundings: Surroundings, router: Router, wire: Wire, peer: Address, original: Address, sni: str = ""
    ) -> None:
        self.surroundings = surroundings
        self.router = router
        self._wire = wire
        self.peer = peer
        self._original = original
        self.sni = sni
        self._buffer = b""
        self._exchange: Exchange | Express | None = None
        self._express = Express(self, original)
        self._body: BodyReader | None = None  # of the request that is being read
        self._pumping = False
        self._paused = False  # the client's wire
        self._answering = False  # the head of the current answer has gone, its end has not
        self._is_head = False
        self._minor = 1
        self._coded = False  # the answer uses the chunked coding
        self._close = False  # after the current answer
        self._shut = False  # no further request is read
        self._silent = False  # the client sends no more
        self._upgrading = False  # the request asks for a websocket
        self._linger = False  # the answer must have time to be read
        self._timer: Timer | None = None
        self.last_used = surroundings.outside.now

    # --- events of the wire -------------------------------------------------------------------------------

    def connected(self) -> None:
        pass  # it was, before we got it

    def received(self, data: bytes) -> None:
        if self._shut:
            return
        if self._exchange is None and not self._buffer:
            plan = self.router.known(data)
            way = plan.express if plan is not None and self._timer is None else None
            if plan is not None and way is not None:
                self._send(plan, way)
                return
        self._buffer = self._buffer + data if self._buffer else data
        self._pump()

    def _send(self, plan: Plan, way: Way) -> None:
        """Take the short way if it is open, see `express`."""
        if not self._express.takes(plan, way):
            self._start(plan, self._express.host)
            return
        head = plan.head
        self._is_head = head.method == "HEAD"
        self._minor = head.minor
        self._close = self._close or not head.keep_alive
        self.last_used = self._express.started
        self._exchange = self._express

    def hand_over(self, exchange: Exchange) -> None:
        """The short way was not for this request."""
        if self._exchange is self._express:
            self._exchange = exchange

    def _pump(self) -> None:
        """Read on as far as the bytes and the order of answers allow."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._buffer and not self._shut:
                if self._body is not None:
                    self._read_body(self._body)
                elif self._exchange is not None:
                    if len(self._buffer) > _WAITING_LIMIT:
                        self.pause_body()
                    break
                elif not self._begin():
                    break
        finally:
            self._pumping = False

    def _begin(self) -> bool:
        """Begin with the request at the front of the buffer, if its head is there."""
        data = self._buffer
        plan = self.router.known(data)
        if plan is not None:  # one head, nothing behind it, and not for the first time
            self._buffer = b""
            self._start(plan)
            return True
        end = head_end(data)
        if end < 0 or data[0] in b"\r\n":
            return self._incomplete(data)
        if self._timer is not None:
            self._cancel_timer()
        try:
            plan = self.router.plan(data[:end])
        except Malformed as error:
            if data.startswith(_H2_START):
                return self._turn_to_http2(data)
            self._refuse(malformed_reply(error))
            return False
        self._buffer = data[end:]
        self._start(plan)
        return True

    def _start(self, plan: Plan, host: Host | None = None) -> None:
        """Begin an exchange; with `host` if one was chosen for it already."""
        if self._timer is not None:
            self._cancel_timer()
        head = plan.head
        self._is_head = head.method == "HEAD"
        self._minor = head.minor
        self._close = self._close or not head.keep_alive
        self.last_used = self.surroundings.outside.now
        exchange = self._exchange = Exchange(
            self.surroundings, self.router, self, plan, self.peer, self._original, self.sni
        )
        self._upgrading = head.upgrade == "websocket"
        if plan.wants_continue:
            self._wire.send(_CONTINUE)
        if head.framing == 0 or self._upgrading:
            exchange.begin(b"", ended=True, host=host)
            return
        self._body = body_reader(head.framing)
        # what came along of the body is read first when it saves a second send; a refusal must not wait for it
        if self._buffer and exchange.asks_upstream():
            self._begin_with_body(exchange, self._body)
        else:
            exchange.begin(b"", ended=False)

    def _begin_with_body(self, exchange: Exchange, body: BodyReader) -> None:
        try:
            payload = body.feed(self._buffer)
        except Malformed as error:
            self._malformed_body(error)
            return
        ended = body.rest is not None
        self._buffer = body.rest or b""
        if ended:
            self._body = None
        exchange.begin(payload, ended)

    def _incomplete(self, data: bytes) -> bool:
        """Judge a head that is not complete; True when something was done about it."""
        stripped = data.lstrip(b"\r\n")
        if len(stripped) < len(data):  # empty lines before a request are harmless (RFC 9112, 2.2)
            self._buffer = stripped
            return bool(stripped)
        if data.startswith(_H2_START):
            return self._turn_to_http2(data)
        if not may_begin_request(data) and not H2_PREFACE.startswith(data):
            self._refuse(malformed_reply(Malformed("not HTTP")))
        elif len(data) > self.router.behaviour.max_header_bytes:
            error = Malformed("headers too large", 431, "Request Header Fields Too Large")
            self._refuse(malformed_reply(error))
        elif self._timer is None:
            timeout = self.router.behaviour.header_timeout
            if timeout:
                self._timer = self.surroundings.outside.call_later(timeout, self._head_timed_out)
        return False

    def _head_timed_out(self) -> None:
        self._timer = None
        self._refuse(LocalReply(408, "Request Timeout", flags="DT", detail="request_header_timeout", closes=True))

    def _read_body(self, body: BodyReader) -> None:
        data, self._buffer = self._buffer, b""
        try:
            payload = body.feed(data)
        except Malformed as error:
            self._malformed_body(error)
            return
        ended = body.rest is not None
        if ended:
            self._buffer = body.rest or b""
            self._body = None
        if isinstance(self._exchange, Exchange) and (payload or ended):
            self._exchange.body(payload, ended)

    def _malformed_body(self, error: Malformed) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_gone()
        if exchange is None or self._answering:
            self._wire.close()
            self._shut = True
        else:
            self._refuse(malformed_reply(error))

    def _refuse(self, reply: LocalReply) -> None:
        """Answer what is no request, and close."""
        self.surroundings.stats.requests[reply.status] += 1
        self._is_head, self._minor, self._close = False, 1, True
        style = self.router.style
        self.reply(reply, reply.head(style), local_lines(style, self.surroundings.outside.date_line()))
        self.surroundings.refused(reply, self.peer, self._original, self.sni)

    def _turn_to_http2(self, data: bytes) -> bool:
        from mesh_iptables.proxy.http2 import Http2Connection  # few clients speak it in clear text

        self._shut = True
        connection = Http2Connection(self.surroundings, self.router, self._wire, self.peer, self._original)
        self._wire.handler = connection
        connection.received(data)
        return False

    def ended(self) -> None:
        self._silent = True
        if self._exchange is None:
            self._cancel_timer()
            self._shut = True
            self._wire.close()
        elif self._body is not None:  # the rest of the request will never come
            self._gone()
            self._wire.close()
        else:
            self._close = True  # the answer may still be read

    def broken(self, failure: Failure, detail: str) -> None:  # noqa: ARG002
        self._gone()

    def _gone(self) -> None:
        self._shut = True
        self._cancel_timer()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_gone()

    def drained(self) -> None:
        if self._exchange is not None:
            self._exchange.client_drained()

    def retire(self) -> None:
        """No further request: an idle connection goes now, a busy one after its answer."""
        self._close = True
        if self._exchange is None and not self._shut and not self._buffer:
            self._shut = True
            self._wire.close()

    # --- commands of the exchange -------------------------------------------------------------------------

    @property
    def unsent(self) -> int:
        return self._wire.unsent

    def interim(self, head: ResponseHead) -> None:
        if self._minor == 1:
            self._wire.send(encode_head(f"HTTP/1.1 {head.status} {head.reason}", head.fields))

    def answer(self, head: AnswerHead, extra: bytes, payload: bytes, ended: bool) -> None:
        chunked = head.framing == CHUNKED and self._minor == 1
        if head.framing == CHUNKED and self._minor == 0:
            self._close = True  # only the end of the connection can end such a body
        if self._upgrading:
            self._close = self._linger = True  # the client may have sent bytes for the tunnel it did not get
        self._coded = chunked and not self._is_head
        self._send_head(head, extra, payload, chunked, ended)
        if ended:
            self._answered()
        else:
            self._answering = True

    def answer_whole(self, head: AnswerHead, extra: bytes, payload: bytes) -> None:
        """Like `answer`, for all of an answer; short where nothing is out of the ordinary."""
        if self._close or self._is_head or self._minor != 1 or self._buffer or self._paused or head.framing < 0:
            self.answer(head, extra, payload, ended=True)
            return
        self._exchange = None
        self._wire.send(b"%b%b\r\n%b" % (head.plain(), extra, payload))

    def _send_head(self, head: AnswerHead, extra: bytes, payload: bytes, chunked: bool, ended: bool) -> None:
        if self._body is not None:
            self._close = True
        close = b"connection: close\r\n" if self._close else _KEPT[self._minor]
        start = head.http1(minor=self._minor, coded=chunked)
        if self._is_head:
            payload = b""
        elif self._coded:
            payload = self._encoded(payload, ended)
        self._wire.send(b"%b%b%b\r\n%b" % (start, extra, close, payload))

    def _encoded(self, payload: bytes, ended: bool) -> bytes:
        coded = chunk(payload) if payload else b""
        return coded + LAST_CHUNK if ended else coded

    def answer_body(self, payload: bytes, ended: bool) -> None:
        if not self._is_head:
            self._wire.send(self._encoded(payload, ended) if self._coded else payload)
        if ended:
            self._answered()

    def trailers(self, fields: Fields) -> None:
        """Envoy drops them, too."""

    def reply(self, reply: LocalReply, head: AnswerHead, extra: bytes) -> None:
        # Envoy ends the connection after its own 400, whatever the reason, and after its own answers to HTTP/1.0
        self._linger = reply.closes or self._upgrading or reply.status == 400
        self._close = self._close or self._linger or self._minor == 0
        bodiless = reply.status in (204, 304)
        chunked = self._is_head and not reply.text and not bodiless  # as Envoy answers a HEAD without a length
        if not reply.text and not self._is_head and not bodiless:
            extra += b"content-length: 0\r\n"
        self._coded = False
        self._send_head(head, extra, reply.text.encode(), chunked, ended=True)
        self._answered()

    def _answered(self) -> None:
        """The answer has been given; on to the next request, or to the end."""
        self._exchange = None
        self._coded = self._answering = False
        if self._close:
            self._finish()
            return
        if self._paused:
            self.resume_body()
        if self._buffer and not self._pumping:
            self.surroundings.outside.call_later(0.0, self._pump)

    def _finish(self) -> None:
        """Close: at once when the client asked for it, else as Envoy does it, after the client could read the answer.

        Unread bytes would turn the close into a reset, which may overtake the answer.
        """
        self._shut = True
        if self._silent or (not self._linger and self._body is None and not self._buffer):
            self._wire.close()
            return
        self._buffer, self._body = b"", None
        self._wire.resume()
        self._timer = self.surroundings.outside.call_later(_CLOSE_DELAY, self._wire.close)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def break_off(self) -> None:
        self._exchange = None
        self._shut = True
        self._wire.close()

    def switch(self, head: AnswerHead, extra: bytes, upstream: Http1Upstream, rest: bytes) -> None:
        self._exchange = None
        self._shut = True
        start = head.http1(minor=1, coded=False)
        self._wire.send(b"%b%b\r\n%b" % (start, extra, rest))
        wire = upstream.surrender()
        if self._buffer:
            wire.send(self._buffer)

        def done(up: int, down: int) -> None:  # noqa: ARG001
            upstream.surrendered_ended()

        self.surroundings.outside.relay(self._wire, wire, done, _TUNNEL_IDLE)

    def pause_body(self) -> None:
        self._paused = True
        self._wire.pause()

    def resume_body(self) -> None:
        if self._paused and not self._shut:
            self._paused = False
            self._wire.resume()
