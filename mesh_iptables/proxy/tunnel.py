"""Bytes both ways between two wires of which at least one is not a plain socket. No I/O of its own."""

from __future__ import annotations

from collections.abc import Callable

from mesh_iptables.proxy.wire import HIGH_WATER, Failure, Outside, Timer, Wire


class Tunnel:
    """Half-closes are carried through; a failure on one side resets the other; `done` is called once."""

    def __init__(
        self, outside: Outside, client: Wire, upstream: Wire, done: Callable[[int, int], None], idle: float
    ) -> None:
        self._outside = outside
        self._done: Callable[[int, int], None] | None = done
        self._idle = idle
        self._last = outside.now
        self._timer: Timer | None = None
        self._up = _Side(self, client, upstream)
        self._down = _Side(self, upstream, client)

    def start(self) -> None:
        """Take both wires over."""
        for side in (self._up, self._down):
            side.source.handler = side
        for side in (self._up, self._down):
            side.source.resume()
        if self._idle:
            self._timer = self._outside.call_later(self._idle, self._check_idle)

    def touched(self) -> None:
        """Bytes have passed."""
        self._last = self._outside.now

    def _check_idle(self) -> None:
        left = self._last + self._idle - self._outside.now
        self._timer = None
        if left > 0:
            self._timer = self._outside.call_later(left, self._check_idle)
        else:
            self.broken()

    def opposite(self, side: _Side) -> _Side:
        """The other direction."""
        return self._down if side is self._up else self._up

    def ended(self) -> None:
        """One direction has ended."""
        if self._up.finished and self._down.finished:
            self._up.source.close()
            self._down.source.close()
            self._finish()

    def broken(self) -> None:
        """End both at once."""
        self._up.source.abort()
        self._down.source.abort()
        self._finish()

    def _finish(self) -> None:
        done, self._done = self._done, None
        if self._timer is not None:
            self._timer.cancel()
        if done is not None:
            done(self._up.moved, self._down.moved)


class _Side:
    """Handler of one wire: what it brings goes to the other."""

    def __init__(self, tunnel: Tunnel, source: Wire, target: Wire) -> None:
        self._tunnel = tunnel
        self.source = source
        self._target = target
        self.finished = False
        self.moved = 0

    def connected(self) -> None:
        pass  # both are

    def received(self, data: bytes) -> None:
        self.moved += len(data)
        self._tunnel.touched()
        self._target.send(data)
        if self._target.unsent > HIGH_WATER:
            self.source.pause()

    def drained(self) -> None:
        self._tunnel.opposite(self).source.resume()

    def ended(self) -> None:
        self.finished = True
        self._target.finish()
        self._tunnel.ended()

    def broken(self, failure: Failure, detail: str) -> None:  # noqa: ARG002
        self._tunnel.broken()
