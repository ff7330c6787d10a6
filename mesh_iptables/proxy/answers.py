"""Answer heads: those of a site on their way to the client, and those the proxy makes itself. Pure."""

from __future__ import annotations

from http import HTTPStatus

from mesh_iptables.policy.model import HeaderOperations, HeaderStyle
from mesh_iptables.proxy.headers import operate, response_fields, without
from mesh_iptables.proxy.http1 import CHUNKED, UNTIL_CLOSE, Fields, ResponseHead


class AnswerHead:
    """A final answer for a client, without what changes from one request to the next (date, timing)."""

    __slots__ = ("_encoded", "dated", "fields", "framing", "reason", "status")

    def __init__(self, status: int, reason: str, fields: Fields, framing: int) -> None:
        self.status = status
        self.reason = reason
        self.fields = fields  # framing fields included, except `transfer-encoding`
        self.framing = CHUNKED if framing == UNTIL_CLOSE else framing
        self.dated = any(name == "date" for name, _ in fields)
        self._encoded: bytes | None = None

    def plain(self) -> bytes:
        """Status line and fields for HTTP/1.1, without the empty line; made once."""
        if self._encoded is None:
            self._encoded = self._encode("HTTP/1.1", "")
        return self._encoded

    def http1(self, *, minor: int, coded: bool) -> bytes:
        """Status line and fields, without the empty line; `coded`: announce the chunked coding."""
        if minor == 1 and not coded:
            return self.plain()
        return self._encode(f"HTTP/1.{minor}", "transfer-encoding: chunked\r\n" if coded else "")

    def _encode(self, version: str, framing: str) -> bytes:
        lines = "".join([f"{name}: {value}\r\n" for name, value in self.fields])
        return f"{version} {self.status} {self.reason}\r\n{lines}{framing}".encode("latin-1")


def reason_phrase(status: int) -> str:
    """Envoy's words; it has none for what it does not know."""
    if status == 418:
        return "Unknown"
    try:
        return _PHRASES.get(status) or HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


_PHRASES = {413: "Payload Too Large", 414: "URI Too Long", 416: "Range Not Satisfiable", 422: "Unprocessable Entity"}


def proxied(
    head: ResponseHead,
    style: HeaderStyle,
    *operations: HeaderOperations,
) -> AnswerHead:
    """A site's answer as the client gets it."""
    fields = response_fields(head)
    for operation in operations:
        fields = operate(fields, operation)
    if style is HeaderStyle.ENVOY:
        fields = [*without(fields, ("server", "x-envoy-upstream-service-time")), ("server", "envoy")]
    return AnswerHead(head.status, head.reason, fields, head.framing)


def refused_upgrade(answer: AnswerHead, method: str) -> AnswerHead:
    """What Envoy makes of an answer to an upgrade that is not 101: its head, without a body."""
    fields = without(answer.fields, ("content-length", "content-type"))
    if method == "HEAD":
        return AnswerHead(answer.status, answer.reason, fields, CHUNKED)
    return AnswerHead(answer.status, answer.reason, [*fields, ("content-length", "0")], 0)


def switching(head: ResponseHead, style: HeaderStyle) -> AnswerHead:
    """A 101 answer."""
    answer = proxied(head, style)
    answer.fields += [("connection", "Upgrade"), ("upgrade", head.upgrade or "websocket")]
    return answer


def local_lines(style: HeaderStyle, date_line: bytes) -> bytes:
    """Field lines of every answer of the proxy's own, which stand behind its fields as they do in Envoy's."""
    return date_line + b"server: envoy\r\n" if style is HeaderStyle.ENVOY else date_line


class LocalReply:
    """An answer of the proxy's own, with what the log says about it.

    `closes`: the connection cannot be used after it. `flags` are Envoy's response flags.
    """

    __slots__ = ("closes", "detail", "fields", "flags", "status", "text")

    def __init__(
        self,
        status: int,
        text: str = "",
        *,
        flags: str = "",
        detail: str = "",
        closes: bool = False,
        fields: Fields | None = None,
    ) -> None:
        self.status = status
        self.text = text
        self.flags = flags
        self.detail = detail
        self.closes = closes
        self.fields = fields or []

    def head(self, style: HeaderStyle, *operations: HeaderOperations) -> AnswerHead:
        """As it goes to the client; nothing in it tells more than the status does. Rules change it as Envoy lets them:
        before the body is described."""
        fields: Fields = list(self.fields)
        for operation in operations:
            fields = operate(fields, operation)
        if self.text:
            fields.append(("content-length", str(len(self.text.encode()))))
            if all(name != "content-type" for name, _ in fields):
                fields.append(("content-type", "text/plain"))
        else:
            fields = without(fields, ("content-type",))
        if style is HeaderStyle.ENVOY:
            fields = without(fields, ("server",))  # comes with `local_lines`
        else:
            fields = [field for field in fields if not field[0].startswith("x-envoy-")]
        return AnswerHead(self.status, reason_phrase(self.status), fields, len(self.text.encode()))
