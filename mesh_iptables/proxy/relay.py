"""Copy bytes between two sockets as fast as Python can: by hand while they are few, by `splice` once they are many.

Each direction is a `_Flow` and follows three rules. Small messages go through one buffer that all flows share.
After two full reads, or one send the peer did not take whole, the flow borrows a pipe and lets the kernel move
pages; when it falls idle the pipe goes back to the pool. What a peer does not take stays in the kernel (at most
one pipe) and the other side is not read: a stalled reader costs no memory here.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from socket import SocketType
from typing import Protocol

from mesh_iptables.proxy.loop import HANGUP, READ, WRITE, Loop

BUFFER_SIZE = 65536
_SHARED = memoryview(bytearray(BUFFER_SIZE))  # holds nothing between two system calls

_BUDGET = 4 << 20  # bytes per flow and round
_PIPE_SIZE = 1 << 20
_MAX_PIPES = 32  # an unprivileged uid gets about 63 of this size; beyond ours flows are copied
_KEPT_PIPES = 8
_SPLICE = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_LINGER_RST = b"\x01\x00\x00\x00\x00\x00\x00\x00"

Pipe = tuple[int, int]


class PipePool:
    """Pipes are borrowed, and returned empty."""

    def __init__(self, limit: int = _MAX_PIPES) -> None:
        self._free: list[Pipe] = []
        self._left = limit

    def borrow(self) -> Pipe | None:
        """A pipe, or None when all are in use."""
        if self._free:
            return self._free.pop()
        if not self._left:
            return None
        try:
            pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None  # out of descriptors; copying needs none
        self._left -= 1
        with suppress(OSError):  # the user's pipe memory may be used up; a smaller one still works
            fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Return an empty pipe."""
        if len(self._free) < _KEPT_PIPES:
            self._free.append(pipe)
        else:
            self.discard(pipe)

    def discard(self, pipe: Pipe) -> None:
        """Close a pipe, whatever it holds."""
        os.close(pipe[0])
        os.close(pipe[1])
        self._left += 1


class _Flow:
    """One direction. `held` counts bytes inside `pipe`, `left` is what a short send left over without one."""

    __slots__ = ("dst", "ended", "full", "held", "left", "moved", "pipe", "plain", "src", "stuck")

    def __init__(self, src: SocketType, dst: SocketType) -> None:
        self.src = src
        self.dst = dst
        self.pipe: Pipe | None = None
        self.held = 0
        self.left: bytes | None = None
        self.full = 0  # full reads in a row
        self.stuck = False  # waiting for `dst` to become writable
        self.ended = False
        self.plain = True  # none of the above
        self.moved = 0


class Keeper(Protocol):
    """What all relays share."""

    loop: Loop
    pipes: PipePool

    def relay_over(self, relay: Relay) -> None:
        """A relay has ended."""


