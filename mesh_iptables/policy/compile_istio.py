"""Istio documents into the compiled policy of one workload. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mesh_iptables.policy import hosts
from mesh_iptables.policy import istio_schema as istio
from mesh_iptables.policy.behaviours import behaviour_for
from mesh_iptables.policy.complaint import Complaint, Severity
from mesh_iptables.policy.documents import Documents
from mesh_iptables.policy.hosts import HostMap
from mesh_iptables.policy.istio_checks import MESH_GATEWAY
from mesh_iptables.policy.istio_clusters import DestinationRuleDocument, clusters_of, index_by_name
from mesh_iptables.policy.istio_listeners import Dialect, listeners_for
from mesh_iptables.policy.istio_routes import (
    DEFAULT_RETRY,
    Registry,
    VirtualServiceDocument,
    passthrough_cluster,
    retry_policy,
)
from mesh_iptables.policy.istio_services import (
    Mesh,
    Protocol,
    Service,
    imported,
    mesh_for,
    selects,
    services_for,
    visible,
)
from mesh_iptables.policy.model import (
    BLACKHOLE_CLUSTER,
    PASSTHROUGH_CLUSTER,
    Chain,
    ChainMatch,
    Cluster,
    ClusterKind,
    DefaultAction,
    EgressPolicy,
    Identity,
    LoadBalancing,
    Profile,
    RetryPolicy,
    TcpAction,
    UpstreamProtocol,
    WeightedCluster,
)
from mesh_iptables.policy.settings import Settings

CONNECT_TIMEOUT: Mapping[Profile, float] = {Profile.ISTIO: 10.0, Profile.ISTIO_1_0: 1.0}
_SPOOFABLE = (Protocol.HTTP, Protocol.TLS)


def compile_istio(documents: Documents, settings: Settings) -> tuple[EgressPolicy, list[Complaint]]:
    """The policy of the workload in `settings.identity`, and what is doubtful about it."""
    identity, profile = settings.identity, settings.profile
    mesh = mesh_for(documents, identity, profile)
    services, complaints = services_for(documents, identity, mesh, profile)
    if settings.options.pin_original_dst:
        complaints.extend(_unpinnable(services))
        services = [service for service in services if not _is_unpinnable(service)]
    virtual_services = _virtual_services(documents, identity, mesh)
    registry = Registry(
        services=services,
        virtual_services=virtual_services,
        owners=HostMap((hosts.canonical(host), each) for each in virtual_services for host in each.spec.hosts),
        ports={service.host: service.ports for service in reversed(services)},
        rules=_destination_rules(documents, identity, mesh),
        identity=identity,
        mesh=mesh,
        ignore_port=profile is Profile.ISTIO,
        default_retry=_default_retry(mesh, profile),
    )
    dialect = Dialect(
        inspects=profile is Profile.ISTIO,
        accept_http_10=settings.options.accept_http_10,
        inspect_timeout=mesh.settings.protocol_detection_timeout,
    )
    listeners, lost = listeners_for(registry, dialect)
    clusters = index_by_name(_clusters(registry, settings))
    complaints.extend([*lost, *_lint(registry, settings, clusters)])
    policy = EgressPolicy(
        profile=profile,
        identity=identity,
        behaviour=behaviour_for(settings, dns_refresh=mesh.settings.dns_refresh_rate),
        listeners=listeners,
        clusters=clusters,
        default=DefaultAction.PASSTHROUGH if mesh.allow_any else DefaultAction.BLACKHOLE,
        default_chain=_default_chain(registry),
        redirect_port=settings.redirect_port or mesh.settings.proxy_listen_port or 15001,
        default_origin=mesh.origin,
    )
    return policy, complaints


def _default_retry(mesh: Mesh, profile: Profile) -> RetryPolicy | None:
    if mesh.settings.default_http_retry_policy:
        return retry_policy(mesh.settings.default_http_retry_policy)
    return DEFAULT_RETRY if profile is Profile.ISTIO else None


def _default_chain(registry: Registry) -> Chain | None:
    if not registry.mesh.allow_any:
        return None
    action = TcpAction((WeightedCluster(passthrough_cluster(registry)),))
    return Chain("virtualOutbound-catchall-tcp", ChainMatch(), action, registry.mesh.origin)


def _virtual_services(documents: Documents, identity: Identity, mesh: Mesh) -> list[VirtualServiceDocument]:
    """Those for sidecars that are exported to the workload and that its Sidecar lists, oldest first."""
    exported = visible(
        documents.of(istio.VirtualService),
        identity,
        mesh.settings.default_virtual_service_export_to,
        lambda service: (service.export_to, service.config_scope),
    )
    return [
        document
        for document in exported
        if (not document.spec.gateways or MESH_GATEWAY in document.spec.gateways)
        and any(imported(mesh, identity, document.namespace, hosts.canonical(host)) for host in document.spec.hosts)
    ]


def _destination_rules(documents: Documents, identity: Identity, mesh: Mesh) -> HostMap[DestinationRuleDocument]:
    """Those exported to the workload that select it; of two for one host the older stays."""
    exported = visible(
        documents.of(istio.DestinationRule),
        identity,
        mesh.settings.default_destination_rule_export_to,
        lambda rule: (rule.export_to, rule.config_scope),
    )
    return HostMap(
        (hosts.canonical(document.spec.host), document)
        for document in exported
        if _selects_workload(document.spec.workload_selector, identity)
    )


def _selects_workload(selector: istio.WorkloadSelector | None, identity: Identity) -> bool:
    return selector is None or selects(selector.labels, identity.labels)


def _clusters(registry: Registry, settings: Settings) -> Iterator[Cluster]:
    connect_timeout = registry.mesh.settings.connect_timeout or CONNECT_TIMEOUT[settings.profile]
    yield Cluster(
        PASSTHROUGH_CLUSTER,
        ClusterKind.ORIGINAL_DST,
        connect_timeout=connect_timeout,
        lb=LoadBalancing.CLUSTER_PROVIDED,
        protocol=UpstreamProtocol.SAME_AS_CLIENT,
    )
    yield Cluster(BLACKHOLE_CLUSTER, ClusterKind.STATIC, connect_timeout=connect_timeout)
    for service in registry.services:
        yield from clusters_of(
            service,
            registry.rules.find(service.host),
            connect_timeout=connect_timeout,
            pin=settings.options.pin_original_dst,
        )


# --- complaints that need more than one document -----------------------------------------------------------


def _is_unpinnable(service: Service) -> bool:
    return service.resolution == "NONE" and "*" in service.host


def _unpinnable(services: list[Service]) -> Iterator[Complaint]:
    for service in services:
        if _is_unpinnable(service):
            text = f"'{service.host}' cannot be looked up, as the option pin_original_dst asks: it is left out"
            yield (service.document.field / "hosts").error("pin-wildcard", text)


def _lint(registry: Registry, settings: Settings, clusters: Mapping[str, Cluster]) -> Iterator[Complaint]:
    yield from _egress_proxy(registry, clusters)
    for service in registry.services:
        pinned = settings.options.pin_original_dst and not service.addresses
        if registry.mesh.allow_any or service.protocol not in _SPOOFABLE or pinned:
            continue
        if service.resolution == "NONE":
            yield from _spoof(service)


def _spoof(service: Service) -> Iterator[Complaint]:
    by = "Host" if service.protocol is Protocol.HTTP else "SNI"
    text = f"with resolution NONE a client that sends {by} {service.host} reaches any address"
    remedy = "choose resolution DNS, or set the option pin_original_dst"
    yield service.document.field.warning("W-ORIGDST-SPOOF", f"{text} on port {service.number}; {remedy}")
    if service.protocol is Protocol.TLS:
        yield service.document.field.warning("W-SNI-SPOOF", f"{text} on port {service.number}; {remedy}")


def _egress_proxy(registry: Registry, clusters: Mapping[str, Cluster]) -> Iterator[Complaint]:
    proxy = registry.mesh.egress_proxy
    if proxy and registry.mesh.allow_any and passthrough_cluster(registry) not in clusters:
        text = f"unknown traffic goes to {proxy.host}, which no ServiceEntry declares: it is closed"
        origin = registry.mesh.origin
        yield Complaint(Severity.WARNING, "mesh-egress-proxy-unknown", origin, text)
