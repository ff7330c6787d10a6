"""The proxy's one thread: sockets, timers, signals. Carries out what the state machines ask for."""

from __future__ import annotations

import errno
import gc
import os
import random
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from socket import SocketType
from typing import TYPE_CHECKING

from mesh_iptables.errors import MeshIptablesError
from mesh_iptables.policy.engine import PolicyIndex
from mesh_iptables.policy.model import DefaultAction, EgressPolicy
from mesh_iptables.proxy.access_log import Formatter, LogFormat, Record
from mesh_iptables.proxy.admin import AdminConnection, Writers
from mesh_iptables.proxy.cluster import Clusters
from mesh_iptables.proxy.connection import Active, Connection
from mesh_iptables.proxy.dns import Resolver
from mesh_iptables.proxy.dns_socket import SocketAsker
from mesh_iptables.proxy.inbound import InboundSession
from mesh_iptables.proxy.listeners import Listening, Role
from mesh_iptables.proxy.log_file import LogFile
from mesh_iptables.proxy.loop import LEVEL_READ, Loop, LoopTimer
from mesh_iptables.proxy.original_dst import plain, read_original_dst
from mesh_iptables.proxy.own_addresses import is_own
from mesh_iptables.proxy.pools import make_pool
from mesh_iptables.proxy.relay import PipePool, Relay
from mesh_iptables.proxy.reload import Reload
from mesh_iptables.proxy.request_ids import RequestIds
from mesh_iptables.proxy.resolv import ResolvConf, parse_hosts, parse_resolv_conf
from mesh_iptables.proxy.sockets import SocketWire
from mesh_iptables.proxy.stats import Stats
from mesh_iptables.proxy.surroundings import Surroundings
from mesh_iptables.proxy.tunnel import Tunnel
from mesh_iptables.proxy.wire import Address, Failure, Handler, TlsClient, Wire

if TYPE_CHECKING:
    from mesh_iptables.policy.envoy import Site

