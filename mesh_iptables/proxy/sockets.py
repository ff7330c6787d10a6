"""A TCP socket as a `Wire`: non-blocking, edge-triggered, nothing kept in memory that the kernel takes."""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from socket import SocketType

from mesh_iptables.proxy.loop import ERROR, EVERYTHING, HANGUP, READ, WRITE, Loop, LoopTimer
from mesh_iptables.proxy.original_dst import plain
from mesh_iptables.proxy.wire import Address, Failure, Handler

CHUNK = 65536
_BUDGET = 16  # reads of a full chunk in one go before others get their turn

_CLOSE_PATIENCE = 30.0  # seconds for a peer to take the last bytes

_LINGER_RST = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # struct linger {on, 0 s}: close() sends a RST


class SocketWire:
    """See `wire.Wire`. Made open (accepted) or connecting; `handler` may be changed at any time."""

    __slots__ = (
        "_ended",
        "_finishing",
        "_hangup",
        "_loop",
        "_out",
        "_paused",
        "_timer",
        "closing",
        "connecting",
        "gone",
        "handler",
        "readable",
        "remote",
        "sock",
        "unsent",
    )

    def __init__(self, loop: Loop, sock: SocketType | None, handler: Handler, remote: Address) -> None:
        self._loop = loop
        self.sock = sock  # None once it is closed or another's
        self.gone: Callable[[SocketWire], None] | None = None  # called when the socket is closed
        self.handler = handler
        self.remote = remote
        self.unsent = 0
        self.connecting = False
        self.closing = False
        self._out: deque[bytes | memoryview] | None = None
        self._timer: LoopTimer | None = None
        self._paused = False
        self.readable = False  # the kernel may hold bytes, or an end, that was reported and not read
        self._hangup = False  # a short read no longer means "drained"
        self._ended = False  # the handler knows of the peer's FIN
        self._finishing = False

    def watch(self) -> None:
        self._loop.watch(self._fd(), self.ready, EVERYTHING)

    def await_connect(self, seconds: float) -> None:
        """The connection is under way and must be there in time."""
        self.connecting = True
        self.watch()
        if seconds > 0:
            self._timer = self._loop.call_later(seconds, self._connect_timed_out)

    def fail(self, failure: Failure, detail: str) -> None:
        """Tell the handler that there will be no connection."""
        if not self.closing:
            self._release()
            self.handler.broken(failure, detail)

    @property
    def local(self) -> Address | None:
        """Our own end, once there is one."""
        return plain(self.sock.getsockname()) if self.sock is not None else None

    def _fd(self) -> int:
        return self.sock.fileno() if self.sock is not None else -1

    # --- events -------------------------------------------------------------------------------------------

    def ready(self, events: int) -> None:
        """What epoll reports."""
        if not (events & HANGUP or self._paused or self.connecting or self.closing or self._out):
            if events & READ:
                self._read()
            return
        if events & (READ | HANGUP):
            self.readable = True
            if events & HANGUP:
                self._hangup = True
        if self.connecting and not self._connected(events):
            return
        if events & WRITE and self._out:
            self._flush()
        if events & (READ | HANGUP):
            if not (self._paused or self.closing):
                self._read()
            elif events & ERROR:
                self._break(Failure.TERMINATION, "reset")

    def _connected(self, events: int) -> bool:
        assert self.sock is not None
        if events & HANGUP:
            error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._break(Failure.CONNECT, errno.errorcode.get(error, str(error)))
                return False
        self.connecting = False
        self._cancel_timer()
        self.handler.connected()
        if self._out and self.sock is not None:
            self._flush()
        return self.sock is not None

    def _connect_timed_out(self) -> None:
        self._timer = None
        self._break(Failure.CONNECT_TIMEOUT, "connect timeout")

    def _read(self) -> None:
        for _ in range(_BUDGET):
            sock = self.sock
            if sock is None or self._paused or self.closing:
                self.readable = True
                return
            try:
                data = sock.recv(CHUNK)
            except BlockingIOError:
                self.readable = False
                return
            except OSError as error:
                self._break(Failure.TERMINATION, errno.errorcode.get(error.errno or 0, "read failed"))
                return
            if not data:
                self.readable = False
                self._end()
                return
            self.handler.received(data)
            if len(data) < CHUNK and not self._hangup:
                self.readable = False
                return
        self.readable = True
        self._loop.call_soon(self._read_on)

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self.handler.ended()

    def _read_on(self) -> None:
        if self.readable and not self._paused and not self.closing:
            self._read()

    def _break(self, failure: Failure, detail: str) -> None:
        if self.sock is not None:
            told = self.closing
            self._release()
            if not told:
                self.handler.broken(failure, detail)

    # --- commands -----------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        sock = self.sock
        if sock is None or self.closing or not data:
            return
        if self._out or self.connecting:
            self._keep(data)
            return
        try:
            sent = sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # epoll reports the same to the reading side, which tells the handler
        if sent < len(data):
            self._keep(memoryview(data)[sent:])

    def _keep(self, data: bytes | memoryview) -> None:
        if self._out is None:
            self._out = deque()
        self._out.append(data)
        self.unsent += len(data)

    def _flush(self) -> None:
        out = self._out
        while out and self.sock is not None:
            data = out[0]
            try:
                sent = self.sock.send(data)
            except BlockingIOError:
                return
            except OSError:
                out.clear()
                self.unsent = 0
                if self.closing:
                    self._release()
                return
            self.unsent -= sent
            if sent < len(data):
                out[0] = memoryview(data)[sent:]
                return
            out.popleft()
        self._sent_all()

    def _sent_all(self) -> None:
        if self._finishing:
            self._shutdown()
        if self.closing:
            self._release()
        elif self.sock is not None:
            self.handler.drained()

    def finish(self) -> None:
        if self._finishing or self.closing:
            return
        self._finishing = True
        if not self._out and not self.connecting:
            self._shutdown()

    def _shutdown(self) -> None:
        if self.sock is not None:
            with suppress(OSError):  # the peer has reset; reading tells
                self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        if self.closing:
            return
        self.closing = True
        if not self._out or self.connecting:
            self._release()
        else:
            self._timer = self._loop.call_later(_CLOSE_PATIENCE, self._release)

    def abort(self) -> None:
        if self.sock is None:
            return
        with suppress(OSError):  # already gone, as it should be
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RST)
        self._release()

    def _release(self) -> None:
        sock, self.sock = self.sock, None
        self.closing = True
        self._cancel_timer()
        self._out = None
        self.unsent = 0
        if sock is not None:
            self._loop.close(sock)
            if self.gone is not None:
                self.gone(self)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            if self.readable:
                self._loop.call_soon(self._read_on)

    def detach(self) -> SocketType:
        """Give the socket to another owner (`Loop.redirect` it at once); this wire is dead afterwards."""
        sock, self.sock = self.sock, None
        assert sock is not None
        self.closing = True
        self._cancel_timer()
        return sock

    @property
    def unread(self) -> int:
        """What epoll has reported and the next owner must act upon."""
        if self._hangup:
            return READ | HANGUP
        return READ if self.readable else 0

    def take_unsent(self) -> bytes:
        """What `detach` must not lose."""
        out, self._out = self._out, None
        self.unsent = 0
        return b"".join(out) if out else b""
