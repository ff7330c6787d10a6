"""TLS towards an upstream, as a `Wire` on a wire. Memory buffers only; loaded where a policy originates TLS."""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from functools import lru_cache

from mesh_iptables.proxy.wire import Address, Failure, Handler, Outside, Timer, TlsClient, Wire

_RECORD = 65536


@lru_cache(maxsize=64)
def _context(tls: TlsClient, _files: tuple[float, ...]) -> ssl.SSLContext:
    """A context for equal demands; OSError or ssl.SSLError when a file is missing or wrong."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False  # the names are a list, which `ssl` cannot check
    context.verify_mode = ssl.CERT_REQUIRED if tls.verify else ssl.CERT_NONE
    if tls.verify and tls.ca_file:
        context.load_verify_locations(tls.ca_file)
    elif tls.verify:
        context.load_default_certs()
    if tls.certificate:
        context.load_cert_chain(tls.certificate, tls.private_key)
    if tls.alpn:
        context.set_alpn_protocols(list(tls.alpn))
    return context


def _context_for(tls: TlsClient) -> ssl.SSLContext:
    files = [path for path in (tls.certificate, tls.private_key, tls.ca_file) if path]
    return _context(tls, tuple(os.stat(path).st_mtime for path in files))


def names_match(certificate: dict[str, object], names: tuple[str, ...]) -> bool:
    """Whether one of the certificate's DNS or address names is wanted; wildcards cover one label."""
    alternatives = certificate.get("subjectAltName", ())
    assert isinstance(alternatives, tuple)
    offered = [value.lower() for kind, value in alternatives if kind in ("DNS", "IP Address", "URI")]
    return any(_covers(have, want.lower()) for have in offered for want in names)


def _covers(have: str, want: str) -> bool:
    if have == want:
        return True
    if have.startswith("*."):
        label, dot, rest = want.partition(".")
        return bool(label and dot) and have[2:] == rest
    return False


class TlsWire:
    """Handshakes, then en- and decrypts; to its owner it is `connected` when the certificate was found good."""

    def __init__(self, outside: Outside, tls: TlsClient, handler: Handler, remote: Address, timeout: float) -> None:
        self._outside = outside
        self._tls = tls
        self.handler = handler
        self.remote = remote
        self._timeout = timeout
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object: ssl.SSLObject | None = None
        self._wire: Wire | None = None
        self._timer: Timer | None = None
        self._open = False
        self._over = False
        self._ended = False
        self._early = b""
        self._finishing = False

    def start(self, wire: Wire) -> None:
        """`wire` is the one below, whose handler this is."""
        self._wire = wire

    @property
    def unsent(self) -> int:
        return self._wire.unsent if self._wire is not None else 0

    @property
    def local(self) -> Address | None:
        return self._wire.local if self._wire is not None else None

    # --- events of the wire below -------------------------------------------------------------------------

    def connected(self) -> None:
        try:
            context = _context_for(self._tls)
            self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=self._tls.sni)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            self._fail(Failure.CONNECT, f"TLS: {error}")
            return
        if self._timeout:
            self._timer = self._outside.call_later(self._timeout, self._timed_out)
        self._handshake()

    def _timed_out(self) -> None:
        self._timer = None
        self._fail(Failure.CONNECT_TIMEOUT, "TLS handshake timeout")

    def _handshake(self) -> None:
        assert self._object is not None
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            self._push()
            return
        except ssl.SSLError as error:
            self._push()
            self._fail(Failure.CONNECT, f"TLS: {error.reason or error}")
            return
        self._push()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._tls.names and self._tls.verify and not self._name_is_good():
            self._fail(Failure.CONNECT, "TLS: certificate does not carry an expected name")
            return
        self._open = True
        self.handler.connected()
        if self._early and not self._over:
            early, self._early = self._early, b""
            self.send(early)
        if self._finishing:
            self.finish()
        self._decrypt()

    def _name_is_good(self) -> bool:
        assert self._object is not None
        certificate = self._object.getpeercert()
        return certificate is not None and names_match(dict(certificate), self._tls.names)

    def received(self, data: bytes) -> None:
        self._incoming.write(data)
        if self._open:
            self._decrypt()
        elif self._object is not None:
            self._handshake()

    def _decrypt(self) -> None:
        while not self._over and self._object is not None:
            try:
                data = self._object.read(_RECORD)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                self._end()
                break
            except ssl.SSLError as error:
                self._fail(Failure.TERMINATION, f"TLS: {error.reason or error}")
                return
            if not data:
                self._end()
                break
            self.handler.received(data)
        self._push()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self.handler.ended()

    def ended(self) -> None:
        if self._open:
            self._end()
        else:
            self._fail(Failure.TERMINATION, "closed in the TLS handshake")

    def broken(self, failure: Failure, detail: str) -> None:
        if not self._over:
            self._stop()
            self.handler.broken(failure, detail)

    def drained(self) -> None:
        if self._open:
            self.handler.drained()

    def _push(self) -> None:
        data = self._outgoing.read()
        if data and self._wire is not None:
            self._wire.send(data)

    def _fail(self, failure: Failure, detail: str) -> None:
        if self._over:
            return
        self._stop()
        if self._wire is not None:
            self._wire.close()
        self.handler.broken(failure, detail)

    def _stop(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- commands of the owner ----------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        if self._over or not data:
            return
        if not self._open or self._object is None:
            self._early += data
            return
        try:
            self._object.write(data)
        except ssl.SSLError:
            return  # the reading side will tell
        self._push()

    def finish(self) -> None:
        self._finishing = True
        if self._open and self._object is not None and self._wire is not None and not self._over:
            with suppress(ssl.SSLError):  # close_notify is written; the peer's own may come later
                self._object.unwrap()
            self._push()

    def close(self) -> None:
        if self._over:
            return
        self.finish()
        self._stop()
        if self._wire is not None:
            self._wire.close()

    def abort(self) -> None:
        self._stop()
        if self._wire is not None:
            self._wire.abort()

    def pause(self) -> None:
        if self._wire is not None and self._open:
            self._wire.pause()

    def resume(self) -> None:
        if self._wire is not None:
            self._wire.resume()
