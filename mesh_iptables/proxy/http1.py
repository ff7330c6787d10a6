"""HTTP/1.x messages: heads in, checked values out; bodies in, payload out. Strict, and pure.

One rule keeps requests from being smuggled: a message whose end two readers could see in different places is
refused, and what is forwarded is written anew from the parsed value, never copied. So obsolete folding and bare
LF may be read (they are unambiguous), but two lengths, a length beside `transfer-encoding`, a space before the
colon and unknown codings are errors. Heads are latin-1 text, so that every byte has one character.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Protocol

HEAD_LIMIT = 60 * 1024
RESPONSE_HEAD_LIMIT = 80 * 1024
FIELD_LIMIT = 100

CHUNKED = -1
UNTIL_CLOSE = -2
"""Framing of a body: its length in bytes (0 and up), or one of these two."""

_METHODS = """
    ACL BIND CHECKOUT CONNECT COPY DELETE GET HEAD LINK LOCK MERGE MKACTIVITY MKCALENDAR MKCOL M-SEARCH MOVE NOTIFY
    OPTIONS PATCH POST PROPFIND PROPPATCH PURGE PUT REBIND REPORT SEARCH SOURCE SUBSCRIBE TRACE UNBIND UNLINK UNLOCK
    UNSUBSCRIBE
