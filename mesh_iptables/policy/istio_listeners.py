"""Services and VirtualServices into listeners and their chains, for Istio. Pure.

Who gets a port when several services want it, in the order of creation:
* HTTP joins HTTP: they share the route table of the port, on 0.0.0.0 whatever their addresses;
* TCP and TLS chains with different matches (range, server name) share a listener, of equal ones the older stays;
* HTTP and TCP share it by HTTP inspection, except that MySQL and Mongo (their servers speak first) and HTTP
  exclude each other; Istio 1.0 inspects nothing, so that there HTTP and TCP always exclude each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from mesh_iptables.policy import hosts
from mesh_iptables.policy import istio_schema as istio
from mesh_iptables.policy.chains import ChainSet
from mesh_iptables.policy.complaint import Complaint
from mesh_iptables.policy.istio_checks import TLS_PROTOCOLS
from mesh_iptables.policy.istio_clusters import cluster_name
from mesh_iptables.policy.istio_routes import (
    Registry,
    VirtualServiceDocument,
    passthrough_cluster,
    route_table,
    table_of_one,
)
from mesh_iptables.policy.istio_services import Protocol, Service
from mesh_iptables.policy.model import (
    ANY_ADDRESS,
    RAW,
    Chain,
    ChainMatch,
    HttpAction,
    Listener,
    TcpAction,
    WeightedCluster,
)

_SERVER_FIRST = ("MYSQL", "MONGO")


@dataclass(frozen=True, slots=True)
class Dialect:
    """How this Istio detects protocols."""

    inspects: bool  # False: Istio 1.0
    accept_http_10: bool
    inspect_timeout: float

    @property
    def http_protocols(self) -> tuple[str, ...]:
        return ("http/1.0", "http/1.1", "h2c") if self.accept_http_10 else ("http/1.1", "h2c")


@dataclass(slots=True)
class _Draft:
    """A listener while services are added to it."""

    address: str
    port: int
    http: list[Service] = field(default_factory=list)
    own_table: Service | None = None  # an auto service that has the address for itself
    tcp: ChainSet = field(default_factory=ChainSet)
    tcp_owner: Service | None = None


def listeners_for(registry: Registry, dialect: Dialect) -> tuple[dict[tuple[str, int], Listener], list[Complaint]]:
    """The listeners by (address, port), and a warning for each service that lost a port to an older one."""
    drafts: dict[tuple[str, int], _Draft] = {}
    complaints: list[Complaint] = []
    for service in registry.services:
        for address, cidrs in _binds(service):
            draft = drafts.setdefault((address, service.number), _Draft(address, service.number))
            complaints.extend(_add(draft, service, cidrs, registry, dialect))
    return {key: _listener(draft, registry, dialect) for key, draft in drafts.items()}, complaints


def _binds(service: Service) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The listener addresses of a service, each with the destination ranges its chains are limited to."""
    if service.protocol is Protocol.HTTP or not service.addresses:
        yield ANY_ADDRESS, ()
        return
    ranges = tuple(address for address in service.addresses if "/" in address)
    for address in service.addresses:
        if address not in ranges:
            yield address, ()
    if ranges:
        yield ANY_ADDRESS, ranges


def _add(
    draft: _Draft, service: Service, cidrs: tuple[str, ...], registry: Registry, dialect: Dialect
) -> Iterator[Complaint]:
    """Give a service the part of the listener that no older one has."""
    rival = _rival(draft, service, dialect)
    if rival is not None:
        yield _lost(service, draft, rival.origin.resource)
        return
    if service.protocol in (Protocol.HTTP, Protocol.AUTO) and not cidrs:
        _add_http(draft, service)
    if service.protocol is Protocol.HTTP:
        return
    for chain in _chains(service, cidrs, registry):
        earlier = draft.tcp.add(chain)
        if earlier is None:
            draft.tcp_owner = draft.tcp_owner or service
        elif earlier.action != chain.action:
            yield _lost(service, draft, earlier.origin.resource)


def _rival(draft: _Draft, service: Service, dialect: Dialect) -> Service | None:
    """The older service that a port cannot be shared with: HTTP and TCP where nothing tells them apart."""
    if service.protocol in (Protocol.HTTP, Protocol.AUTO):
        older, speaks_first = draft.tcp_owner, draft.tcp_owner
    else:
        older, speaks_first = (draft.http[0] if draft.http else None), service
    if older is None or speaks_first is None:
        return None
    return older if not dialect.inspects or speaks_first.declared in _SERVER_FIRST else None


def _add_http(draft: _Draft, service: Service) -> None:
    if draft.address == ANY_ADDRESS:
        draft.http.append(service)
    else:
        draft.own_table = draft.own_table or service


def _lost(service: Service, draft: _Draft, owner: str) -> Complaint:
    place = f"{draft.address}:{draft.port}"
    text = f"{service.host} does not get {place}, or a part of it: the older {owner} has it"
    return service.document.field.warning("port-taken", text)


