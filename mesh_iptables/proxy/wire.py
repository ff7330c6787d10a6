"""What the state machines ask of the outside, and what the outside tells them. Interfaces only.

The decision code of this package never touches a socket, a clock or a source of chance: it is handed an `Outside`
and `Wire`s. A command is a method call on them, an event a method call on a `Handler`; a value per command and
event would read the same and cost a tenth of the request rate. In production `runtime` implements them, in tests
a scripted world does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from mesh_iptables.proxy.access_log import Record

Address = tuple[str, int]
"""An IP address as text and a port."""

HIGH_WATER = 256 * 1024
"""Unsent bytes on a wire above which its source is paused; it goes on when all have left."""


class Failure(Enum):
    """Why a wire is gone; the value is how Envoy names it to a client."""

    CONNECT = "remote connection failure"
    CONNECT_TIMEOUT = "connection timeout"
    TERMINATION = "connection termination"
    PROTOCOL = "protocol error"
    OVERFLOW = "overflow"


@dataclass(frozen=True, slots=True)
class TlsClient:
    """What to ask of TLS on a new wire: a `TlsOrigination` with the request's host filled in.

    `name` is compared with the certificate's DNS names and `sans` likewise; with neither, only the chain is.
    """

    certificate: str | None
    private_key: str | None
    ca_file: str | None
    sni: str | None
    names: tuple[str, ...]
    verify: bool
    alpn: tuple[str, ...] = ()


class Handler(Protocol):
    """The owner of a wire."""

    def connected(self) -> None:
        """A wire made with `Outside.connect` is open."""

    def received(self, data: bytes) -> None:
        """Bytes came in, never none."""

    def ended(self) -> None:
        """The peer sends no more; the other direction is still open."""

    def broken(self, failure: Failure, detail: str) -> None:
        """The wire is gone, both directions; nothing more will be told of it."""

    def drained(self) -> None:
        """`unsent` has come back to 0 after it was not."""


class Wire(Protocol):
    """One connection to a peer. Calls after the end are ignored."""

    handler: Handler
    remote: Address

    @property
    def unsent(self) -> int:
        """Bytes given to `send` that the kernel has not taken yet."""

    @property
    def local(self) -> Address | None:
        """Our own end, once there is one."""

    def send(self, data: bytes) -> None:
        """Send, or keep until the peer takes it."""

    def finish(self) -> None:
        """Send no more: a FIN behind what was sent."""

    def close(self) -> None:
        """End both directions once what was sent has left; the handler hears nothing more."""

    def abort(self) -> None:
        """End both directions now, with a RST."""

    def pause(self) -> None:
        """Take no more bytes from the peer."""

    def resume(self) -> None:
        """Take bytes again."""


class Timer(Protocol):
    """A call that is still to come."""

    def cancel(self) -> None:
        """Forget it; harmless afterwards."""


class Outside(Protocol):
    """The world around the state machines."""

    @property
    def now(self) -> float:
        """Seconds on a clock that only goes forward."""

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call back once, not before this call has returned."""

    def connect(
        self, address: Address, handler: Handler, timeout: float, tls: TlsClient | None, source: str | None = None
    ) -> Wire:
        """Begin to connect; the answer is `connected` or `broken`, never within this call."""

    def relay(self, client: Wire, upstream: Wire, done: Callable[[int, int], None], idle: float) -> None:
        """Copy both ways until both ends are done, half-closes included; then `done(bytes up, bytes down)`.

        Takes both wires over; `idle` seconds without a byte end it.
        """

    def date_line(self) -> bytes:
        """The field line `date`, with the time of day as HTTP writes it."""

    def chance(self) -> float:
        """A random number from 0 up to, but not including, 1."""

    def log(self, record: Record) -> None:
        """Write one line of the access log."""
