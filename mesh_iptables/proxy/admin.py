"""The admin endpoints: what an operator or a probe asks, on loopback.

The bounds are small and hard: one request a connection, few connections (`runtime`), little time, a short head. What
takes long to write is written by a child, one at a time, so that asking does not hold up what passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mesh_iptables.proxy.answers import reason_phrase
from mesh_iptables.proxy.apart import Apart, Work
from mesh_iptables.proxy.http1 import Malformed, encode_head, head_end, parse_request_head
from mesh_iptables.proxy.loop import Loop
from mesh_iptables.proxy.wire import Failure, Wire

if TYPE_CHECKING:
    from mesh_iptables.proxy.admin_pages import Page, Running

_LIMIT = 16384  # bytes of a request's head


class Writers:
    """The child that writes a long page, if there is one."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._child: Apart | None = None

    def begin(self, work: Work, written: Callable[[bytes | None], None]) -> Callable[[], None] | None:
        """Have a page written; None if another is being written, else what cancels it."""
        if self._child is not None:
            return None

        def done(data: bytearray, status: int) -> None:
            self._child = None
            written(None if status else bytes(data))

        try:
            child = self._child = Apart(self._loop, work, done)
        except OSError:
            return None

        def cancel() -> None:
            if self._child is child:
                self._child = None
                child.cancel()

        return cancel


class AdminConnection:
    """One request, one answer, close."""

    def __init__(self, running: Running, writers: Writers, wire: Wire) -> None:
        self._running = running
        self._writers = writers
        self._wire = wire
        self._buffer = b""
        self._asked = False
        self._cancel: Callable[[], None] | None = None
        self._head_only = False

    def received(self, data: bytes) -> None:
        if self._asked:
            return
        self._buffer += data
        end = head_end(self._buffer)
        if end < 0 and len(self._buffer) <= _LIMIT:
            return
        self._asked = True
        if not 0 < end <= _LIMIT:
            self._answer((431, "text/plain", "Request Header Fields Too Large\n"))
            return
        try:
            head = parse_request_head(self._buffer[:end])
        except Malformed as error:
            self._answer((error.status, "text/plain", f"{reason_phrase(error.status)}\n"))
            return
        self._buffer = b""
        self._head_only = head.method == "HEAD"
        self._serve(head.method, head.target)

    def _serve(self, method: str, target: str) -> None:
        from mesh_iptables.proxy import admin_pages  # only proxies that are asked need them

        long = admin_pages.long_page(self._running, method, target)
        if long is None:
            self._answer(admin_pages.page(self._running, method, target))
            return
        self._cancel = self._writers.begin(long, self._written)
        if self._cancel is None:
            self._answer((503, "text/plain", "another one is being written\n"))

    def _written(self, data: bytes | None) -> None:
        self._cancel = None
        if data is None:
            self._answer((500, "text/plain", "it could not be written\n"))
        else:
            self._send(200, "application/json", data)

    def _answer(self, page: Page) -> None:
        status, content_type, text = page
        self._send(status, content_type, text.encode())

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        fields = [
            ("content-type", content_type),
            ("cache-control", "no-cache, max-age=0"),
            ("x-content-type-options", "nosniff"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        head = encode_head(f"HTTP/1.1 {status} {reason_phrase(status)}", fields)
        self._wire.send(head if self._head_only else head + body)
        self._wire.close()

    def connected(self) -> None: ...
    def drained(self) -> None: ...
    def broken(self, failure: Failure, detail: str) -> None:  # noqa: ARG002
        self.gone()

    def ended(self) -> None:
        if self._cancel is None:  # else the answer may still be read
            self._wire.close()

    def gone(self) -> None:
        """The connection is over, whoever ended it."""
        if self._cancel is not None:
            self._cancel()
            self._cancel = None
