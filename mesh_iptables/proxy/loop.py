"""One epoll loop: file descriptors, timers, and calls put off to the end of the round.

Edge-triggered, each descriptor registered once for everything it can report: no system call is spent on changing
interest. The price is that owners must read until a short read, and remember what they did not read.
"""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable
from itertools import count
from socket import SocketType

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANGUP = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
ERROR = select.EPOLLERR
EVERYTHING = READ | WRITE | select.EPOLLRDHUP | select.EPOLLET
LEVEL_READ = READ  # for listeners: what one round leaves in the queue is reported again

_BATCH = 256
_COMPACT = 4096  # cancelled timers that are worth sweeping out


class LoopTimer:
    """A call to come; `cancel` leaves the entry in the heap for the loop to skip."""

    __slots__ = ("_call", "_loop")

    def __init__(self, loop: Loop, call: Callable[[], None]) -> None:
        self._loop = loop
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        if self._call is not None:
            self._call = None
            self._loop.timer_cancelled()

    def fire(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()

    @property
    def pending(self) -> bool:
        return self._call is not None


class Loop:
    """Runs until `stop`. `now` is the monotonic time at the start of the round."""

    def __init__(self) -> None:
        self.now = time.monotonic()
        self._epoll = select.epoll()
        self._ready: list[Callable[[int], None] | None] = [
            None
        ] * 256  # by descriptor; a dict takes ten times the memory
        self._timers: list[tuple[float, int, LoopTimer]] = []
        self._cancelled = 0
        self._ids = count()
        self._soon: list[Callable[[], None]] = []
        self._closing: list[SocketType] = []
        self._running = False
        self.failed: Callable[[Callable[..., None], Exception], None] = _raise  # told of what a callback raised

    def watch(self, fd: int, ready: Callable[[int], None], events: int = EVERYTHING) -> None:
        """Call `ready(events)` whenever something happens to `fd`."""
        if fd >= len(self._ready):
            self._ready.extend([None] * max(256, fd - len(self._ready) + 1))
        self._ready[fd] = ready
        self._epoll.register(fd, events)

    def redirect(self, fd: int, ready: Callable[[int], None]) -> None:
        """Another owner for a watched descriptor."""
        self._ready[fd] = ready

    def forget(self, fd: int) -> None:
        """Stop watching a descriptor that stays open."""
        if 0 <= fd < len(self._ready) and self._ready[fd] is not None:
            self._ready[fd] = None
            self._epoll.unregister(fd)

    def close(self, sock: SocketType) -> None:
        """Stop watching and close at the end of the round: its number must not be reused before."""
        fd = sock.fileno()
        if 0 <= fd < len(self._ready):
            self._ready[fd] = None
        self._closing.append(sock)

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call at the end of this round, or of the next one when the round has ended."""
        self._soon.append(call)

    def call_later(self, seconds: float, call: Callable[[], None]) -> LoopTimer:
        timer = LoopTimer(self, call)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._ids), timer))
        return timer

    def timer_cancelled(self) -> None:
        """Keep the heap from filling with timers that will never fire."""
        self._cancelled += 1
        if self._cancelled > _COMPACT and self._cancelled * 2 > len(self._timers):
            self._timers = [entry for entry in self._timers if entry[2].pending]
            heapq.heapify(self._timers)
            self._cancelled = 0

    def stop(self) -> None:
        self._running = False

    def run(self) -> None:
        """Serve until `stop`."""
        self._running = True
        ready, poll = self._ready, self._epoll.poll
        while self._running:
            events = poll(self._patience(), _BATCH)
            self.now = time.monotonic()
            for fd, what in events:
                owner = ready[fd]
                if owner is not None:
                    try:
                        owner(what)
                    except Exception as error:
                        self.failed(owner, error)
            if self._timers:
                self._fire_timers()
            if self._soon:
                self._call_soon()
            if self._closing:
                self._close()

    def _patience(self) -> float:
        """How long the next poll may wait; measured from the start of the round, so never too long."""
        if self._soon:
            return 0.0
        return max(0.0, self._timers[0][0] - self.now) if self._timers else -1.0

    def _fire_timers(self) -> None:
        timers = self._timers
        while timers and timers[0][0] <= self.now:
            timer = heapq.heappop(timers)[2]
            if timer.pending:
                self._guarded(timer.fire)
            else:
                self._cancelled -= 1
            timers = self._timers  # a cancellation may have replaced it

    def _call_soon(self) -> None:
        calls, self._soon = self._soon, []
        for call in calls:
            self._guarded(call)

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            self.failed(call, error)

    def _close(self) -> None:
        closing, self._closing = self._closing, []
        for sock in closing:
            sock.close()

    def close_all(self) -> None:
        """Give the epoll descriptor back."""
        self._close()
        self._epoll.close()


def _raise(_call: Callable[..., None], error: Exception) -> None:
    raise error