"""
METHODS = frozenset(_METHODS.split())
"""Envoy knows these; any other is a codec error."""

_REQUEST_LINE = re.compile(r"([A-Z\-]++)[ \t]+([\x21-\x7e]++)(?:[ \t]+HTTP/([0-9]\.[0-9]))?[ \t]*+\r?\n")
_ABSOLUTE = re.compile(r"https?://", re.IGNORECASE)
_AUTHORITY = re.compile(r"[A-Za-z0-9!$&'()*+,;=:@%\[\]~_.\-]*+")
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?\r?\n")
_FIELD = re.compile(
    r"^([!#$%&'*+\-.^_`|~0-9A-Za-z]++):[ \t]*+([\t\x20-\x7e\x80-\xff]*+)\r?\n",  # possessive: no quadratic retry
    re.MULTILINE,
)
_FOLD = re.compile(r"\r?\n(?=[ \t])")
_LONE_CR = re.compile(r"\r(?!\n)")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")

HTTP2 = 2
"""Stands for the minor version in heads that came by HTTP/2."""

Fields = list[tuple[str, str]]
"""Header fields in order, names in lower case."""


class Malformed(Exception):
    """A message that must not be forwarded; `status` and `body` are what a client is told."""

    def __init__(self, detail: str, status: int = 400, body: str = "Bad Request") -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.body = body


@dataclass(slots=True)
class RequestHead:
    """`framing` as above (never UNTIL_CLOSE); `minor` is the x of HTTP/1.x; `upgrade` in lower case or empty."""

    method: str
    target: str
    minor: int
    fields: Fields
    framing: int = 0
    keep_alive: bool = True
    upgrade: str = ""
    names: frozenset[str] = field(default=frozenset())

    def get(self, name: str) -> str | None:
        """The value of a field; several are joined with a comma."""
        return joined(self.fields, name) if name in self.names else None


@dataclass(slots=True)
class ResponseHead:
    """`framing` is that of the message itself; a HEAD request changes it for the reader, not here."""

    status: int
    reason: str
    minor: int
    fields: Fields
    framing: int = 0
    keep_alive: bool = True
    upgrade: str = ""
    names: frozenset[str] = field(default=frozenset())

    def get(self, name: str) -> str | None:
        """The value of a field; several are joined with a comma."""
        return joined(self.fields, name) if name in self.names else None


def joined(fields: Fields, name: str) -> str:
    """The values of a field, in order, with commas between them."""
    return ",".join([value for key, value in fields if key == name])


def head_end(data: bytes | bytearray, start: int = 0) -> int:
    """Where the body begins, -1 while the empty line is not there. Lines end with CRLF or LF."""
    crlf = data.find(b"\n\r\n", start)
    bare = data.find(b"\n\n", start, crlf + 2 if crlf >= 0 else len(data))
    if bare >= 0:
        return bare + 2
    return crlf + 3 if crlf >= 0 else -1


def may_begin_request(data: bytes) -> bool:
    """Whether an incomplete head can still become a request's. Like Envoy's, the first line is judged when it is whole;
    before that only its first byte."""
    end = data.find(b"\n") + 1
    if not end:
        return data[0] > ord(" ")
    line = _REQUEST_LINE.fullmatch(data[:end].decode("latin-1"))
    return line is not None and line[1] in METHODS and _is_valid(line[2], line[1])


def parse_request_head(data: bytes | bytearray, *, limit: int = HEAD_LIMIT, count: int = FIELD_LIMIT) -> RequestHead:
    """A whole head with its empty line; raises Malformed."""
    text = data.decode("latin-1")
    line = _REQUEST_LINE.match(text)
    if line is None:
        raise Malformed("invalid request line")
    method, target, version = line.groups()
    if method not in METHODS or not _is_valid(target, method):
        raise Malformed("invalid method or target")
    fields = _parse_fields(text, line.end(), limit, count)
    # whatever is not HTTP/1.1 is treated as HTTP/1.0 is, also a line without a version, which is that of HTTP/0.9
    head = RequestHead(method, target, int(version == "1.1"), fields, names=frozenset([name for name, _ in fields]))
    if "host" in head.names and not _AUTHORITY.fullmatch(joined(fields, "host")):
        raise Malformed("invalid host")
    head.framing = _request_framing(head)
    head.keep_alive = _keeps_alive(head)
    head.upgrade = _upgrade(head)
    return head


def _is_valid(target: str, method: str) -> bool:
    if target[0] == "/" or method == "CONNECT":
        return True
    return method == "OPTIONS" if target == "*" else _ABSOLUTE.match(target) is not None


def parse_response_head(data: bytes | bytearray) -> ResponseHead:
    """A whole head with its empty line; raises Malformed."""
    text = data.decode("latin-1")
    line = _STATUS_LINE.match(text)
    if line is None:
        raise Malformed("invalid status line")
    minor, status, reason = line.groups()
    fields = _parse_fields(text, line.end(), RESPONSE_HEAD_LIMIT, FIELD_LIMIT)
    names = frozenset([name for name, _ in fields])
    head = ResponseHead(int(status), reason or "", int(minor), fields, names=names)
    head.framing = _response_framing(head)
    head.keep_alive = _keeps_alive(head) and head.framing != UNTIL_CLOSE
    head.upgrade = _upgrade(head)
    return head


def _parse_fields(text: str, start: int, limit: int, count: int) -> Fields:
    if len(text) > limit:
        raise Malformed("headers too large", 431, "Request Header Fields Too Large")
    if "\n " in text or "\n\t" in text:
        text, start = _FOLD.sub("", text[start:]), 0
    if text.count("\r", start) != text.count("\r\n", start):
        text, start = _LONE_CR.sub("", text[start:]), 0
    found = _FIELD.findall(text, start)
    if len(found) != text.count("\n", start) - 1:
        raise Malformed("invalid header field")
    if len(found) > count:
        raise Malformed("too many headers", 431, "Request Header Fields Too Large")
    return [(name.lower(), value.rstrip(" \t")) for name, value in found]


def _request_framing(head: RequestHead) -> int:
    if "transfer-encoding" in head.names:
        return _chunked(head)
    return _content_length(head) if "content-length" in head.names else 0


def _response_framing(head: ResponseHead) -> int:
    if head.status < 200 or head.status in (204, 304):
        return 0
    if "transfer-encoding" in head.names:
        return _chunked(head)
    return _content_length(head) if "content-length" in head.names else UNTIL_CLOSE


def _chunked(head: RequestHead | ResponseHead) -> int:
    if "content-length" in head.names:
        raise Malformed("both content-length and transfer-encoding")
    if joined(head.fields, "transfer-encoding").lower() != "chunked":
        raise Malformed("unsupported transfer-encoding", 501, "Not Implemented")
    if head.minor == 0:
        raise Malformed("transfer-encoding in HTTP/1.0")
    return CHUNKED


def _content_length(head: RequestHead | ResponseHead) -> int:
    value = joined(head.fields, "content-length")
    if not (value.isascii() and value.isdigit()) or len(value) > 18:
        raise Malformed("invalid content-length")
    return int(value)


def _keeps_alive(head: RequestHead | ResponseHead) -> bool:
    if "connection" not in head.names:
        return head.minor == 1
    tokens = connection_tokens(head.fields)
    return "keep-alive" in tokens if head.minor == 0 else "close" not in tokens


def _upgrade(head: RequestHead | ResponseHead) -> str:
    if "upgrade" not in head.names or "upgrade" not in connection_tokens(head.fields):
        return ""
    return joined(head.fields, "upgrade").lower()


def connection_tokens(fields: Fields) -> list[str]:
    """What `connection` lists, in lower case."""
    return [token.strip(" \t") for token in joined(fields, "connection").lower().split(",")]


class BodyReader(Protocol):
    """Takes a message's bytes after the head. `rest` is None until the end was seen, then what follows it."""

    rest: bytes | None

    def feed(self, data: bytes) -> bytes:
        """The payload in `data`; raises Malformed."""


