"""Real clients in the pod: raw HTTP that sees the bytes, TLS, TCP dialogues, curl.

Each function carries out one action and gives what was seen; it judges nothing (`expectations.py` does).
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .schema import Curl, Http, Parallel, Request, Scalar, Step, Tcp, Tls

CONNECT_LIMIT = 8.0  # seconds, as for all below
ANSWER_LIMIT = 20.0
HANDSHAKE_LIMIT = 8.0
AFTER = 0.35  # how long a connection is watched for `then`
GATHER = 0.05  # what arrives this soon after the first bytes belongs to the same `recv`


@dataclass
class Answer:
    """One HTTP answer, or why there is none."""

    error: str | None = None  # closed, refused, timeout, ...
    status: int | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)  # names lower-cased
    body: bytes = b""
    body_error: bool = False
    interim: list[int] = field(default_factory=list)
    tunnel: str | None = None
    then: str | None = None
    elapsed: float = 0.0

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key == name.lower()]
        return ", ".join(found) if found else None


@dataclass
class Handshake:
    result: str  # ok, closed, refused, timeout
    peer: str | None = None
    answer: Answer | None = None
    elapsed: float = 0.0
    detail: str = ""


@dataclass
class Piece:
    """What one `recv` gave."""

    data: bytes = b""
    end: str | None = None  # closed, timeout
    elapsed: float = 0.0


@dataclass
class Dialogue:
    connect: str
    pieces: list[Piece] = field(default_factory=list)


@dataclass
class CurlRun:
    exit: int
    out: str
    err: str
    elapsed: float


class Refused(Exception):
    """No connection: refused, timeout, unreachable or unresolved."""


def connect(host: str, port: int) -> socket.socket:
    try:
        return socket.create_connection((socket.gethostbyname(host), port), timeout=CONNECT_LIMIT)
    except ConnectionRefusedError as error:
        raise Refused("refused") from error
    except TimeoutError as error:
        raise Refused("timeout") from error
    except socket.gaierror as error:
        raise Refused("unresolved") from error
    except OSError as error:
        raise Refused("unreachable") from error


class Wire:
    """A socket read with a deadline; an end of any kind is remembered."""

    def __init__(self, sock: socket.socket, limit: float) -> None:
        self.sock = sock
        self.buffer = b""
        self.end: str | None = None  # closed or timeout
        self._deadline = time.monotonic() + limit

    def more(self) -> bool:
        """Read something into the buffer; false at the end."""
        if self.end:
            return False
        self.sock.settimeout(max(0.001, self._deadline - time.monotonic()))
        try:
            data = self.sock.recv(65536)
        except TimeoutError:
            self.end = "timeout"
        except OSError:
            self.end = "closed"
        else:
            self.buffer += data
            self.end = None if data else "closed"
        return self.end is None

    def send(self, data: bytes) -> None:
        """Send; an early answer followed by a reset is no reason to fail, the answer may be there to read."""
        self.sock.settimeout(max(0.001, self._deadline - time.monotonic()))
        with suppress(OSError):
            self.sock.sendall(data)

    def take(self, count: int) -> bytes:
        """At most `count` bytes; fewer only at the end."""
        while len(self.buffer) < count and self.more():
            pass
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def take_until(self, mark: bytes) -> bytes | None:
        """Up to and with `mark`; None when it never came."""
        while mark not in self.buffer:
            if not self.more():
                return None
        taken, found, self.buffer = self.buffer.partition(mark)
        return taken + found


# --- HTTP ---------------------------------------------------------------------------------------------


def http(action: Http, expected: int = 1, *, watch: bool = False) -> list[Answer]:
    """Send the requests over one connection, each after the answer to the one before.

    `expected` answers are read even where fewer requests were sent: raw bytes may hold several.
    """
    started = time.monotonic()
    try:
        sock = connect(action.connect or str(action.host), action.connect_port or action.port)
    except Refused as error:
        return [Answer(error=str(error), elapsed=time.monotonic() - started)]
    with sock:
        return exchange(sock, action, action.requests or [action], expected, watch=watch, started=started)


def exchange(
    sock: socket.socket,
    base: Http | Tls,
    requests: list[Request] | list[Http | Request],
    expected: int = 1,
    *,
    watch: bool = False,
    started: float | None = None,
) -> list[Answer]:
    wire = Wire(sock, ANSWER_LIMIT)
    answers: list[Answer] = []
    for number in range(max(len(requests), expected)):
        began = started if started is not None and number == 0 else time.monotonic()
        request = requests[number] if number < len(requests) else None
        answer = _one(wire, request, base)
        answer.elapsed = time.monotonic() - began
        answers.append(answer)
        if answer.error:
            break
    if watch and not answers[-1].error:
        answers[-1].then = _after(wire)
    return answers


def _one(wire: Wire, request: Request | None, base: Http | Tls) -> Answer:
    method = "GET" if request is None else request.method
    if request is None:
        return _read_answer(wire, method)
    if request.raw is not None:
        wire.send(encoded(request.raw))
        return _read_answer(wire, request.raw.split(" ")[0])
    head, body = _request_bytes(request, base)
    if not request.expect100:
        wire.send(head + body)
        return _read_answer(wire, method)
    wire.send(head)
    first = _read_head(wire)
    if first is None or first.status != 100:
        return _finish(wire, method, first)
    wire.send(body)
    answer = _read_answer(wire, method)
    answer.interim.insert(0, 100)
    return answer


def encoded(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()


def _request_bytes(request: Request, base: Http | Tls) -> tuple[bytes, bytes]:
    shared = base.headers if isinstance(base, Http) and request is not base else {}
    headers: dict[str, object] = {"host": request.host or base.host}
    for name, given in {**shared, **request.headers}.items():
        headers[name.lower() if name.lower() == "host" else name] = given
    body = b""
    if request.chunked is not None:
        headers.setdefault("transfer-encoding", "chunked")
        body = _chunks(request.chunked, request.trailers)
    elif request.body is not None:
        body = encoded(request.body)
        headers.setdefault("content-length", len(body))
    if request.expect100:
        headers.setdefault("expect", "100-continue")
    lines = [f"{request.method} {request.path} HTTP/1.1"]
    for name, value in headers.items():
        lines += [f"{name}: {each}" for each in (value if isinstance(value, list) else [value])]
    return encoded("\r\n".join(lines) + "\r\n\r\n"), body


def _chunks(chunks: list[str], trailers: Mapping[str, Scalar]) -> bytes:
    parts = [encoded(chunk) for chunk in chunks]
    framed = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return framed + b"0\r\n" + encoded("".join(f"{n}: {v}\r\n" for n, v in trailers.items())) + b"\r\n"


def _read_answer(wire: Wire, method: str) -> Answer:
    interim: list[int] = []
    while (answer := _read_head(wire)) and answer.status in (100, 102, 103):
        interim.append(answer.status)
    finished = _finish(wire, method, answer)
    finished.interim = interim
    return finished


def _read_head(wire: Wire) -> Answer | None:
    head = wire.take_until(b"\r\n\r\n")
    if head is None:
        return None
    line, *fields = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    words = line.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
        return Answer(error="garbage")
    pairs = [each.partition(":") for each in fields]
    return Answer(status=int(words[1]), headers=[(name.lower(), value.strip()) for name, _, value in pairs])


def _finish(wire: Wire, method: str, answer: Answer | None) -> Answer:
    if answer is None:
        reason = "garbage" if wire.buffer else str(wire.end)
        return Answer(error=reason)
    if answer.error:
        return answer
    if answer.status == 101:
        wire.send(b"ping")
        wire.more()
        answer.tunnel, wire.buffer = wire.buffer.decode("latin-1"), b""
    elif method != "HEAD" and answer.status not in (204, 304):
        _read_body(wire, answer)
    return answer


def _read_body(wire: Wire, answer: Answer) -> None:
    if "chunked" in (answer.header("transfer-encoding") or "").lower():
        while True:
            line = wire.take_until(b"\r\n")
            if line is None:
                answer.body_error = True
                return
            size = int(line.split(b";")[0], 16)
            if size == 0:
                break
            answer.body += (data := wire.take(size + 2))[:size]
            if len(data) < size + 2:
                answer.body_error = True
                return
        while (trailer := wire.take_until(b"\r\n")) not in (b"\r\n", None):
            assert trailer is not None
    elif (length := answer.header("content-length")) is not None:
        answer.body = wire.take(int(length))
        answer.body_error = len(answer.body) < int(length)
    else:
        while wire.more():
            pass
        answer.body, wire.buffer = wire.buffer, b""


def _after(wire: Wire) -> str:
    """Whether the connection stays open for a moment: open or closed."""
    if wire.buffer:
        return "more data"
    wire.sock.settimeout(AFTER)
    try:
        return "more data" if wire.sock.recv(1) else "closed"
    except TimeoutError:
        return "open"
    except OSError:
        return "closed"


# --- TLS ----------------------------------------------------------------------------------------------


def tls(action: Tls, lab_root: Path, expected: int = 1, *, watch: bool = False) -> Handshake:
    started = time.monotonic()
    try:
        sock = connect(action.connect or action.host, action.connect_port or action.port)
    except Refused as error:
        return Handshake(str(error), elapsed=time.monotonic() - started)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # which certificate came is what the case asks
    context.load_verify_locations(lab_root)
    if action.alpn:
        context.set_alpn_protocols(action.alpn)
    sni = action.host if action.sni is None else action.sni
    sock.settimeout(HANDSHAKE_LIMIT)
    with sock:
        try:
            inner = context.wrap_socket(sock, server_hostname=sni or None)
        except TimeoutError:
            return Handshake("timeout", elapsed=time.monotonic() - started)
        except OSError as error:  # reset, end of file, an answer that is not TLS
            return Handshake("closed", elapsed=time.monotonic() - started, detail=str(error))
        with inner:
            return _inside(inner, action, started, expected, watch=watch)


def _inside(sock: ssl.SSLSocket, action: Tls, started: float, expected: int, *, watch: bool) -> Handshake:
    seen = Handshake("ok", _common_name(sock), elapsed=time.monotonic() - started)
    if action.request is not None:
        seen.answer = exchange(sock, action, [action.request], expected, watch=watch)[0]
    return seen


def _common_name(sock: ssl.SSLSocket) -> str | None:
    subject = (sock.getpeercert() or {}).get("subject", ())
    pairs = [pair for part in subject for pair in part]
    return next((str(pair[1]) for pair in pairs if pair[0] == "commonName"), None)


# --- TCP ----------------------------------------------------------------------------------------------


def tcp(action: Tcp) -> Dialogue:
    try:
        sock = connect(action.connect or action.host, action.port)
    except Refused as error:
        return Dialogue(str(error))
    dialogue = Dialogue("ok")
    with sock:
        for step in action.script:
            if step.recv is not None:
                dialogue.pieces.append(_receive(sock, step.recv))
            else:
                _do(sock, step)
    return dialogue


def _do(sock: socket.socket, step: Step) -> None:
    try:
        if step.send is not None:
            sock.settimeout(ANSWER_LIMIT)
            sock.sendall(encoded(step.send))
        elif step.shutdown is not None:
            sock.shutdown(socket.SHUT_WR)
        elif step.sleep is not None:
            time.sleep(step.sleep)
    except OSError:
        pass  # the other side has closed: the next recv shows it


def _receive(sock: socket.socket, limit: float) -> Piece:
    started = time.monotonic()
    piece = Piece()
    try:
        sock.settimeout(limit)
        piece.data = sock.recv(65536)
        piece.elapsed = time.monotonic() - started
        piece.end = None if piece.data else "closed"
        sock.settimeout(GATHER)
        while piece.data and (more := sock.recv(65536)):
            piece.data += more
    except TimeoutError:
        piece.end = None if piece.data else "timeout"
    except OSError:
        piece.end = None if piece.data else "closed"
    piece.elapsed = piece.elapsed or time.monotonic() - started
    return piece


# --- the others ---------------------------------------------------------------------------------------


def curl(action: Curl, lab_root: Path) -> CurlRun:
    words = [str(word).replace("LABROOT", str(lab_root)) for word in action.args]
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    started = time.monotonic()
    result = subprocess.run(
        ["curl", "-q", "-s", "-S", "-i", "-m", "8", *words],
        capture_output=True,
        env=environment,
        timeout=30,
        check=False,
    )
    out, err = result.stdout.decode("latin-1"), result.stderr.decode("latin-1")
    return CurlRun(result.returncode, out, err, time.monotonic() - started)


def parallel(action: Parallel) -> list[Answer]:
    with ThreadPoolExecutor(action.count) as pool:
        return [answers[0] for answers in pool.map(lambda _: http(action.http), range(action.count))]
