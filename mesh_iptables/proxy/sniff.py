"""First bytes in; what they speak out: TLS with its server name, HTTP, neither, or "need more". Pure.

Nothing is consumed: `Sniffer.data` holds all that was fed, for whoever serves the connection next. The work done
per byte is bounded, however small the pieces are that a peer sends: the TLS side walks record headers once, the
HTTP side looks for the end of the line only in what is new.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LIMIT = 65536  # bytes without a decision
H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

TOKEN_CHARACTERS = rb"!#$%&'*+\-.^_`|~0-9A-Za-z"
# Blanks as Envoy reads them: any run separates, a version may be missing
_REQUEST_LINE = re.compile(
    rb"(?:CONNECT[ \t]+[\x21-\x7e]+|["
    + TOKEN_CHARACTERS
    + rb"]++[ \t]+(?:[/*]|[A-Za-z][A-Za-z0-9+.\-]*+://)[\x21-\x7e]*+)(?:[ \t]+HTTP/([0-9]\.[0-9]))?[ \t]*+\r?\n"
)
_TOKEN_START = re.compile(b"[" + TOKEN_CHARACTERS + b"]")
_TLS_DECIDES = 5  # bytes of a record's header; with fewer, Envoy's TLS inspection keeps everybody waiting

_HANDSHAKE, _CLIENT_HELLO = 22, 1
_RECORD_LIMIT = 16384 + 2048
_SERVER_NAME, _ALPN = 0, 16


class SniffLimit(Exception):
    """The first 64 KiB decided nothing."""


@dataclass(frozen=True, slots=True)
class Sniffed:
    """What the first bytes are, in Envoy's words.

    `server_name` is lower-case, empty without the extension. `protocols` is the ALPN of TLS, else `http/1.0`,
    `http/1.1` or `h2c` alone, or nothing.
    """

    transport: str = "raw_buffer"
    server_name: str = ""
    protocols: tuple[str, ...] = ()


NOTHING = Sniffed()


class Sniffer:
    """Collects the first bytes of one connection until they say what it speaks."""

    __slots__ = ("_hello", "_http", "_line_from", "_record_at", "_tls", "data")

    def __init__(self, *, tls: bool, http: bool) -> None:
        self._tls = tls
        self._http = http
        self.data = bytearray()
        self._hello = bytearray()  # the handshake message, taken out of its records
        self._record_at = 0
        self._line_from = 0

    def feed(self, data: bytes) -> Sniffed | None:
        """What the bytes so far are, or None for "need more"; raises SniffLimit."""
        self.data += data
        found = self._sniff()
        if found is None and len(self.data) >= LIMIT:
            raise SniffLimit
        return found

    def _sniff(self) -> Sniffed | None:
        if not self.data:
            return None
        if self._tls and len(self.data) < _TLS_DECIDES:
            return None
        if self._tls and self.data[0] == _HANDSHAKE:
            try:
                hello = self._client_hello()
            except ValueError:
                self._tls = False
            else:
                return None if hello is None else parse_client_hello(hello)
        return self._request_line() if self._http else NOTHING

    def _client_hello(self) -> bytes | None:
        """The body of a complete ClientHello; ValueError when these records cannot hold one."""
        data, at = self.data, self._record_at
        # what comes behind the hello (early data, for one) is not looked at
        while len(data) >= at + 5 and len(self._hello) < self._hello_end():
            length = data[at + 3] << 8 | data[at + 4]
            if data[at] != _HANDSHAKE or data[at + 1] != 3 or not 0 < length <= _RECORD_LIMIT:
                raise ValueError("not a handshake record")
            if len(data) < at + 5 + length:
                break
            self._hello += data[at + 5 : at + 5 + length]
            at += 5 + length
        self._record_at = at
        hello = self._hello
        if hello and hello[0] != _CLIENT_HELLO:
            raise ValueError("not a ClientHello")
        end = self._hello_end()
        return bytes(hello[4:end]) if len(hello) >= end else None

    def _hello_end(self) -> int:
        """How long the handshake message is, as far as that is known."""
        return 4 + int.from_bytes(self._hello[1:4], "big") if len(self._hello) >= 4 else 4

    def _request_line(self) -> Sniffed | None:
        data = self.data
        if data.startswith(H2_PREFACE):
            return Sniffed(protocols=("h2c",))
        if H2_PREFACE.startswith(data):
            return None
        end = data.find(b"\n", self._line_from)
        self._line_from = len(data)
        if end < 0:
            return None if _TOKEN_START.match(data) else NOTHING
        line = _REQUEST_LINE.fullmatch(data, 0, end + 1)
        if line is None:
            return NOTHING
        return Sniffed(protocols=("http/1.1" if line[1] == b"1.1" else "http/1.0",))


def parse_client_hello(body: bytes) -> Sniffed:
    """Server name and ALPN of a ClientHello body (RFC 8446 4.1.2); a malformed one is TLS without either."""
    try:
        extensions = _extensions(body)
        return Sniffed("tls", _server_name(extensions.get(_SERVER_NAME)), _alpn(extensions.get(_ALPN)))
    except (IndexError, ValueError):
        return Sniffed("tls")


def _take(data: bytes, at: int, width: int) -> tuple[bytes, int]:
    """The vector whose `width`-byte length stands at `at`, and where it ends; ValueError when cut short."""
    start = at + width
    end = start + int.from_bytes(data[at:start], "big")
    if start > len(data) or end > len(data):
        raise ValueError("vector cut short")
    return data[start:end], end


def _extensions(body: bytes) -> dict[int, bytes]:
    _, at = _take(body, 34, 1)  # version and random, then the session id
    _, at = _take(body, at, 2)  # cipher suites
    _, at = _take(body, at, 1)  # compression methods
    found: dict[int, bytes] = {}
    if at == len(body):
        return found
    block, _ = _take(body, at, 2)
    at = 0
    while at < len(block):
        kind = int.from_bytes(block[at : at + 2], "big")
        if kind in found:  # two readers could take different ones (RFC 8446, 4.2)
            raise ValueError("extension given twice")
        found[kind], at = _take(block, at + 2, 2)
    return found


def _server_name(extension: bytes | None) -> str:
    if not extension:
        return ""
    names, _ = _take(extension, 0, 2)
    if not names or names[0] != 0:  # 0 is host_name, the only kind there is
        return ""
    name, _ = _take(names, 1, 2)
    return name.decode("ascii").lower()


def _alpn(extension: bytes | None) -> tuple[str, ...]:
    if not extension:
        return ()
    block, _ = _take(extension, 0, 2)
    names: list[str] = []
    at = 0
    while at < len(block):
        name, at = _take(block, at, 1)
        names.append(name.decode("latin-1"))
    return tuple(names)