_ACCEPTS_PER_ROUND = 64
_ACCEPT_PAUSE = 0.2  # seconds without descriptors to spare
_SWEEP = 30.0  # seconds between looks for idle relays, unless one may be idle for a short time only
_SHORTEST_SWEEP = 0.5
_LOOKS = 4  # at a relay, within the time it may be idle
_FLUSH = 0.1  # seconds an access log line may wait
_ADMIN_PATIENCE = 10.0  # seconds for a request to the admin port and for its answer
_MAX_ADMINS = 32  # connections to it at a time
_COMPLAINT_PAUSE = 60.0  # seconds between two lines about one trouble
_SPARE_FDS = 128  # for DNS, pipes, admin
# plain numbers: the enums of `socket` take a microsecond to combine
_INET, _INET6, _STREAM = int(socket.AF_INET), int(socket.AF_INET6), int(socket.SOCK_STREAM)
_NEW_STREAM = int(socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
_TCP, _NODELAY = int(socket.IPPROTO_TCP), int(socket.TCP_NODELAY)
_RESOLV_CONF, _HOSTS = "/etc/resolv.conf", "/etc/hosts"


@dataclass(frozen=True, slots=True)
class Settings:
    """How the runtime behaves, beside its policy; `drain` and `idle` are seconds."""

    access_log: str = "-"
    log_format: LogFormat = LogFormat.TEXT
    identity: str = ""
    max_connections: int = 0  # 0: as many as there are descriptors for
    drain: float = 5.0
    site: Callable[[], Site] | None = None  # asked when somebody wants to know


class Runtime:
    """Implements `wire.Outside`. `load` reads and compiles the policy anew, in a child; it may raise MeshIptablesError.

    `open_outbound` opens the redirect port when a new policy wants it open and the old one did not.
    """

    def __init__(
        self,
        policy: EgressPolicy,
        load: Callable[[], EgressPolicy],
        listening: list[Listening],
        settings: Settings,
        open_outbound: Callable[[], list[Listening]] | None = None,
    ) -> None:
        self._open_outbound = open_outbound
        self._settings = settings
        self._listening = listening
        self.loop = Loop()
        self.stats = Stats()
        self.started = time.time()
        self.chance = random.Random().random
        self.pipes = PipePool()
        self._relays: set[Relay] = set()
        self._pace = _SWEEP  # seconds between two looks at them, a part of the shortest time one may be idle
        self._sweeping: LoopTimer | None = None
        self._open: set[Wire] = set()
        self._inbound: dict[Address, InboundSession] = {}
        self._local: dict[str, bool] = {}
        self.inbound_by_loopback = False
        self._own_ports = frozenset(item.port for item in listening)
        self.max_connections = _connection_limit(settings.max_connections)
        self._log = _log_file(settings.access_log)
        self._formatter = Formatter(settings.log_format, settings.identity)
        self._date = (-1, b"")
        self.draining = False
        self.full = False  # new connections wait until others have ended
        self._starved = False  # there was no descriptor for a new one
        self._complained = float("-inf")
        self._admins = 0
        self._writers = Writers(self.loop)
        self.policy = policy
        self._resolver = Resolver(
            *(self, SocketAsker(self.loop), ResolvConf(), {}),
            refresh=policy.behaviour.dns_refresh,
            is_own=self._is_local,
        )
        self.active = self._activate(policy)
        self._reload = Reload(self.loop, load, self._take, self._keep)

    # --- the policy ---------------------------------------------------------------------------------------

    def _activate(self, policy: EgressPolicy) -> Active:
        self._read_resolver_files()
        self._resolver.refresh = policy.behaviour.dns_refresh
        self._resolver.ipv6 = policy.behaviour.ipv6
        self._resolver.absolute = policy.behaviour.absolute_names
        clusters = Clusters(policy.clusters, self, self._resolver, make_pool)
        surroundings = Surroundings(self, clusters, self.stats, RequestIds(), self._log is not None)
        return Active(PolicyIndex(policy), surroundings)

    def _read_resolver_files(self) -> None:
        self._resolver.conf = parse_resolv_conf(_read(_RESOLV_CONF))
        self._resolver.hosts = parse_hosts(_read(_HOSTS))

    def _keep(self, reason: str) -> None:
        self.stats.reload_failures += 1
        say(f"policy not reloaded, the running one stays in force: {reason}")

    def _take(self, policy: EgressPolicy) -> None:
        """Take a changed policy into use; connections under way go on with the one they began with."""
        old = self.active
        self.policy = policy
        self.active = self._activate(policy)
        self.active.surroundings.clusters.start()
        old.surroundings.clusters.retire()
        self._follow_policy()
        self.stats.reloads += 1
        say("policy reloaded")

    def _follow_policy(self) -> None:
        """Open or close the redirect port as the policy wants it; sockets that were handed in stay."""
        outbound = [item for item in self._listening if item.role is Role.OUTBOUND]
        if self._open_outbound is None or bool(outbound) == opens_outbound(self.policy):
            return
        if outbound:
            self._close(outbound)
            return
        try:
            opened = self._open_outbound()
        except MeshIptablesError as error:
            say(str(error))
            return
        self._listening += opened
        self._own_ports |= {item.port for item in opened}
        self._accept_where_possible()

    def _close(self, listening: list[Listening]) -> None:
        for item in listening:
            self.loop.forget(item.sock.fileno())
            item.sock.close()
        self._listening = [item for item in self._listening if item not in listening]

    # --- running ------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until told to stop."""
        self._accept_where_possible()
        self.loop.call_soon(self.active.surroundings.clusters.start)
        self._sweeping = self.loop.call_later(self._pace, self._sweep)
        self._watch_signals()
        self.loop.failed = self._survive
        _tame_collector()
        self.loop.run()
        self._reload.stop()
        if self._log is not None:
            self._log.flush()

    def _survive(self, call: Callable[..., None], error: Exception) -> None:
        """A mistake of ours costs one connection, not the proxy."""
        self.stats.mistakes += 1
        say("".join(traceback.format_exception(error)).rstrip())
        owner = getattr(call, "__self__", None)
        if isinstance(owner, SocketWire | Relay):
            owner.abort()

    def _watch_signals(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, lambda _number, _frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])  # one may have come while the policy was compiled
        self._signal_sockets = ours, theirs
        self.loop.watch(ours.fileno(), self._signalled, LEVEL_READ)

    def _signalled(self, _events: int) -> None:
        for number in self._signal_sockets[0].recv(64):
            if number == signal.SIGHUP:
                self._reload.ask()
                self._reopen_log()
            elif number == signal.SIGUSR1:
                self._reopen_log()
            else:
                self.stop()

    def _reopen_log(self) -> None:
        if self._log is not None and self._settings.access_log != "-":
            try:
                self._log.reopen()
            except OSError as error:
                say(f"access log not reopened: {error}")

    def stop(self) -> None:
        """Accept no more, let what is under way end; asked a second time, end at once."""
        if self.draining:
            self.loop.stop()
            return
        self.draining = True
        self._reload.stop()
        self._close([item for item in self._listening if item.role is not Role.ADMIN])
        for wire in list(self._open):
            retire = getattr(wire.handler, "retire", None)
            if retire is not None:
                retire()
        self.loop.call_later(self._settings.drain, self.loop.stop)
        self._check_drained()

    def _check_drained(self) -> None:
        if not self.stats.active:
            self.loop.stop()
        else:
            self.loop.call_later(0.05, self._check_drained)

    # --- accepting ----------------------------------------------------------------------------------------

    def _accept_where_possible(self) -> None:
        """Watch the listeners; where nothing can be accepted now, clients wait in the kernel's queue."""
        for item in self._listening:
            self.loop.forget(item.sock.fileno())
            if not self._starved and (item.role is Role.ADMIN or not self.full):
                self.loop.watch(item.sock.fileno(), self._acceptor(item), LEVEL_READ)

    def _acceptor(self, item: Listening) -> Callable[[int], None]:
        take = {Role.OUTBOUND: self._outbound, Role.INBOUND: self._inbound_only, Role.ADMIN: self._administer}
        serve, listener, own = take[item.role], item.sock, item.own
        family = int(listener.family)

        def accept(_events: int) -> None:
            for _ in range(_ACCEPTS_PER_ROUND):
                try:
                    # `accept` would wrap the descriptor twice, which costs a tenth of the connection rate
                    fd, peer = listener._accept()  # type: ignore[attr-defined]  # typeshed leaves it out
                except BlockingIOError:
                    return
                except OSError as error:
                    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                        self._starve()
                    return  # else: that client has gone again
                sock = SocketType(family, _STREAM, 0, fd)
                sock.setblocking(False)
                serve(sock, plain(peer) if family != _INET else peer, own)
                if self.stats.active >= self.max_connections:
                    self._fill()
                    return

        return accept

    def _fill(self) -> None:
        """There are as many connections as there may be; the admin port stays open, or a probe would end us."""
        if not self.full:
            self.full = True
            self._pause(f"{self.max_connections} connections are open, as --max-connections allows")

    def _starve(self) -> None:
        """There are no descriptors left, for the admin port neither."""
        if not self._starved:
            self._starved = True
            self._pause("no descriptors or memory left for connections")
            self.loop.call_later(_ACCEPT_PAUSE, self._fed)

    def _fed(self) -> None:
        self._starved = False
        self._accept_where_possible()

    def _pause(self, why: str) -> None:
        self.stats.pauses += 1
        self._accept_where_possible()
        if self.loop.now - self._complained > _COMPLAINT_PAUSE:
            self._complained = self.loop.now
            say(f"{why}: new ones wait until others end")

    def _left(self) -> None:
        """A client's connection has ended."""
        self.stats.active -= 1
        if self.full and self.stats.active < self.max_connections:
            self.full = False
            self._accept_where_possible()

    def _outbound(self, sock: SocketType, peer: Address, own: bool) -> None:
        try:
            original = read_original_dst(sock, sock.family)
        except OSError:
            sock.close()
            return
        self.stats.accepted += 1
        if own and original[1] not in self._own_ports and self._is_local(original[0]):
            self._pass_inbound(sock, peer, original)
            return
        wire = self._adopt(sock, peer)
        connection = Connection(self.active, wire, peer, original)
        wire.handler = connection
        wire.watch()
        connection.accepted()

    def _adopt(self, sock: SocketType, peer: Address) -> SocketWire:
        wire = SocketWire(self.loop, sock, _NOBODY, peer)
        self.stats.active += 1
        wire.gone = self._gone
        self._open.add(wire)
        return wire

    def _gone(self, wire: SocketWire) -> None:
        self._open.discard(wire)
        self._left()

    def _inbound_only(self, sock: SocketType, peer: Address, own: bool) -> None:
        try:
            original = read_original_dst(sock, sock.family)
        except OSError:
            sock.close()
            return
        self.stats.accepted += 1
        if original[1] in self._own_ports or (own and not self._is_local(original[0])):
            self.stats.loops += 1
            sock.close()
            return
        self._pass_inbound(sock, peer, original)

    def _pass_inbound(self, sock: SocketType, peer: Address, original: Address) -> None:
        looped = self._inbound.get(peer)
        if looped is not None:  # our own connection to the app came back to us by the rules
            self.stats.loops += 1
            sock.close()
            looped.looped()
            return
        wire = self._adopt(sock, peer)
        session = InboundSession(self, wire, peer, original, logging=self._log is not None)
        wire.handler = session.client
        wire.watch()
        session.begin()

    def claim_source(self, source: Address, session: InboundSession) -> None:
        """Remember that the connection from `source` is our own."""
        self._inbound[source] = session

    def release_source(self, source: Address) -> None:
        """Forget it."""
        self._inbound.pop(source, None)

    def _is_local(self, address: str) -> bool:
        known = self._local.get(address)
        if known is None:
            if len(self._local) >= 4096:
                self._local.clear()
            known = self._local[address] = is_own(address)
        return known

    def _administer(self, sock: SocketType, peer: Address, _own: bool) -> None:
        if self._admins >= _MAX_ADMINS:
            sock.close()
            return
        wire = SocketWire(self.loop, sock, _NOBODY, peer)
        self._admins += 1
        connection = wire.handler = AdminConnection(self, self._writers, wire)

        def gone(_wire: SocketWire) -> None:
            self._admins -= 1
            connection.gone()

        wire.gone = gone
        wire.watch()
        self.loop.call_later(_ADMIN_PATIENCE, wire.abort)

    # --- wire.Outside -------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self.loop.now

    def call_later(self, seconds: float, call: Callable[[], None]) -> LoopTimer:
        return self.loop.call_later(seconds, call)

    def connect(
        self, address: Address, handler: Handler, timeout: float, tls: TlsClient | None, source: str | None = None
    ) -> Wire:
        if tls is not None:
            from mesh_iptables.proxy.tls import TlsWire  # loading `ssl` takes longer than a small proxy needs to start

            wire = TlsWire(self, tls, handler, address, timeout)
            wire.start(self._connect(address, wire, timeout, source))
            return wire
        return self._connect(address, handler, timeout, source)

    def _connect(self, address: Address, handler: Handler, timeout: float, source: str | None) -> SocketWire:
        wire = SocketWire(self.loop, None, handler, address)
        try:
            if address[1] in self._own_ports and self._is_local(address[0]):
                self.stats.loops += 1
                raise OSError(errno.ELOOP, "own listener")
            wire.sock = sock = _stream_socket(address[0])
            if source is not None:
                sock.bind((source, 0))
            error = sock.connect_ex(address)
            if error not in (0, errno.EINPROGRESS):
                raise OSError(error, os.strerror(error))
        except OSError as error:
            reason = errno.errorcode.get(error.errno or 0, "failed")
            self.loop.call_soon(lambda: wire.fail(Failure.CONNECT, reason))
            return wire
        self.stats.upstream_connections += 1
        wire.await_connect(timeout)
        return wire

    def relay(self, client: Wire, upstream: Wire, done: Callable[[int, int], None], idle: float) -> None:
        if not (isinstance(client, SocketWire) and isinstance(upstream, SocketWire)):
            Tunnel(self, client, upstream, done, idle).start()
            return
        unsent_down, unsent_up = client.take_unsent(), upstream.take_unsent()
        if client.sock is None or upstream.sock is None:  # one of them has just gone
            client.abort()
            upstream.abort()
            done(0, 0)
            return
        counted = client.gone is not None
        first, second = client.detach(), upstream.detach()
        self._open.discard(client)
        relay = Relay(self, first, second, done, idle, counted=counted)
        self._relays.add(relay)
        if idle and (pace := _pace_for(idle)) < self._pace:
            self._look_more_often(pace)
        relay.start(unsent_up, unsent_down, client.unread, upstream.unread)

    def relay_over(self, relay: Relay) -> None:
        """See `relay.Keeper`."""
        self._relays.discard(relay)
        if relay.counted:
            self._left()

    def _look_more_often(self, pace: float) -> None:
        self._pace = pace
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = self.loop.call_later(self._pace, self._sweep)

    def site(self) -> Site:
        """Where we run, for dumps."""
        from mesh_iptables.policy.envoy import Site  # what a proxy does not need to serve

        return self._settings.site() if self._settings.site is not None else Site()

    def _sweep(self) -> None:
        self._local.clear()  # addresses come and go
        now = self.loop.now
        limits = [relay.idle_limit for relay in self._relays if relay.idle_limit]
        self._pace = _pace_for(min(limits, default=_CLIENT_IDLE))
        self._sweeping = self.loop.call_later(self._pace, self._sweep)
        for relay in list(self._relays):
            if not relay.idle_since:
                relay.idle_since = now
            elif relay.idle_limit and now - relay.idle_since >= relay.idle_limit:
                relay.abort()
        for wire in list(self._open):
            if getattr(wire.handler, "last_used", now) < now - _CLIENT_IDLE:
                retire = getattr(wire.handler, "retire", None)
                if retire is not None:
                    retire()

    def date_line(self) -> bytes:
        second = int(self.loop.now)
        if second != self._date[0]:
            text = time.strftime("date: %a, %d %b %Y %H:%M:%S GMT\r\n", time.gmtime())
            self._date = second, text.encode()
        return self._date[1]

    def log(self, record: Record) -> None:
        if self._log is None:
            return
        record.started = time.time() - record.seconds
        if self._log.write(self._formatter.line(record)):
            self.loop.call_later(_FLUSH, self._flush)

    def _flush(self) -> None:
        if self._log is not None:
            self._log.flush()
            if self._log.waiting:
                self.loop.call_later(_FLUSH, self._flush)


