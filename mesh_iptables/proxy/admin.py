"""The admin endpoints: what an operator or a probe asks, on loopback."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh_iptables.proxy.http1 import Malformed, encode_head, head_end, parse_request_head
from mesh_iptables.proxy.wire import Failure, Wire

if TYPE_CHECKING:
    from mesh_iptables.proxy.runtime import Runtime

_LIMIT = 16384


class AdminConnection:
    """One request, one answer, close."""

    def __init__(self, runtime: Runtime, wire: Wire) -> None:
        self._runtime = runtime
        self._wire = wire
        self._buffer = b""

    def received(self, data: bytes) -> None:
        self._buffer += data
        end = head_end(self._buffer)
        if end < 0 and len(self._buffer) <= _LIMIT:
            return
        try:
            head = parse_request_head(self._buffer[:end])
        except Malformed:
            self._answer(400, "text/plain", "Bad Request\n")
            return
        from mesh_iptables.proxy.admin_pages import page  # only proxies that are asked need them

        self._answer(*page(self._runtime, head.method, head.target))

    def _answer(self, status: int, content_type: str, text: str) -> None:
        body = text.encode()
        fields = [
            ("content-type", content_type),
            ("cache-control", "no-cache, max-age=0"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        self._wire.send(encode_head(f"HTTP/1.1 {status} {'OK' if status == 200 else 'Error'}", fields) + body)
        self._wire.close()

    def connected(self) -> None: ...
    def drained(self) -> None: ...
    def broken(self, failure: Failure, detail: str) -> None: ...
    def ended(self) -> None:
        self._wire.close()
