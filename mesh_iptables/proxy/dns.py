"""Names kept fresh: each is asked for again when its time to live is over. No sockets; asking is handed in.

A name is kept as long as somebody watches it. Names that were only asked for once (`resolve`) stay until their time
is over, and there are never more than a few thousand of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

from mesh_iptables.policy.special_addresses import special
from mesh_iptables.proxy.cluster import Resolution
from mesh_iptables.proxy.dns_message import AAAA, NOERROR, NXDOMAIN, A, Answer, BadMessage
from mesh_iptables.proxy.resolv import ResolvConf, candidates, is_address
from mesh_iptables.proxy.wire import Timer

_MIN_TTL, _MAX_TTL = 1.0, 3600.0
_FAILED_TTL = 5.0  # for names that are only resolved when asked for
_KEPT_NAMES = 4096
_AT_ONCE = 256  # look-ups of names that are kept fresh; those that a client waits for are made in any case
_OWN = "this machine's own"

Told = Callable[[Resolution], None]


class Asker(Protocol):
    """Puts a question to a server; `told` gets the answer, or None when none came in time."""

    def ask(self, server: str, name: str, kind: int, timeout: float, told: Callable[[Answer | None], None]) -> None:
        """Raises BadMessage for what is no host name."""


class Clock(Protocol):
    """The part of `wire.Outside` that is needed here."""

    @property
    def now(self) -> float: ...

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer: ...


class _Entry:
    __slots__ = ("expires", "looking", "name", "resolution", "timer", "waiting", "watchers")

    def __init__(self, name: str) -> None:
        self.name = name
        self.resolution: Resolution | None = None
        self.expires = 0.0
        self.looking = False
        self.timer: Timer | None = None
        self.watchers: list[Told] = []
        self.waiting: list[Told] = []


class Resolver:
    """See `cluster.Names`."""

    def __init__(
        self,
        clock: Clock,
        asker: Asker,
        conf: ResolvConf,
        hosts: Mapping[str, tuple[str, ...]],
        *,
        refresh: float = 60.0,
        ipv6: bool = False,
        is_own: Callable[[str], bool] = lambda _address: False,
    ) -> None:
        self._clock = clock
        self._asker = asker
        self.conf = conf
        self.hosts = hosts
        self.refresh = refresh  # seconds until a name is asked for again that was not found
        self.ipv6 = ipv6
        self.absolute = False  # names are not completed by the search list
        self._is_own = is_own  # whether an address is one of this machine's
        self._entries: dict[str, _Entry] = {}
        self._queue: deque[_Entry] = deque()
        self._looking = 0

    def watch(self, name: str, told: Told) -> Callable[[], None]:
        entry = self._entry(name)
        entry.watchers.append(told)
        if entry.resolution is not None:
            told(entry.resolution)
        if entry.resolution is None or entry.expires <= self._clock.now:
            self._refresh(entry)

        def stop() -> None:
            entry.watchers.remove(told)
            self._tidy(entry)

        return stop

    def resolve(self, name: str, told: Told) -> None:
        entry = self._entry(name)
        if entry.resolution is not None and entry.expires > self._clock.now:
            told(entry.resolution)
        else:
            entry.waiting.append(told)
            self._look_up(entry)

    @property
    def known(self) -> int:
        """How many names are kept."""
        return len(self._entries)

    def _entry(self, name: str) -> _Entry:
        key = name.lower().rstrip(".")
        entry = self._entries.get(key)
        if entry is None:
            if len(self._entries) >= _KEPT_NAMES:
                self._forget_some()
            entry = self._entries[key] = _Entry(key)
        return entry

    def _forget_some(self) -> None:
        now = self._clock.now
        idle = [entry for entry in self._entries.values() if not (entry.watchers or entry.looking)]
        for entry in [entry for entry in idle if entry.expires <= now] or idle[: _KEPT_NAMES // 4]:
            del self._entries[entry.name]

    def _tidy(self, entry: _Entry) -> None:
        if not entry.watchers and entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None

    # --- looking up ---------------------------------------------------------------------------------------

    def _refresh(self, entry: _Entry) -> None:
        """Look a name up when it is its turn: each takes a descriptor, and a policy may have thousands."""
        if self._looking < _AT_ONCE:
            self._look_up(entry)
        else:
            self._queue.append(entry)

    def _next(self) -> None:
        while self._queue and self._looking < _AT_ONCE:
            entry = self._queue.popleft()
            if entry.watchers and entry.expires <= self._clock.now:
                self._look_up(entry)

    def _look_up(self, entry: _Entry) -> None:
        if entry.looking:
            return
        entry.looking = True
        self._looking += 1
        known = (entry.name,) if is_address(entry.name) else self._of_family(self.hosts.get(entry.name, ()))
        if known:
            self._settle(entry, self.found(known), self.refresh)
        else:
            names = [entry.name] if self.absolute else candidates(entry.name, self.conf)
            _Lookup(self, entry, names).next_name()

    def _of_family(self, addresses: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(address for address in addresses if (":" in address) is self.ipv6)

    def found(self, addresses: tuple[str, ...]) -> Resolution:
        """What a name resolves to, and which of that is not for everybody to connect to."""
        kinds = [(address, special(address) or (_OWN if self._is_own(address) else "")) for address in addresses]
        return Resolution(addresses, special=tuple(kind for kind in kinds if kind[1]))

    def ask(self, server: str, name: str, told: Callable[[Answer | None], None]) -> None:
        """One question to one server."""
        self._asker.ask(server, name, AAAA if self.ipv6 else A, self.conf.timeout, told)

    def settle(self, entry: _Entry, resolution: Resolution, ttl: int) -> None:
        """A look-up has ended."""
        if resolution.addresses:
            seconds = min(max(float(ttl), _MIN_TTL), _MAX_TTL)
        else:
            seconds = self.refresh if entry.watchers else _FAILED_TTL
        self._settle(entry, resolution, seconds)

    def _settle(self, entry: _Entry, resolution: Resolution, seconds: float) -> None:
        entry.looking = False
        self._looking -= 1
        entry.resolution = resolution
        entry.expires = self._clock.now + seconds
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        if entry.watchers:
            entry.timer = self._clock.call_later(seconds, lambda: self._refresh(entry))
        waiting, entry.waiting = entry.waiting, []
        for told in [*entry.watchers, *waiting]:
            told(resolution)
        if self._queue:
            self._clock.call_later(0.0, self._next)


class _Lookup:
    """Names in turn, servers in turn for each, as often as the configuration says."""

    __slots__ = ("_entry", "_names", "_resolver", "_tries")

    def __init__(self, resolver: Resolver, entry: _Entry, names: list[str]) -> None:
        self._resolver = resolver
        self._entry = entry
        self._names = names
        self._tries: list[str] = []

    def next_name(self) -> None:
        """Ask for the next candidate; when there is none, the name does not exist."""
        if not self._names:
            self._resolver.settle(self._entry, Resolution(), 0)
            return
        conf = self._resolver.conf
        self._tries = list(conf.servers) * conf.attempts
        self._next_server()

    def _next_server(self) -> None:
        if not self._tries:
            self._resolver.settle(self._entry, Resolution(failed=True), 0)
            return
        try:
            self._resolver.ask(self._tries.pop(0), self._names[0], self._told)
        except (BadMessage, UnicodeError):
            self._names.pop(0)
            self.next_name()

    def _told(self, answer: Answer | None) -> None:
        if answer is None or answer.code not in (NOERROR, NXDOMAIN):
            self._next_server()
        elif answer.addresses:
            self._resolver.settle(self._entry, self._resolver.found(answer.addresses), answer.ttl)
        else:
            self._names.pop(0)
            self.next_name()
