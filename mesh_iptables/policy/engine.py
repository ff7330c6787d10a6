"""Decide one connection or request by a compiled policy: facts in, decision with its reason out. Pure and fast.

    index = PolicyIndex(policy)                        once per policy
    taken = index.listener_for(address, port)          once per connection: ListenerIndex or Deny (close)
    taken.inspection_for(port)                         which first bytes to wait for, and how long; may be "none"
    chain = taken.chain_for(address, port, found)      ChainIndex or Deny (close)
    chain.routes.route_for(request)                    once per request, on HTTP chains: Routed or Deny (404)

A chain is chosen as Envoy does it: destination port, destination range (longest prefix), SNI (exact, longest
wildcard, none), transport, application protocol. Each criterion narrows to the most specific branch that fits
and is never revisited; a branch that leads nowhere means the listener's default chain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from socket import inet_aton

from mesh_iptables.policy.hosts import by_suffix
from mesh_iptables.policy.model import (
    ANY_ADDRESS,
    ANY_PORT,
    RAW,
    Chain,
    ChainMatch,
    DefaultAction,
    EgressPolicy,
    HttpAction,
    Listener,
)
from mesh_iptables.policy.routing import Deny, Reason, RouteIndex

LOOP = Deny(Reason.LOOP)
NO_LISTENER = Deny(Reason.NO_LISTENER)
NO_CHAIN = Deny(Reason.NO_CHAIN)
NOT_OPEN = Deny(Reason.NOT_OPEN)


@dataclass(frozen=True, slots=True)
class Inspection:
    """Which first bytes to wait for. Neither: do not wait at all. `timeout` 0.0: wait for ever."""

    tls: bool
    http: bool
    timeout: float


NO_INSPECTION = Inspection(False, False, 0.0)


@dataclass(frozen=True, slots=True)
class Inspected:
    """What the first bytes showed. `sni` lower case or empty; `protocols` the ALPN, or the one HTTP version."""

    transport: str = RAW
    sni: str = ""
    protocols: tuple[str, ...] = ()


NOTHING = Inspected()
"""What a connection without inspection, or whose inspection timed out, has shown."""


@dataclass(frozen=True, slots=True)
class ChainIndex:
    """The chain that takes a connection; `routes` is set for HTTP chains."""

    chain: Chain
    reason: Reason
    routes: RouteIndex | None


class PolicyIndex:
    """An `EgressPolicy` prepared for look-ups."""

    __slots__ = ("_anywhere", "_listeners", "_redirect_port", "policy")

    def __init__(self, policy: EgressPolicy) -> None:
        self.policy = policy
        self._redirect_port = policy.redirect_port
        tables: dict[int, RouteIndex] = {}  # one listener's table may serve several chains
        self._listeners = {key: ListenerIndex(value, tables) for key, value in policy.listeners.items()}
        self._anywhere = self._listeners.get((ANY_ADDRESS, ANY_PORT)) or self._catch_all(tables)

    def _catch_all(self, tables: dict[int, RouteIndex]) -> ListenerIndex | Deny:
        if self.policy.default is DefaultAction.REFUSE:
            return NOT_OPEN
        if self.policy.default_chain is None:
            return NO_LISTENER
        passthrough = Listener("virtualOutbound", ANY_ADDRESS, ANY_PORT, (), self.policy.default_chain)
        return ListenerIndex(passthrough, tables)

    def listener_for(self, address: str, port: int) -> ListenerIndex | Deny:
        """The listener for an original destination. `Deny`: close at once (NOT_OPEN: do not even listen)."""
        if port == self._redirect_port:
            return LOOP
        listeners = self._listeners
        return listeners.get((address, port)) or listeners.get((ANY_ADDRESS, port)) or self._anywhere


class ListenerIndex:
    """A `Listener` prepared for look-ups."""

    __slots__ = ("_default", "_inspection", "_ports", "_seen", "listener")

    def __init__(self, listener: Listener, tables: dict[int, RouteIndex] | None = None) -> None:
        self.listener = listener
        tables = {} if tables is None else tables
        self._inspection = _inspection(listener)
        self._default: ChainIndex | Deny = NO_CHAIN
        if listener.default_chain is not None:
            self._default = _chain_index(listener.default_chain, Reason.PASSTHROUGH, tables)
        self._seen: dict[tuple[str, int], ChainIndex | Deny] = {}
        self._ports: dict[int, _Ranges] = {}
        for chain in listener.chains:
            ranges = self._ports.setdefault(chain.match.dst_port, _Ranges())
            ranges.add(chain.match, _chain_index(chain, Reason.ALLOWED, tables))

    def inspection_for(self, port: int) -> Inspection:
        """What to wait for on a connection to destination `port`."""
        return NO_INSPECTION if port in self.listener.opaque_ports else self._inspection

    def chain_for(self, address: str, port: int, found: Inspected = NOTHING) -> ChainIndex | Deny:
        """The chain that takes a connection to `address:port` whose first bytes showed `found`."""
        if found is not NOTHING:
            return self._chain_for(address, port, found)
        chain = self._seen.get((address, port))
        if chain is None:
            if len(self._seen) >= _SEEN_SIZE:
                self._seen.clear()
            chain = self._seen[address, port] = self._chain_for(address, port, found)
        return chain

    def _chain_for(self, address: str, port: int, found: Inspected) -> ChainIndex | Deny:
        ranges = self._ports.get(port) or self._ports.get(ANY_PORT)
        names = ranges.names_for(address) if ranges else None
        transports = names.transports_for(found.sni) if names else None
        if transports is None:
            return self._default
        protocols = transports.get(found.transport) or transports.get("")
        return _by_protocol(protocols, found.protocols) or self._default if protocols else self._default


_SEEN_SIZE = 1024
_Protocols = dict[str, ChainIndex]
_Transports = dict[str, _Protocols]


@dataclass(slots=True)
class _Names:
    """Branches by server name."""

    exact: dict[str, _Transports] = field(default_factory=dict)
    suffixes: dict[str, _Transports] = field(default_factory=dict)
    unnamed: _Transports | None = None

    def add(self, match: ChainMatch, chain: ChainIndex) -> None:
        for name in match.sni or ("",):
            protocols = self._branch(name).setdefault(match.transport, {})
            for protocol in match.protocols or ("",):
                protocols.setdefault(protocol, chain)

    def _branch(self, name: str) -> _Transports:
        if name.startswith("*."):
            return self.suffixes.setdefault(name[1:], {})
        if name:
            return self.exact.setdefault(name, {})
        if self.unnamed is None:
            self.unnamed = {}
        return self.unnamed

    def transports_for(self, sni: str) -> _Transports | None:
        found = self.exact.get(sni)
        if found is None and sni and self.suffixes:
            found = by_suffix(self.suffixes, sni)
        return self.unnamed if found is None else found


class _Ranges:
    """Branches by destination range; a prefix length is tried before every shorter one."""

    __slots__ = ("_by_length", "_everywhere", "_lengths")

    def __init__(self) -> None:
        self._by_length: dict[tuple[int, int], dict[int, _Names]] = {}  # (version, shift) -> network -> branch
        self._lengths: list[tuple[int, int]] = []
        self._everywhere: _Names | None = None

    def add(self, match: ChainMatch, chain: ChainIndex) -> None:
        for names in self._branches(match.dst_cidrs):
            names.add(match, chain)

    def _branches(self, cidrs: Iterable[str]) -> Iterable[_Names]:
        cidrs = tuple(cidrs)
        if not cidrs:
            if self._everywhere is None:
                self._everywhere = _Names()
            return [self._everywhere]
        return [self._branch(cidr) for cidr in cidrs]

    def _branch(self, cidr: str) -> _Names:
        network = ip_network(cidr, strict=False)
        key = (network.version, network.max_prefixlen - network.prefixlen)
        if key not in self._by_length:
            self._by_length[key] = {}
            self._lengths = sorted(self._by_length, key=lambda length: length[1])
        return self._by_length[key].setdefault(int(network.network_address) >> key[1], _Names())

    def names_for(self, address: str) -> _Names | None:
        if not self._lengths:
            return self._everywhere
        version, number = _number(address)
        for length in self._lengths:
            if length[0] == version:
                found = self._by_length[length].get(number >> length[1])
                if found is not None:
                    return found
        return self._everywhere


def _number(address: str) -> tuple[int, int]:
    """IP version and the address as a number; a twentieth of what `ipaddress` takes for IPv4."""
    if ":" not in address:
        return 4, int.from_bytes(inet_aton(address), "big")
    return 6, int(ip_address(address))


def _by_protocol(chains: Mapping[str, ChainIndex], protocols: Iterable[str]) -> ChainIndex | None:
    for protocol in protocols:
        if protocol in chains:
            return chains[protocol]
    return chains.get("")


def _chain_index(chain: Chain, reason: Reason, tables: dict[int, RouteIndex]) -> ChainIndex:
    if not isinstance(chain.action, HttpAction):
        return ChainIndex(chain, reason, None)
    table = chain.action.routes
    return ChainIndex(chain, reason, tables.setdefault(id(table), RouteIndex(table)))


def _inspection(listener: Listener) -> Inspection:
    if not (listener.inspect_tls or listener.inspect_http):
        return NO_INSPECTION
    return Inspection(listener.inspect_tls, listener.inspect_http, listener.inspect_timeout)
