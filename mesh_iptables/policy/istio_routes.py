"""VirtualServices and services into the HTTP route table of one port. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from mesh_iptables.policy import hosts
from mesh_iptables.policy import istio_schema as istio
from mesh_iptables.policy.documents import Document
from mesh_iptables.policy.hosts import HostMap
from mesh_iptables.policy.istio_checks import MESH_GATEWAY, is_authority, retry_tokens
from mesh_iptables.policy.istio_clusters import (
    DestinationRuleDocument,
    cluster_name,
    hash_policies,
)
from mesh_iptables.policy.istio_services import Mesh, Service, selects
from mesh_iptables.policy.model import (
    PASSTHROUGH_CLUSTER,
    DirectResponse,
    Fault,
    FaultAbort,
    FaultDelay,
    HashPolicy,
    HeaderOperations,
    Identity,
    MatchKind,
    Mirror,
    NamedMatch,
    Redirect,
    RegexRewrite,
    RequestMatch,
    RetryPolicy,
    Rewrite,
    RouteAction,
    RouteTable,
    RouteTo,
    Rule,
    StringMatch,
    VirtualHost,
    WeightedCluster,
)

VirtualServiceDocument = Document[istio.VirtualService]

DEFAULT_RETRY_ON = (
    "connect-failure",
    "refused-stream",
    "unavailable",
    "cancelled",
    "retriable-status-codes",
)
DEFAULT_RETRY = RetryPolicy(attempts=2, on=DEFAULT_RETRY_ON)

_Destination = TypeVar("_Destination", istio.HttpDestination, istio.TcpDestination)

# Istio puts hosts that only a VirtualService names on this port
_PORT_OF_UNKNOWN_HOSTS = 80


@dataclass(frozen=True, slots=True)
class Registry:
    """What routing needs to know of everything else."""

    services: Sequence[Service]
    virtual_services: Sequence[VirtualServiceDocument]  # oldest first
    owners: HostMap[VirtualServiceDocument]  # of hosts; VirtualServices for one host are never merged
    ports: Mapping[str, tuple[int, ...]]  # of hosts
    rules: HostMap[DestinationRuleDocument]
    identity: Identity
    mesh: Mesh
    ignore_port: bool
    default_retry: RetryPolicy | None

    def cluster_for(self, destination: istio.Destination, listener_port: int) -> str:
        """The name of the cluster of a destination, which need not exist."""
        host = hosts.canonical(destination.host)
        return cluster_name(self.port_for(destination, listener_port), destination.subset, host)

    def port_for(self, destination: istio.Destination, listener_port: int) -> int:
        if destination.port:
            return destination.port.number
        ports = self.ports.get(hosts.canonical(destination.host), ())
        return ports[0] if len(ports) == 1 else listener_port

    def targets(self, destinations: Sequence[istio.TcpDestination], listener_port: int) -> tuple[WeightedCluster, ...]:
        return tuple(
            WeightedCluster(self.cluster_for(each.destination, listener_port), weight)
            for each, weight in _weighted(destinations)
        )

    def applies(self, source_labels: Mapping[str, str], source_namespace: str, gateways: Sequence[str]) -> bool:
        """Whether a match is about this workload at all."""
        if source_namespace and source_namespace != self.identity.namespace:
            return False
        if gateways and MESH_GATEWAY not in gateways:
            return False
        return selects(source_labels, self.identity.labels)


def route_table(port: int, services: Sequence[Service], registry: Registry) -> RouteTable:
    """The routes of `services`, which are the HTTP services of one port, oldest first."""
    vhosts = [_service_vhost(service, port, registry) for service in services]
    if port == _PORT_OF_UNKNOWN_HOSTS:
        vhosts.extend(_vhosts_without_service(port, registry))
    return RouteTable(str(port), _without_shared_domains(vhosts), registry.ignore_port, fallback(registry))


def table_of_one(service: Service, registry: Registry) -> RouteTable:
    """Routes for a listener of its own, where every host means the service."""
    vhost = _service_vhost(service, service.number, registry)
    everything = replace(vhost, domains=("*",))
    return RouteTable(f"{service.host}:{service.number}", (), registry.ignore_port, everything)


def fallback(registry: Registry) -> VirtualHost | None:
    """What unknown hosts get: passed on, 502, or (Istio 1.0) 404 for want of a virtual host."""
    if registry.mesh.allow_any:
        return _for_all("allow_any", RouteTo((WeightedCluster(passthrough_cluster(registry)),)), registry)
    return _for_all("block_all", DirectResponse(502), registry) if registry.ignore_port else None


def _for_all(name: str, action: RouteAction, registry: Registry) -> VirtualHost:
    origin = registry.mesh.origin
    return VirtualHost(name, ("*",), (Rule(name, RequestMatch(), action, origin=origin),), origin)


def passthrough_cluster(registry: Registry) -> str:
    """Where unknown traffic goes under ALLOW_ANY."""
    proxy = registry.mesh.egress_proxy
    if proxy is None:
        return PASSTHROUGH_CLUSTER
    destination = istio.Destination(host=proxy.host, subset=proxy.subset, port=proxy.port)
    return registry.cluster_for(destination, _PORT_OF_UNKNOWN_HOSTS)


def _service_vhost(service: Service, port: int, registry: Registry) -> VirtualHost:
    names = [service.host, *(address for address in service.addresses if "/" not in address)]
    domains = _domains(names, port, ignore_port=registry.ignore_port)
    document = registry.owners.find(service.host)
    name = f"{service.host}:{port}"
    if document is None or not document.spec.http:
        rules: tuple[Rule, ...] = (_default_rule(service, registry),)
        return VirtualHost(name, domains, rules, service.origin)
    return VirtualHost(name, domains, tuple(_rules(document, port, registry)), document.field.place.origin())


def _vhosts_without_service(port: int, registry: Registry) -> Iterator[VirtualHost]:
    known = {service.host for service in registry.services}
    for document in registry.virtual_services:
        names = [hosts.canonical(host) for host in document.spec.hosts]
        if not document.spec.http or any(hosts.covers(name, host) for name in names for host in known):
            continue
        rules = tuple(_rules(document, port, registry))
        for name in names:
            domains = _domains([name], port, ignore_port=registry.ignore_port)
            yield VirtualHost(f"{name}:{port}", domains, rules, document.field.place.origin())


def _domains(names: Iterable[str], port: int, *, ignore_port: bool) -> tuple[str, ...]:
    """Today a name with and without a trailing dot, any port; in Istio 1.0 with and without the port."""
    domains: list[str] = []
    for name in names:
        bracketed = f"[{name}]" if ":" in name else name
        is_address = hosts.is_address(name)
        domains.append(bracketed)
        if not ignore_port:
            domains.append(f"{bracketed}:{port}")
        elif not is_address:
            domains.append(f"{name}.")
    return tuple(dict.fromkeys(domains))


def _without_shared_domains(vhosts: Iterable[VirtualHost]) -> tuple[VirtualHost, ...]:
    """Each domain stays with the first that has it."""
    taken: set[str] = set()
    kept: list[VirtualHost] = []
    for vhost in vhosts:
        domains = tuple(domain for domain in vhost.domains if domain not in taken)
        taken.update(domains)
        if domains:
            kept.append(replace(vhost, domains=domains))
    return tuple(kept)


# --- rules -------------------------------------------------------------------------------------------------


def _default_rule(service: Service, registry: Registry) -> Rule:
    target = WeightedCluster(cluster_name(service.number, "", service.host))
    retry = registry.default_retry
    return Rule("default", RequestMatch(), RouteTo((target,)), retry=retry, origin=service.origin)


def _rules(document: VirtualServiceDocument, port: int, registry: Registry) -> Iterator[Rule]:
    """One rule for each match that applies; what follows a rule without match is never reached."""
    for number, route in enumerate(document.spec.http):
        place = document.field / "http" / number
        rule = _rule(route, port, registry)
        for index, match in enumerate(route.match):
            applies = registry.applies(match.source_labels, match.source_namespace, match.gateways)
            if not applies or match.port not in (None, port):
                continue
            name = match.name or route.name or f"http[{number}].match[{index}]"
            origin = (place / "match" / index).origin
            yield replace(rule, name=name, match=_request_match(match), origin=origin)
        if not route.match:
            yield replace(rule, name=route.name or f"http[{number}]", origin=place.origin)
            return


def _rule(route: istio.HttpRoute, port: int, registry: Registry) -> Rule:
    return Rule(
        name="",
        match=RequestMatch(),
        action=_action(route, port, registry),
        timeout=route.timeout,
        retry=retry_policy(route.retries) if route.retries else registry.default_retry,
        fault=_fault(route.fault) if route.fault else None,
        rewrite=_rewrite(route),
        request_headers=header_operations(route.headers.request),
        response_headers=header_operations(route.headers.response),
        mirrors=tuple(_mirrors(route, port, registry)),
        hash_policies=tuple(_hash_policies(route, port, registry)),
    )


def _action(route: istio.HttpRoute, port: int, registry: Registry) -> RouteAction:
    if route.redirect:
        redirect = route.redirect
        return Redirect(
            redirect.redirect_code, redirect.scheme or None, redirect.authority or None, redirect.uri or None
        )
    if route.direct_response:
        return DirectResponse(route.direct_response.status, route.direct_response.body.text)
    return RouteTo(tuple(_http_targets(route.route, port, registry)))


def _http_targets(
    destinations: Sequence[istio.HttpDestination], port: int, registry: Registry
) -> Iterator[WeightedCluster]:
    for each, weight in _weighted(destinations):
        yield WeightedCluster(
            registry.cluster_for(each.destination, port),
            weight,
            header_operations(each.headers.request),
            header_operations(each.headers.response),
            _authority_set(each.headers.request),
        )


def _weighted(destinations: Sequence[_Destination]) -> Iterator[tuple[_Destination, int]]:
    """Destinations with their weight; one alone always has all, one with weight 0 beside others nothing."""
    if len(destinations) == 1:
        yield destinations[0], 1
        return
    for destination in destinations:
        if destination.weight:
            yield destination, destination.weight


def _hash_policies(route: istio.HttpRoute, port: int, registry: Registry) -> Iterator[HashPolicy]:
    for each in route.route:
        destination = each.destination
        rule = registry.rules.find(hosts.canonical(destination.host))
        yield from hash_policies(rule, destination.subset, registry.port_for(destination, port))


def _mirrors(route: istio.HttpRoute, port: int, registry: Registry) -> Iterator[Mirror]:
    if route.mirror:
        percent = 100.0 if route.mirror_percentage is None else route.mirror_percentage.value
        if percent:
            yield Mirror(registry.cluster_for(route.mirror, port), percent)
    for mirror in route.mirrors:
        percent = 100.0 if mirror.percentage is None else mirror.percentage.value
        if percent:
            yield Mirror(registry.cluster_for(mirror.destination, port), percent)


def retry_policy(retry: istio.HttpRetry) -> RetryPolicy | None:
    """What a rule says about retries; attempts 0 switches them off."""
    if retry.attempts == 0:
        return None
    tokens = retry_tokens(retry.retry_on)
    statuses = tuple(dict.fromkeys(int(token) for token in tokens if token.isdecimal()))
    on = tuple(dict.fromkeys(token for token in tokens if not token.isdecimal()))
    if statuses and "retriable-status-codes" not in on:
        on = (*on, "retriable-status-codes")
    base = retry.backoff or 0.025
    return RetryPolicy(
        attempts=retry.attempts,
        on=on or DEFAULT_RETRY_ON,
        statuses=statuses,
        per_try_timeout=retry.per_try_timeout,
        backoff_base=base,
        backoff_max=10 * base,
    )


def _fault(fault: istio.HttpFault) -> Fault | None:
    """A delay or abort without a percentage has 0 %: it never fires."""
    delay = abort = None
    if fault.delay and fault.delay.fixed_delay and fault.delay.percentage and fault.delay.percentage.value:
        delay = FaultDelay(fault.delay.fixed_delay, fault.delay.percentage.value)
    if fault.abort and fault.abort.http_status and fault.abort.percentage and fault.abort.percentage.value:
        abort = FaultAbort(fault.abort.http_status, fault.abort.percentage.value)
    return Fault(delay, abort) if delay or abort else None


def _rewrite(route: istio.HttpRoute) -> Rewrite | None:
    rewrite = route.rewrite or istio.HttpRewrite()
    authority = _authority_set(route.headers.request) or rewrite.authority or None
    expression = rewrite.uri_regex_rewrite
    regex = RegexRewrite(expression.match, expression.rewrite) if expression else None
    if not (rewrite.uri or regex or authority):
        return None
    return Rewrite(rewrite.uri or None, regex, authority)


def _authority_set(operations: istio.HeaderOperations) -> str | None:
    return next((value for name, value in operations.set.items() if is_authority(name)), None)


def header_operations(operations: istio.HeaderOperations) -> HeaderOperations:
    return HeaderOperations(
        set=tuple((name.lower(), value) for name, value in operations.set.items() if not is_authority(name)),
        add=tuple((name.lower(), value) for name, value in operations.add.items()),
        remove=tuple(name.lower() for name in operations.remove),
    )


# --- matches -----------------------------------------------------------------------------------------------


def _request_match(match: istio.HttpMatch) -> RequestMatch:
    ignore_case = match.ignore_uri_case
    return RequestMatch(
        path=string_match(match.uri, ignore_case=ignore_case) if match.uri else None,
        scheme=string_match(match.scheme) if match.scheme else None,
        methods=(string_match(match.method),) if match.method else (),
        authority=string_match(match.authority) if match.authority else None,
        headers=(
            *(NamedMatch(name.lower(), string_match(value)) for name, value in match.headers.items()),
            *(NamedMatch(name.lower(), string_match(value), True) for name, value in match.without_headers.items()),
        ),
        query=tuple(NamedMatch(name, string_match(value)) for name, value in match.query_params.items()),
    )


def string_match(match: istio.StringMatch, *, ignore_case: bool = False) -> StringMatch:
    """`ignore_case` is for exact and prefix; an expression says itself (`(?i)`) whether it cares."""
    if match.exact is not None:
        return StringMatch(MatchKind.EXACT, match.exact, ignore_case)
    if match.prefix is not None:
        return StringMatch(MatchKind.PREFIX, match.prefix, ignore_case)
    if match.regex is not None and match.regex != "*":
        return StringMatch(MatchKind.REGEX, match.regex)
    return StringMatch(MatchKind.PRESENT)