class Relay:
    """Both directions of one connection; `done(bytes up, bytes down)` is called once, at its end."""

    __slots__ = ("_done", "_down", "_keeper", "_up", "counted", "idle_limit", "idle_since")

    def __init__(
        self,
        keeper: Keeper,
        client: SocketType,
        upstream: SocketType,
        done: Callable[[int, int], None],
        idle_limit: float,
        *,
        counted: bool,
    ) -> None:
        self._keeper = keeper
        self._up = _Flow(client, upstream)
        self._down = _Flow(upstream, client)
        self._done: Callable[[int, int], None] | None = done
        self.idle_since: float = 0  # when the keeper first looked and no byte had come; 0: one has come since it looked
        self.idle_limit = idle_limit  # seconds; the keeper's affair, as is `counted`
        self.counted = counted

    def start(self, unsent_up: bytes, unsent_down: bytes, unread_client: int, unread_upstream: int) -> None:
        """Take the sockets over, beginning with what their former owners could not send.

        The `unread` are events that epoll reported to those: it will not repeat them.
        """
        self._keeper.loop.redirect(self._up.src.fileno(), self.client_ready)
        self._keeper.loop.redirect(self._down.src.fileno(), self.upstream_ready)
        for flow, unsent in ((self._up, unsent_up), (self._down, unsent_down)):
            if unsent:
                flow.left, flow.stuck, flow.plain = unsent, True, False
        if unsent_down or unread_client:
            self._ready(self._up, self._down, WRITE | unread_client)
        if unsent_up or unread_upstream:
            self._ready(self._down, self._up, WRITE | unread_upstream)

    # --- events -------------------------------------------------------------------------------------------

    def client_ready(self, events: int) -> None:
        """Something happened to the client's socket."""
        if self._up.plain and not (events & HANGUP or self._down.stuck):
            if events & READ:
                self._copy_once(self._up, self._down)
        else:
            self._ready(self._up, self._down, events)

    def upstream_ready(self, events: int) -> None:
        """Something happened to the upstream's socket."""
        if self._down.plain and not (events & HANGUP or self._up.stuck):
            if events & READ:
                self._copy_once(self._down, self._up)
        else:
            self._ready(self._down, self._up, events)

    def _copy_once(self, flow: _Flow, opposite: _Flow) -> None:
        """The shortest way for the most frequent case: a small message that is taken whole."""
        self.idle_since = 0
        try:
            count = flow.src.recv_into(_SHARED)
        except BlockingIOError:
            return
        except OSError:
            self.abort()
            return
        try:
            sent = flow.dst.send(_SHARED[:count])
        except BlockingIOError:
            sent = 0
        except OSError:
            self.abort()
            return
        flow.moved += sent
        if 0 < count == sent < BUFFER_SIZE:
            return
        flow.full += 1
        if sent < count:
            self._stash(flow, _SHARED[sent:count])
        self._ready(flow, opposite, READ | HANGUP)

    def _ready(self, incoming: _Flow, outgoing: _Flow, events: int) -> None:
        """Any case: `incoming` flows from the socket that something happened to, `outgoing` to it."""
        if self._done is None:
            return
        self.idle_since = 0
        try:
            if events & WRITE and outgoing.stuck:
                self._pump(outgoing, drain=True)
            if events & (READ | HANGUP) and not (incoming.stuck or incoming.ended):
                self._pump(incoming, drain=bool(events & HANGUP))
        except OSError:
            self.abort()
            return
        for flow in (incoming, outgoing):
            flow.plain = not (flow.pipe or flow.left or flow.stuck or flow.ended)
        if incoming.ended and outgoing.ended:
            self._finish()

    def _again(self, flow: _Flow) -> None:
        """The budget is used up: others first, then on, because epoll will not say it again."""
        self._keeper.loop.call_soon(self._go_on_up if flow is self._up else self._go_on_down)

    def _go_on_up(self) -> None:
        self._ready(self._up, self._down, READ | HANGUP)

    def _go_on_down(self) -> None:
        self._ready(self._down, self._up, READ | HANGUP)

    # --- moving bytes -------------------------------------------------------------------------------------

    def _pump(self, flow: _Flow, *, drain: bool) -> None:
        """Move what can be moved. `drain`: a short read does not mean that the socket is empty."""
        if flow.left is not None and not _send_left(flow):
            return
        flow.stuck = False
        if flow.pipe is not None:
            self._splice(flow)
        else:
            self._copy(flow, drain=drain)

    def _copy(self, flow: _Flow, *, drain: bool) -> None:
        receive, send = flow.src.recv_into, flow.dst.send
        for _ in range(_BUDGET // BUFFER_SIZE):
            try:
                count = receive(_SHARED)
            except BlockingIOError:
                return
            if not count:
                self._end(flow)
                return
            try:
                sent = send(_SHARED[:count])
            except BlockingIOError:
                sent = 0
            flow.moved += sent
            if sent < count:
                self._stash(flow, _SHARED[sent:count])
                return
            if count == BUFFER_SIZE:
                flow.full += 1
                if flow.full > 1 and self._borrow(flow):
                    self._splice(flow)
                    return
            else:
                flow.full = 0
                if not drain:
                    return
        self._again(flow)

    def _borrow(self, flow: _Flow) -> bool:
        flow.pipe = self._keeper.pipes.borrow()
        return flow.pipe is not None

    def _stash(self, flow: _Flow, data: memoryview) -> None:
        """Keep what the peer did not take: in the kernel if a pipe is to be had that it fits in."""
        flow.stuck = True
        if self._borrow(flow):
            assert flow.pipe is not None
            flow.held = os.write(flow.pipe[1], data)
            if flow.held == len(data):
                return
            os.read(flow.pipe[0], flow.held)
            self._idle(flow)
        flow.left = bytes(data)

    def _splice(self, flow: _Flow) -> None:
        assert flow.pipe is not None
        out, into = flow.pipe
        src, dst = flow.src.fileno(), flow.dst.fileno()
        splice = os.splice
        budget = _BUDGET
        while budget > 0:
            if not flow.held:
                try:
                    flow.held = splice(src, into, _PIPE_SIZE, flags=_SPLICE)
                except BlockingIOError:
                    self._idle(flow)
                    return
                if not flow.held:
                    self._idle(flow)
                    self._end(flow)
                    return
            try:
                sent = splice(out, dst, flow.held, flags=_SPLICE)
            except BlockingIOError:
                flow.stuck = True
                return
            flow.held -= sent
            flow.moved += sent
            budget -= sent
        self._again(flow)

    def _idle(self, flow: _Flow) -> None:
        assert flow.pipe is not None
        self._keeper.pipes.give_back(flow.pipe)
        flow.pipe, flow.held, flow.full = None, 0, 0

    # --- the end ------------------------------------------------------------------------------------------

    def _end(self, flow: _Flow) -> None:
        flow.ended = True
        opposite = self._down if flow is self._up else self._up
        if not opposite.ended:  # else both sockets are closed at once, which says the same
            flow.dst.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Reset both sides: a FIN would make what is cut short look whole."""
        if self._up.moved or self._down.moved:
            for flow in (self._up, self._down):
                with suppress(OSError):  # that one is gone already
                    flow.src.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RST)
        self._finish()

    def _finish(self) -> None:
        done, self._done = self._done, None
        if done is None:
            return
        for flow in (self._up, self._down):
            self._keeper.loop.close(flow.src)
            if flow.pipe is not None:
                pipe, flow.pipe = flow.pipe, None
                (self._keeper.pipes.discard if flow.held else self._keeper.pipes.give_back)(pipe)
        self._keeper.relay_over(self)
        done(self._up.moved, self._down.moved)


def _send_left(flow: _Flow) -> bool:
    """Send what is left over; whether all of it went."""
    assert flow.left is not None
    try:
        sent = flow.dst.send(flow.left)
    except BlockingIOError:
        return False
    flow.moved += sent
    flow.left = flow.left[sent:] or None
    return flow.left is None