def _listener(draft: _Draft, registry: Registry, dialect: Dialect) -> Listener:
    http = _http_chain(draft, registry, dialect)
    tcp = draft.tcp.chains()
    if http and dialect.inspects:
        tcp = (*tcp, *_raw_twins(tcp))
    chains = (http, *tcp) if http else tcp
    return Listener(
        name=f"{draft.address}_{draft.port}",
        address=draft.address,
        port=draft.port,
        chains=chains,
        default_chain=_default_chain(registry),
        inspect_tls=any(chain.match.sni for chain in chains),
        inspect_http=any(chain.match.protocols for chain in chains),
        inspect_timeout=dialect.inspect_timeout if any(chain.match.protocols for chain in chains) else 0.0,
    )


def _default_chain(registry: Registry) -> Chain | None:
    if not registry.mesh.allow_any:
        return None
    action = TcpAction((WeightedCluster(passthrough_cluster(registry)),))
    return Chain("PassthroughFilterChain", ChainMatch(), action, registry.mesh.origin)


def _http_chain(draft: _Draft, registry: Registry, dialect: Dialect) -> Chain | None:
    first = draft.http[0] if draft.http else draft.own_table
    if first is None:
        return None
    table = route_table(draft.port, draft.http, registry) if draft.http else table_of_one(first, registry)
    match = ChainMatch(transport=RAW, protocols=dialect.http_protocols) if dialect.inspects else ChainMatch()
    return Chain(f"{draft.address}_{draft.port}", match, HttpAction(table), first.origin)


def _raw_twins(chains: Sequence[Chain]) -> Iterator[Chain]:
    """Chains for "anything" once more for raw bytes.

    The HTTP chain asks for transport raw_buffer, and that criterion is not revisited: without the twin, bytes
    that are not HTTP would find no chain.
    """
    for chain in chains:
        if chain.match == ChainMatch():
            yield replace(chain, match=ChainMatch(transport=RAW))


def _chains(service: Service, cidrs: tuple[str, ...], registry: Registry) -> list[Chain]:
    """The TCP chains of a service that is not plain HTTP: those of its VirtualService, else one for all of it."""
    document = registry.owners.find(service.host)
    chains: list[Chain] = []
    if document is not None:
        if service.declared in TLS_PROTOCOLS:
            chains.extend(_tls_chains(document, service, cidrs, registry))
        chains.extend(_tcp_chains(document, service, cidrs, registry))
    if chains:
        return chains
    target = WeightedCluster(cluster_name(service.number, "", service.host))
    sni = (service.host,) if service.protocol is Protocol.TLS else ()
    match = ChainMatch(dst_cidrs=cidrs, sni=sni)
    return [Chain(f"{service.host}:{service.number}", match, TcpAction((target,)), service.origin)]


def _tls_chains(
    document: VirtualServiceDocument, service: Service, cidrs: tuple[str, ...], registry: Registry
) -> Iterator[Chain]:
    for number, route in enumerate(document.spec.tls):
        action = TcpAction(registry.targets(route.route, service.number))
        for index, match in enumerate(route.match):
            if not _applies(match, service.number, registry):
                continue
            sni = tuple(dict.fromkeys(hosts.canonical(name) for name in match.sni_hosts))
            ranges = _ranges(match.destination_subnets) or cidrs
            place = document.field / "tls" / number / "match" / index
            yield Chain(_name(document), ChainMatch(dst_cidrs=ranges, sni=sni), action, place.origin)


def _tcp_chains(
    document: VirtualServiceDocument, service: Service, cidrs: tuple[str, ...], registry: Registry
) -> Iterator[Chain]:
    for number, route in enumerate(document.spec.tcp):
        action = TcpAction(registry.targets(route.route, service.number))
        place = document.field / "tcp" / number
        for index, match in enumerate(route.match):
            if _applies(match, service.number, registry):
                ranges = _ranges(match.destination_subnets) or cidrs
                origin = (place / "match" / index).origin
                yield Chain(_name(document), ChainMatch(dst_cidrs=ranges), action, origin)
        if not route.match:
            yield Chain(_name(document), ChainMatch(dst_cidrs=cidrs), action, place.origin)
            return


def _applies(match: istio.TlsMatch | istio.TcpMatch, port: int, registry: Registry) -> bool:
    return match.port in (None, port) and registry.applies(match.source_labels, match.source_namespace, match.gateways)


def _ranges(subnets: Sequence[str]) -> tuple[str, ...]:
    networks = [hosts.network(subnet) for subnet in subnets]
    return tuple(dict.fromkeys(str(network) for network in networks if network is not None))


def _name(document: VirtualServiceDocument) -> str:
    return f"{document.namespace}/{document.name}"
