"""The sites of the outside: what listens on each port of each address, and how it behaves.

A world file describes a port in words ("tls + http", 'tcp, replies "<name>:" + data'); `service_for` reads them.
Every connection is one task; the resets, silences and broken answers are deliberate.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

Handler: TypeAlias = Callable[["Peer"], Awaitable[None]]

HEAD_LIMIT = 1 << 20  # bytes; far above what any proxy under test lets through
PREFACE = b"PRI * HTTP/2.0\r\n\r\n"


@dataclass
class Lab:
    """What all sites share: counters, and the last request for answers that do not echo it."""

    pki: Path
    connections: int = 0
    flaky: Counter[str] = field(default_factory=Counter)
    last: dict[str, Any] | None = None


@dataclass(frozen=True)
class Site:
    """One address of one name."""

    name: str
    address: str
    port: int


@dataclass
class Peer:
    """One accepted connection."""

    lab: Lab
    site: Site
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int  # of the connection, over all sites

    @property
    def tls(self) -> ssl.SSLObject | None:
        found: ssl.SSLObject | None = self.writer.get_extra_info("ssl_object")
        return found

    @property
    def sni(self) -> str | None:
        return getattr(self.tls, "asked_name", None)

    @property
    def client_cn(self) -> str | None:
        certificate = self.tls.getpeercert() if self.tls else None
        return common_name(certificate) if certificate else None

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        raw: socket.socket = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def common_name(certificate: Mapping[str, Any]) -> str | None:
    """CN of the subject of a certificate as ssl's getpeercert gives it."""
    for part in certificate.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return None


# --- ports in words -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Service:
    """What a port does: TLS or not, with or without a client certificate, and the protocol inside."""

    handler: Handler
    tls: bool = False
    mutual: bool = False


def services(ports: Mapping[int, str]) -> dict[int, Service]:
    found: dict[int, Service] = {}
    for port, words in ports.items():
        same = re.fullmatch(r"same as (\d+)", words.strip())
        found[port] = service_for(ports[int(same[1])] if same else words)
    return found


def service_for(words: str) -> Service:
    mutual = words.startswith("mutual tls")
    tls = mutual or words.startswith("tls")
    protocol = re.sub(r"^(mutual )?tls( \+ |, )?", "", words).strip()
    return Service(_handler(protocol), tls=tls, mutual=mutual)


def _handler(protocol: str) -> Handler:
    quoted = [_unescape(text) for text in re.findall(r'"([^"]*)"', protocol)]
    if protocol.startswith("http"):
        return serve_http
    if "server speaks first" in protocol:
        return _talker(quoted[0], quoted[1], echo=True)
    if "reads until EOF" in protocol:
        return _counter(quoted[0])
    if "resets" in protocol:
        return _resetter
    if "replies" in protocol:
        return _talker("", quoted[0], echo=protocol.rstrip().endswith("+ data"))
    raise ValueError(f"no site behaves like {protocol!r}")


def _unescape(text: str) -> str:
    return text.replace("\\n", "\n").replace("\\r", "\r")


def _filled(template: str, peer: Peer, count: int = 0) -> bytes:
    text = template.replace("<name>", peer.site.name).replace("<n>", str(count))
    return text.replace("<CN>", peer.client_cn or "").encode()


def _talker(greeting: str, reply: str, *, echo: bool) -> Handler:
    """Speaks first if there is a greeting, then answers each piece of data it reads."""

    async def serve(peer: Peer) -> None:
        if greeting:
            await peer.send(_filled(greeting, peer))
        while data := await peer.reader.read(65536):
            await peer.send(_filled(reply, peer) + (data if echo else b""))

    return serve


def _counter(answer: str) -> Handler:
    async def serve(peer: Peer) -> None:
        count = 0
        while data := await peer.reader.read(65536):
            count += len(data)
        await peer.send(_filled(answer, peer, count))

    return serve


async def _resetter(peer: Peer) -> None:
    peer.reset()


# --- HTTP/1 -------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """One request as it arrived here."""

    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)


