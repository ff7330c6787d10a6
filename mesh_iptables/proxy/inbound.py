"""Connections to the pod itself: handed on to the app at the address they were made to.

Depending on the rules in force our own connection to the app may be redirected to us again. It is recognised by its
source address; then, and from then on, the app is reached by the loopback address, which no rule redirects.
"""

from __future__ import annotations

from typing import Protocol

from mesh_iptables.proxy.access_log import Record
from mesh_iptables.proxy.wire import Address, Failure, Handler, Outside, Wire

# Istio's newer rules let connections from this source pass (its InboundPassthroughCluster binds to it)
_PASSTHROUGH_SOURCE = {False: "127.0.0.6", True: "::6"}
_LOOPBACK = {False: "127.0.0.1", True: "::1"}
_CONNECT_TIMEOUT = 10.0
_IDLE = 3600.0


class Sources(Outside, Protocol):
    """The outside, which also knows our own connections to the app."""

    inbound_by_loopback: bool

    def claim_source(self, source: Address, session: InboundSession) -> None:
        """Call `session.looped` when a connection from `source` is accepted."""

    def release_source(self, source: Address) -> None:
        """That is not to be expected any more."""


class InboundSession:
    """One client's connection; `client` is the handler for its wire, the session itself that of the app's."""

    def __init__(self, outside: Sources, client: Wire, peer: Address, original: Address, *, logging: bool) -> None:
        self._outside = outside
        self._wire: Wire | None = client
        self._app: Wire | None = None
        self._peer = peer
        self._original = original
        self._logging = logging
        self._started = outside.now
        self._source: Address | None = None
        self._by_loopback = outside.inbound_by_loopback
        self.client: Handler = _ClientWaits(self)

    def begin(self) -> None:
        """Connect to the app."""
        if self._wire is not None:
            self._wire.pause()
        address, port = self._original
        ipv6 = ":" in address
        if self._by_loopback:
            self._app = self._outside.connect((_LOOPBACK[ipv6], port), self, _CONNECT_TIMEOUT, None)
            return
        source = None if ipv6 else _PASSTHROUGH_SOURCE[ipv6]
        self._app = self._outside.connect(self._original, self, _CONNECT_TIMEOUT, None, source)
        self._source = self._app.local
        if self._source is not None:
            self._outside.claim_source(self._source, self)

    def looped(self) -> None:
        """The connection to the app came back to us."""
        if self._by_loopback or self._wire is None:
            return
        self._by_loopback = self._outside.inbound_by_loopback = True
        self._release()
        if self._app is not None:
            self._app.abort()
        self.begin()

    def connected(self) -> None:
        if self._source is None:
            self._relay()
        else:  # whether it came back to us is seen in this round or the next
            self._outside.call_later(0.0, self._relay_if_it_did_not_loop)

    def _relay_if_it_did_not_loop(self) -> None:
        if self._source is not None:
            self._outside.call_later(0.0, self._relay)

    def _relay(self) -> None:
        client, app = self._wire, self._app
        if self._by_loopback and self._source is not None:
            return
        self._release()
        self._wire = self._app = None
        if client is not None and app is not None:
            self._outside.relay(client, app, self._done, _IDLE)

    def _release(self) -> None:
        if self._source is not None:
            self._outside.release_source(self._source)
            self._source = None

    def _done(self, up: int, down: int) -> None:
        self._log("", received=up, sent=down)

    def received(self, data: bytes) -> None:
        """Nothing is received before the relay takes over."""

    def ended(self) -> None:
        """See `received`."""

    def drained(self) -> None:
        """See `received`."""

    def broken(self, failure: Failure, detail: str) -> None:
        self._release()
        self._app = None
        if self._wire is not None:
            self._wire.close()
            self._wire = None
            self._log("UF", failure=f"{failure.value}: {detail}")

    def client_broken(self) -> None:
        """The client went away."""
        self._release()
        self._wire = None
        if self._app is not None:
            self._app.abort()
            self._app = None
        self._log("DC")

    def _log(self, flags: str, failure: str = "", received: int = 0, sent: int = 0) -> None:
        if self._logging:
            self._outside.log(
                Record(
                    self._peer,
                    self._original,
                    self._outside.now - self._started,
                    flags=flags,
                    reason="inbound",
                    cluster="InboundPassthroughCluster",
                    received=received,
                    sent=sent,
                    failure=failure,
                )
            )


class _ClientWaits:
    """Handler of the client's wire while the app is being connected."""

    def __init__(self, session: InboundSession) -> None:
        self._session = session

    def connected(self) -> None: ...
    def received(self, data: bytes) -> None: ...
    def ended(self) -> None: ...
    def drained(self) -> None: ...
    def broken(self, failure: Failure, detail: str) -> None:  # noqa: ARG002
        self._session.client_broken()