_CLIENT_IDLE = 3600.0  # seconds without a request on an HTTP connection


def _pace_for(idle: float) -> float:
    """Seconds between two looks at relays of which one may be idle for so long."""
    return min(_SWEEP, max(_SHORTEST_SWEEP, idle / _LOOKS))


class _Nobody:
    """Handler of a wire that has none yet."""

    def connected(self) -> None: ...
    def received(self, data: bytes) -> None: ...
    def ended(self) -> None: ...
    def broken(self, failure: Failure, detail: str) -> None: ...
    def drained(self) -> None: ...


_NOBODY = _Nobody()


def _tame_collector() -> None:
    """What is there now stays; what comes is freed by counting references, cycles being rare."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _log_file(path: str) -> LogFile | None:
    file = LogFile(path) if path else None
    return None if file is not None and file.is_null else file


def _stream_socket(address: str) -> SocketType:
    sock = SocketType(_INET6 if ":" in address else _INET, _NEW_STREAM)
    sock.setsockopt(_TCP, _NODELAY, 1)
    return sock


def _connection_limit(wanted: int) -> int:
    """Raise the limit of open files as far as allowed; how many connections may be open at a time.

    A connection takes a descriptor, and mostly a second one for its upstream, which is what 0 reckons with.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    left = max(2, hard - _SPARE_FDS)
    if wanted > left:
        say(f"no more than {left} connections at a time: there may be {hard} open files")
    return min(wanted or left // 2, left)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def say(text: str) -> None:
    """One line about the run."""
    print(f"mesh-iptables: proxy: {text}", file=sys.stderr, flush=True)  # noqa: T201


def opens_outbound(policy: EgressPolicy) -> bool:
    """Whether the redirect port is opened at all under this policy."""
    return policy.default is not DefaultAction.REFUSE