async def serve_http(peer: Peer) -> None:
    while True:
        head = await peer.reader.readuntil(b"\r\n\r\n")
        if head == PREFACE:
            from .http2 import serve_http2  # needs a package that plain fixtures do not

            return await serve_http2(peer, head)
        seen = _parse_head(head)
        if seen.header("expect") and seen.target.startswith("/expect417"):
            return await peer.send(_response(peer, seen, 417, extra=[("connection", "close")]))
        if (seen.header("expect") or "").lower() == "100-continue":
            await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await _read_body(peer.reader, seen)
        peer.lab.last = describe(peer, seen)
        if not await _respond(peer, seen) or seen.version == "HTTP/1.0":
            return None
        if (seen.header("connection") or "").lower() == "close":
            return None


def _parse_head(head: bytes) -> Seen:
    line, *fields = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    method, target, version = line.split(" ", 2)
    pairs = [tuple(each.split(":", 1)) for each in fields]
    return Seen(method, target, version, [(name, value.strip()) for name, value in pairs])


async def _read_body(reader: asyncio.StreamReader, seen: Seen) -> None:
    if "chunked" in (seen.header("transfer-encoding") or "").lower():
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            seen.body += (await reader.readexactly(size + 2))[:-2]
        while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
            name, value = line.decode("latin-1").strip().split(":", 1)
            seen.trailers.append((name, value.strip()))
    elif length := seen.header("content-length"):
        seen.body = await reader.readexactly(int(length))


def describe(peer: Peer, seen: Seen) -> dict[str, Any]:
    """The echo: what the site saw."""
    return {
        "server": peer.site.name,
        "ip": peer.site.address,
        "port": peer.site.port,
        "tls": peer.tls is not None,
        "sni": peer.sni,
        "client_cn": peer.client_cn,
        "method": seen.method,
        "target": seen.target,
        "version": seen.version,
        "headers": seen.headers,
        "body": seen.body.decode("latin-1"),
        "trailers": seen.trailers,
    }


def common_headers(peer: Peer) -> list[tuple[str, str]]:
    return [
        ("server", "world/1.0"),
        ("x-upstream", peer.site.name),
        ("x-upstream-ip", peer.site.address),
        ("x-upstream-conn", str(peer.number)),
    ]


@dataclass(frozen=True)
class Answer:
    """Status, body and headers beyond the common ones, the same for HTTP/1 and HTTP/2."""

    status: int
    body: bytes = b""
    extra: tuple[tuple[str, str], ...] = ()
    omit: str = ""


async def answer_for(peer: Peer, seen: Seen) -> Answer | str:
    """What the path asks for, or the name of a way to break the connection."""
    _, first, *rest = seen.target.split("?")[0].split("/")
    match first:
        case "status" if rest:
            return Answer(int(rest[0]))
        case "delay" if rest:
            await asyncio.sleep(float(rest[0]))
        case "flaky" if len(rest) == 3:
            return _flaky(peer.lab, seen, *rest)
        case "close" | "reset" | "garbage" | "partial" | "http10" | "chunked" | "ws":
            return first
        case "noserver":
            return _echo(peer, seen, omit="server")
        case "bighdr" if rest:
            return _echo(peer, seen, extra=(("x-big", "a" * int(rest[0])),))
    return _echo(peer, seen)


def _echo(peer: Peer, seen: Seen, **changes: Any) -> Answer:
    extra = (("content-type", "application/json"), *changes.pop("extra", ()))
    return Answer(200, json.dumps(describe(peer, seen)).encode(), extra, **changes)


def _flaky(lab: Lab, seen: Seen, key: str, failures: str, code: str) -> Answer | str:
    lab.flaky[key] += 1
    calls = lab.flaky[key]
    if calls > int(failures):
        body = json.dumps({"calls": calls, "attempt_header": seen.header("x-envoy-attempt-count")})
        return Answer(200, body.encode())
    return "reset" if code == "reset" else Answer(int(code), b"flaky")