class LengthBody:
    """A body of known length."""

    __slots__ = ("_left", "rest")

    def __init__(self, length: int) -> None:
        self._left = length
        self.rest: bytes | None = None if length else b""

    def feed(self, data: bytes) -> bytes:
        left = self._left - len(data)
        if left > 0:
            self._left = left
            return data
        end = self._left
        self._left = 0
        self.rest = data[end:]
        return data[:end] if left else data


class UntilCloseBody:
    """A body that ends with the connection; its owner decides when."""

    __slots__ = ("rest",)

    def __init__(self) -> None:
        self.rest: bytes | None = None

    def feed(self, data: bytes) -> bytes:
        return data


class ChunkedBody:
    """The chunked coding. Extensions are ignored, trailers read and dropped; sizes must end with CRLF."""

    __slots__ = ("_buffer", "_left", "_trailers", "rest")

    def __init__(self) -> None:
        self._buffer = b""  # a line, or the CRLF behind a chunk, not yet complete
        self._left = 0  # payload of the current chunk still to come
        self._trailers = -1  # bytes of trailers read; -1 before the last chunk
        self.rest: bytes | None = None

    def feed(self, data: bytes) -> bytes:
        parts: list[bytes] = []
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        at = 0
        while at < len(data) and self.rest is None:
            if self._left > 2:
                part = data[at : at + self._left - 2]
                parts.append(part)
                at += len(part)
                self._left -= len(part)
            else:
                used = self._line(data, at)
                if not used:
                    self._buffer = data[at:]
                    break
                at += used
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _line(self, data: bytes, at: int) -> int:
        """Take one line of framing; how long it was, 0 while it is incomplete."""
        if self._left:  # only the end of the line behind the payload is left
            return self._chunk_end(data, at)
        end = data.find(b"\n", at) + 1
        if not end:
            if len(data) - at > 4096:
                raise Malformed("chunk line too long")
            return 0
        if self._trailers >= 0:
            self._trailer(data, at, end)
        else:
            self._chunk_size(data[at:end])
        return end - at

    def _chunk_end(self, data: bytes, at: int) -> int:
        # like Envoy, skip whatever stands before the end of the line: what is sent on is written anew
        end = data.find(b"\n", at) + 1
        if not end:
            return len(data) - at
        self._left = 0
        return end - at

    def _chunk_size(self, line: bytes) -> None:
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise Malformed("invalid chunk size")
        size = int(match[1], 16)
        if size:
            self._left = size + 2
        else:
            self._trailers = 0

    def _trailer(self, data: bytes, at: int, end: int) -> None:
        line = data[at:end]
        if line == b"\r\n":
            self.rest = data[end:]
            return
        self._trailers += len(line)
        if self._trailers > HEAD_LIMIT:
            raise Malformed("trailers too large", 431, "Request Header Fields Too Large")
        if not _FIELD.fullmatch(line.decode("latin-1")) or not line.endswith(b"\r\n"):
            raise Malformed("invalid trailer")


def body_reader(framing: int) -> BodyReader:
    """The reader for a framing."""
    if framing == CHUNKED:
        return ChunkedBody()
    return UntilCloseBody() if framing == UNTIL_CLOSE else LengthBody(framing)


def chunk(data: bytes) -> bytes:
    """One chunk of the chunked coding; `data` must not be empty, that would be the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def encode_head(start_line: str, fields: Fields) -> bytes:
    """A head as it goes on the wire."""
    lines = [f"{name}: {value}\r\n" for name, value in fields]
    return f"{start_line}\r\n{''.join(lines)}\r\n".encode("latin-1")
