"""Ask a DNS server over UDP, and over TCP when the answer was too long."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable

from mesh_iptables.proxy.dns_message import Answer, BadMessage, encode_question, parse_answer
from mesh_iptables.proxy.loop import HANGUP, READ, WRITE, Loop, LoopTimer

_PORT = 53
_UDP_SIZE = 4096

Told = Callable[[Answer | None], None]


class SocketAsker:
    """See `dns.Asker`. Each question has a socket and so a source port of its own, which a forger must guess."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def ask(self, server: str, name: str, kind: int, timeout: float, told: Told) -> None:
        ident = secrets.randbelow(65536)
        question = encode_question(ident, name, kind)
        _Question(self._loop, server, question, ident, (name.lower().rstrip("."), kind), timeout, told).send()


class _Question:
    """One question until its answer, or until its time is over."""

    def __init__(
        self,
        loop: Loop,
        server: str,
        question: bytes,
        ident: int,
        about: tuple[str, int],
        timeout: float,
        told: Told,
    ) -> None:
        self._loop = loop
        self._server = server
        self._question = question
        self._ident = ident
        self._about = about
        self._told = told
        self._buffer = b""
        self._unsent = b""
        self._sock: socket.socket | None = None
        self._timer: LoopTimer = loop.call_later(timeout, self._give_up)

    def send(self) -> None:
        """Ask over UDP."""
        if self._open(socket.SOCK_DGRAM, self._udp_ready):
            assert self._sock is not None
            try:
                self._sock.send(self._question)
            except OSError:
                self._loop.call_soon(self._give_up)

    def _open(self, kind: int, ready: Callable[[int], None]) -> bool:
        host, _, scope = self._server.partition("%")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        address = (self._server if scope else host, _PORT)
        try:
            sock = self._sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            error = sock.connect_ex(address)
        except OSError:
            error = -1
        if error not in (0, 115):  # 115: EINPROGRESS
            self._loop.call_soon(self._give_up)
            return False
        self._loop.watch(sock.fileno(), ready)
        return True

    def _udp_ready(self, events: int) -> None:
        while events & (READ | HANGUP) and self._sock is not None:
            try:
                data = self._sock.recv(_UDP_SIZE)
            except BlockingIOError:
                return
            except OSError:  # nobody listens there
                self._give_up()
                return
            answer = self._answer(data)
            if answer is not None and answer.truncated:
                self._over_tcp()
            elif answer is not None:
                self._end(answer)

    def _answer(self, data: bytes) -> Answer | None:
        """An answer to this very question; anything else is ignored."""
        try:
            answer = parse_answer(data)
        except BadMessage:
            return None
        return answer if answer.ident == self._ident and answer.question == self._about else None

    def _over_tcp(self) -> None:
        self._close()
        self._unsent = len(self._question).to_bytes(2, "big") + self._question
        self._open(socket.SOCK_STREAM, self._tcp_ready)

    def _tcp_ready(self, events: int) -> None:
        assert self._sock is not None
        try:
            if events & WRITE and self._unsent:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
            if events & (READ | HANGUP):
                self._read_tcp()
        except BlockingIOError:
            return
        except OSError:
            self._give_up()

    def _read_tcp(self) -> None:
        while self._sock is not None:
            data = self._sock.recv(65536)
            self._buffer += data
            size = int.from_bytes(self._buffer[:2], "big")
            if len(self._buffer) >= 2 + size > 2:
                self._end(self._answer(self._buffer[2 : 2 + size]))
            elif not data:
                self._give_up()

    def _give_up(self) -> None:
        self._end(None)

    def _end(self, answer: Answer | None) -> None:
        told, self._told = self._told, _nobody
        self._timer.cancel()
        self._close()
        told(answer)

    def _close(self) -> None:
        if self._sock is not None:
            self._loop.close(self._sock)
            self._sock = None


def _nobody(_answer: Answer | None) -> None:
    """Has been told already."""