async def _respond(peer: Peer, seen: Seen) -> bool:
    """Answer one request; false when the connection is over."""
    answer = await answer_for(peer, seen)
    if isinstance(answer, Answer):
        await peer.send(_response(peer, seen, answer.status, answer.body, answer.extra, omit=answer.omit))
        return True
    return await _BREAKS[answer](peer, seen)


def _response(
    peer: Peer,
    seen: Seen,
    status: int,
    body: bytes = b"",
    extra: tuple[tuple[str, str], ...] | list[tuple[str, str]] = (),
    *,
    omit: str = "",
    version: str = "HTTP/1.1",
    framing: str = "length",
) -> bytes:
    headers = [pair for pair in [*common_headers(peer), *extra] if pair[0] != omit]
    if framing == "chunked":
        headers.append(("transfer-encoding", "chunked"))
    elif framing == "length" and status >= 200 and status != 204:
        headers.append(("content-length", str(len(body))))
    lines = [f"{version} {status} {_REASONS.get(status, 'Whatever')}", *(f"{n}: {v}" for n, v in headers)]
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    return head if seen.method == "HEAD" else head + body


_REASONS = {200: "OK", 404: "Not Found", 417: "Expectation Failed", 503: "Service Unavailable"}


async def _close(_peer: Peer, _seen: Seen) -> bool:
    return False


async def _reset(peer: Peer, _seen: Seen) -> bool:
    peer.reset()
    return False


async def _garbage(peer: Peer, _seen: Seen) -> bool:
    await peer.send(b"\x00\x01 this is not HTTP\r\n\r\n")
    return False


async def _partial(peer: Peer, seen: Seen) -> bool:
    await peer.send(_response(peer, seen, 200, b"partial", [("content-length", "100")], framing="none"))
    return False


async def _http10(peer: Peer, seen: Seen) -> bool:
    body = json.dumps(describe(peer, seen)).encode()
    await peer.send(_response(peer, seen, 200, body, version="HTTP/1.0", framing="none"))
    return False


async def _chunked(peer: Peer, seen: Seen) -> bool:
    body = b"6\r\nhello \r\n5\r\nworld\r\n0\r\nx-sum: 11\r\n\r\n"
    await peer.send(_response(peer, seen, 200, body, [("trailer", "x-sum")], framing="chunked"))
    return True


async def _websocket(peer: Peer, seen: Seen) -> bool:
    if (seen.header("upgrade") or "").lower() != "websocket":
        await peer.send(_response(peer, seen, 400))
        return True
    upgrade = [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", "x")]
    await peer.send(_response(peer, seen, 101, extra=upgrade))
    while data := await peer.reader.read(65536):
        await peer.send(b"ws:" + data)
    return False


_BREAKS: dict[str, Callable[[Peer, Seen], Awaitable[bool]]] = {
    "close": _close,
    "reset": _reset,
    "garbage": _garbage,
    "partial": _partial,
    "http10": _http10,
    "chunked": _chunked,
    "ws": _websocket,
}


# --- listening ----------------------------------------------------------------------------------------


def _tls_context(lab: Lab, name: str, *, mutual: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(lab.pki / "sites" / f"{name}.pem", lab.pki / "sites.key")
    context.set_alpn_protocols(["http/1.1"])
    context.sni_callback = _note_sni
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(lab.pki / "root.pem")
    return context


def _note_sni(connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
    connection.asked_name = name  # type: ignore[attr-defined]  # the object lives as long as the connection


async def open_site(lab: Lab, site: Site, service: Service) -> asyncio.Server:
    """Listen on one port of one address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lab.connections += 1
        peer = Peer(lab, site, reader, writer, lab.connections)
        try:
            await service.handler(peer)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            pass  # the other side broke the dialogue: this connection is over, the site is not
        finally:
            writer.close()

    context = _tls_context(lab, site.name, mutual=service.mutual) if service.tls else None
    return await asyncio.start_server(serve, site.address, site.port, ssl=context, limit=HEAD_LIMIT, backlog=1024)
