"""`--allow HOST[:PORT[/PROTOCOL]]` into a compiled policy that is closed by construction. Pure.

Nothing here trusts an address the client chose. A name is allowed by Host (http) or by server name (tls), and then
the proxy resolves that very name itself; a `tcp` entry connects every client of its port to its one name; an
entry that is an address takes that destination alone. Everything else is refused. Nor does a name lead to this
machine or its nearest neighbours (`special_addresses`), unless that very address stands on the list for that port.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address, ip_address

from mesh_iptables.errors import UsageError
from mesh_iptables.policy import hosts
from mesh_iptables.policy.behaviours import behaviour_for
from mesh_iptables.policy.complaint import Complaint, Severity
from mesh_iptables.policy.model import (
    ANY_ADDRESS,
    BLACKHOLE_CLUSTER,
    RAW,
    TLS,
    Chain,
    ChainMatch,
    Cluster,
    ClusterKind,
    DefaultAction,
    DirectResponse,
    EgressPolicy,
    Endpoint,
    HttpAction,
    Listener,
    LoadBalancing,
    Origin,
    RequestMatch,
    RouteTable,
    RouteTo,
    Rule,
    TcpAction,
    VirtualHost,
    WeightedCluster,
)
from mesh_iptables.policy.settings import Settings
from mesh_iptables.policy.special_addresses import special

PROTOCOLS = ("http", "tls", "tcp")
_ALIASES = {"https": "tls"}
_DEFAULTS = ((80, "http"), (443, "tls"))
_PROTOCOL_OF = dict(_DEFAULTS)
_REDIRECT_PORT = 15001
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_CONNECT_TIMEOUT = 10.0
_INSPECT_TIMEOUT = 15.0
_SYNTAX = "HOST[:PORT[/PROTOCOL]], such as packages.example.org, *.example.com:443 or db.example.com:5432/tcp"

# 403 and words rather than the 502 of a mesh: who meets a fence should see that it is one
_REFUSAL = DirectResponse(403, "this host is not on the list of allowed hosts\n")


@dataclass(frozen=True, slots=True)
class Allowed:
    """One entry and one port of it. `host` is a name, `*.suffix` or an address."""

    host: str
    port: int
    protocol: str
    origin: Origin = field(compare=False)


def parse_allow(text: str) -> list[Allowed]:
    """What an entry allows: by default port 80 for http and port 443 for tls. Raises UsageError."""
    host, port, protocol = _parts(text)
    origin = Origin("--allow", 0, text)
    is_address = hosts.is_address(host)
    host = _address(text, host) if is_address else _name(text, host)
    if is_address and protocol not in (None, "tcp"):
        raise _error(text, "is an address, which goes with protocol tcp only")
    if protocol == "tcp" and host.startswith("*"):
        raise _error(text, "is a wildcard, which a tcp connection cannot be matched with")
    if port is None:
        return [Allowed(host, number, "tcp" if is_address else name, origin) for number, name in _DEFAULTS]
    if protocol is not None or is_address:
        return [Allowed(host, port, protocol or "tcp", origin)]
    names = (_PROTOCOL_OF[port],) if port in _PROTOCOL_OF else ("http", "tls")
    return [Allowed(host, port, name, origin) for name in names]


def _error(text: str, complaint: str) -> UsageError:
    message = f"--allow: '{text}' {complaint}"
    return UsageError("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message))


def _parts(text: str) -> tuple[str, int | None, str | None]:
    """Host, port and protocol; an IPv6 address with a port stands in brackets."""
    rest, slash, protocol = text.strip().partition("/")
    if rest.endswith(":") and protocol.startswith("/"):
        raise _error(text, f"is a URL; expected {_SYNTAX}")
    if hosts.network(text.strip()) and slash:
        raise _error(text, "is a network; of addresses only single ones can be allowed")
    protocol = _ALIASES.get(protocol.lower(), protocol.lower())
    if slash and protocol not in PROTOCOLS:
        raise _error(text, f"has protocol '{protocol}', which is not one of {', '.join(PROTOCOLS)}")
    host, port = _host_and_port(rest)
    if slash and port is None:
        raise _error(text, f"has a protocol but no port; expected {_SYNTAX}")
    return host, None if port is None else _port(text, port), protocol or None


def _host_and_port(text: str) -> tuple[str, str | None]:
    if hosts.is_address(text):  # an IPv6 address without brackets is nothing but colons
        return text, None
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, ""
    inside = host.removeprefix("[").removesuffix("]")
    if host == f"[{inside}]" and ":" in inside:
        host = inside
    return host, port if colon and not text.endswith("]") else None


def _port(text: str, port: str) -> int:
    if not (port.isascii() and port.isdecimal()) or len(port) > 5 or not 1 <= int(port) <= 65535:
        raise _error(text, f"has port '{port}', which is not a number from 1 to 65535")
    return int(port)


def _address(text: str, host: str) -> str:
    address = ip_address(host)
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address  # as its clients are seen
    if address.is_unspecified or address.is_multicast:
        raise _error(text, "is no address that a connection can be made to")
    return str(address)


def _name(text: str, host: str) -> str:
    in_ascii = host
    with suppress(UnicodeError):
        in_ascii = host.encode("idna").decode()
    if not (hosts.is_name(in_ascii) or hosts.is_wildcard(in_ascii)):
        raise _error(text, f"does not begin with a host; expected {_SYNTAX}")
    if not host.isascii():
        raise _error(text, f"is not in ASCII; write {in_ascii}")
    name = hosts.canonical(host)
    if _NUMBER.fullmatch(name.rpartition(".")[2]):  # some readers take such a name for an address
        raise _error(text, "ends in a number, as no name does, and is no address either")
    return name


def compile_fence(entries: Iterable[str], settings: Settings) -> EgressPolicy:
    """The policy that allows the entries and nothing else. Raises UsageError."""
    allowed = list(dict.fromkeys(each for entry in entries for each in parse_allow(entry)))
    redirect_port = settings.redirect_port or _REDIRECT_PORT
    _check_redirect_port(redirect_port, allowed)
    clusters = {BLACKHOLE_CLUSTER: Cluster(BLACKHOLE_CLUSTER, ClusterKind.STATIC)}
    listeners: dict[tuple[str, int], Listener] = {}
    for key, members in _by_listener(allowed).items():
        listeners[key] = _listener(*key, members, settings)
        addresses = _addresses(allowed, key[1])
        clusters.update((cluster.name, cluster) for each in members for cluster in [_cluster(each, addresses)])
    return EgressPolicy(
        profile=settings.profile,
        identity=settings.identity,
        # else a search list could give a name that does not exist to whoever owns a part of that list
        behaviour=replace(behaviour_for(settings), absolute_names=all(map(_is_absolute, allowed))),
        listeners=listeners,
        clusters=clusters,
        default=DefaultAction.BLACKHOLE,
        redirect_port=redirect_port,
    )


def fence_complaints(entries: Iterable[str]) -> Iterator[Complaint]:
    """What is allowed, but perhaps not as meant; one for each entry at most."""
    for entry in dict.fromkeys(entries):
        each, *_ = parse_allow(entry)
        name = each.host.removeprefix("*.")
        if hosts.is_address(name):
            kind = special(name)
            if kind:
                text = f"is {kind}: names that are allowed for its ports may lead there, too"
                yield Complaint(Severity.NOTE, "allow-special", each.origin, text)
        elif "." in name:
            continue
        elif name != each.host:
            text = f"allows every name under {name}, also those of whoever registers one"
            yield Complaint(Severity.WARNING, "allow-broad", each.origin, text)
        else:
            text = "has no dot, so that this name and all others are completed by the search list of /etc/resolv.conf"
            yield Complaint(Severity.WARNING, "allow-search", each.origin, text)


def _check_redirect_port(port: int, allowed: Iterable[Allowed]) -> None:
    for each in allowed:
        if each.port == port:
            raise _error(each.origin.resource, f"wants the redirect port {port}, where every connection is closed")


def _is_absolute(allowed: Allowed) -> bool:
    return "." in allowed.host or hosts.is_address(allowed.host)


def _addresses(allowed: Iterable[Allowed], port: int) -> tuple[str, ...]:
    """The addresses that are allowed themselves, and so may be what an allowed name leads to."""
    return tuple(each.host for each in allowed if each.port == port and hosts.is_address(each.host))


def _by_listener(allowed: Iterable[Allowed]) -> dict[tuple[str, int], list[Allowed]]:
    groups: dict[tuple[str, int], list[Allowed]] = defaultdict(list)
    for each in allowed:
        groups[each.host if hosts.is_address(each.host) else ANY_ADDRESS, each.port].append(each)
    for (_, port), members in groups.items():
        _check_tcp(port, members)
    return groups


def _check_tcp(port: int, members: Sequence[Allowed]) -> None:
    """A tcp entry takes its whole port, so that nothing else can share it."""
    tcp = [each for each in members if each.protocol == "tcp"]
    others = [each for each in members if tcp and each is not tcp[0]]
    if others:
        names = f"'{tcp[0].origin.resource}' and '{others[0].origin.resource}'"
        raise UsageError(f"--allow: {names} both want port {port}: a tcp connection does not say which it means")


def _listener(address: str, port: int, members: Sequence[Allowed], settings: Settings) -> Listener:
    chains = [*_http_chain(port, members, settings), *_tcp_chains(members)]
    return Listener(
        name=f"{address}_{port}",
        address=address,
        port=port,
        chains=tuple(chains),
        inspect_tls=any(chain.match.sni for chain in chains),
        inspect_http=any(chain.match.protocols for chain in chains),
        inspect_timeout=settings.options.listener_filter_timeout or _INSPECT_TIMEOUT,
    )


def _http_chain(port: int, members: Sequence[Allowed], settings: Settings) -> Iterator[Chain]:
    vhosts = tuple(_vhost(each) for each in members if each.protocol == "http")
    if not vhosts:
        return
    refusal = VirtualHost("refused", ("*",), (Rule("refused", RequestMatch(), _REFUSAL),))
    table = RouteTable(str(port), vhosts, ignore_port=False, fallback=refusal)
    versions = ("http/1.0",) if settings.options.accept_http_10 else ()
    match = ChainMatch(transport=RAW, protocols=(*versions, "http/1.1", "h2c"))
    yield Chain(f"http.{port}", match, HttpAction(table), vhosts[0].origin)


def _vhost(allowed: Allowed) -> VirtualHost:
    rule = Rule("allowed", RequestMatch(), RouteTo((WeightedCluster(_cluster_name(allowed)),)), origin=allowed.origin)
    return VirtualHost(f"{allowed.host}:{allowed.port}", _domains(allowed), (rule,), allowed.origin)


def _domains(allowed: Allowed) -> tuple[str, ...]:
    """With the port; without it only where that is what a client writes, or where one name is meant anyway."""
    with_port = f"{allowed.host}:{allowed.port}"
    if allowed.host.startswith("*") and allowed.port != 80:
        return (with_port,)
    return (allowed.host, with_port)


def _tcp_chains(members: Sequence[Allowed]) -> Iterator[Chain]:
    for each in members:
        if each.protocol == "http":
            continue
        match = ChainMatch(sni=(each.host,), transport=TLS) if each.protocol == "tls" else ChainMatch()
        action = TcpAction((WeightedCluster(_cluster_name(each)),))
        yield Chain(f"{each.protocol}.{each.host}:{each.port}", match, action, each.origin)


def _cluster_name(allowed: Allowed) -> str:
    if allowed.protocol == "tcp":
        return f"allow|{allowed.port}|tcp|{allowed.host}"
    return f"allow|{allowed.port}|{allowed.protocol}|requested-name"


def _cluster(allowed: Allowed, permitted: tuple[str, ...]) -> Cluster:
    """For http and tls one per port, which resolves the name asked for; for tcp the name or address itself."""
    name = _cluster_name(allowed)
    if allowed.protocol != "tcp":
        return Cluster(
            name,
            ClusterKind.FORWARD,
            port=allowed.port,
            port_override=allowed.port,
            connect_timeout=_CONNECT_TIMEOUT,
            lb=LoadBalancing.CLUSTER_PROVIDED,
            guarded=True,
            permitted=permitted,
            origin=allowed.origin,
        )
    is_address = hosts.is_address(allowed.host)
    kind = ClusterKind.STATIC if is_address else ClusterKind.STRICT_DNS
    return Cluster(
        name,
        kind,
        host=allowed.host,
        port=allowed.port,
        endpoints=(Endpoint(allowed.host, allowed.port),),
        connect_timeout=_CONNECT_TIMEOUT,
        guarded=not is_address,
        permitted=() if is_address else permitted,
        origin=allowed.origin,
    )
