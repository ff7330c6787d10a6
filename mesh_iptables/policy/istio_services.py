"""The services one workload can see: ServiceEntries after exportTo and Sidecar, oldest first. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from mesh_iptables.policy import hosts
from mesh_iptables.policy import istio_schema as istio
from mesh_iptables.policy.complaint import Complaint
from mesh_iptables.policy.documents import Created, Document, Documents
from mesh_iptables.policy.istio_checks import DNS_RESOLUTIONS, HTTP_PROTOCOLS, TCP_PROTOCOLS, TLS_PROTOCOLS
from mesh_iptables.policy.model import BUILT_IN, Endpoint, Identity, Origin, Profile

ROOT_NAMESPACE = "istio-system"


class Protocol(Enum):
    """How the first bytes of a port are understood."""

    HTTP = "http"
    TLS = "tls"
    TCP = "tcp"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Service:
    """One port of one host. `ports` are all port numbers of the host's document."""

    host: str
    namespace: str
    created: Created
    number: int
    declared: str  # the protocol as written, upper case
    protocol: Protocol
    target_port: int  # 0: as `number`
    resolution: str
    addresses: tuple[str, ...]
    endpoints: tuple[Endpoint, ...]
    subject_alt_names: tuple[str, ...]
    ports: tuple[int, ...]
    document: Document[istio.ServiceEntry]
    origin: Origin


Spec = TypeVar("Spec")


@dataclass(frozen=True, slots=True)
class Mesh:
    """The mesh settings in force for one workload."""

    settings: istio.MeshConfig
    allow_any: bool
    egress_proxy: istio.EgressProxy | None
    sidecar: Document[istio.Sidecar] | None
    origin: Origin


def mesh_for(documents: Documents, identity: Identity, profile: Profile) -> Mesh:
    """The last mesh settings, overridden by the Sidecar of the workload."""
    written = documents.of(istio.MeshConfig)
    settings = written[-1].spec if written else istio.MeshConfig()
    policy = settings.outbound_traffic_policy or istio.MeshOutboundTrafficPolicy()
    default = "REGISTRY_ONLY" if profile is Profile.ISTIO_1_0 else "ALLOW_ANY"
    mode = policy.mode or default
    origin = written[-1].field.origin if written else BUILT_IN
    sidecar = _sidecar_for(documents.of(istio.Sidecar), identity)
    if sidecar and sidecar.spec.outbound_traffic_policy:
        policy = sidecar.spec.outbound_traffic_policy
        mode = policy.mode or "REGISTRY_ONLY"
        origin = sidecar.field.origin
    return Mesh(settings, mode == "ALLOW_ANY", policy.egress_proxy, sidecar, origin)


def _sidecar_for(sidecars: Iterable[Document[istio.Sidecar]], identity: Identity) -> Document[istio.Sidecar] | None:
    """Own namespace with a selector, own without, root without; among equals the oldest."""
    candidates: list[tuple[int, Created, Document[istio.Sidecar]]] = []
    for sidecar in sidecars:
        selector = sidecar.spec.workload_selector
        labels = selector.labels if selector else {}
        own = sidecar.namespace == identity.namespace
        if labels and own and selects(labels, identity.labels):
            candidates.append((0, sidecar.created, sidecar))
        elif not labels and (own or sidecar.namespace == ROOT_NAMESPACE):
            candidates.append((1 if own else 2, sidecar.created, sidecar))
    return min(candidates, key=lambda candidate: candidate[:2])[2] if candidates else None


def selects(selector: Mapping[str, str], labels: Iterable[tuple[str, str]]) -> bool:
    """Whether all labels of the selector are among `labels`."""
    return set(selector.items()) <= set(labels)


def visible(
    documents: Iterable[Document[Spec]],
    identity: Identity,
    default: Sequence[str],
    scope: Callable[[Spec], tuple[Sequence[str], str | None]],
) -> list[Document[Spec]]:
    """The documents exported to the namespace of the workload, oldest first.

    `scope` gives the exportTo and configScope of a document; `default` holds for those without.
    """

    def exported(document: Document[Spec]) -> bool:
        export_to, config_scope = scope(document.spec)
        if config_scope == "PRIVATE":
            export_to = ["."]
        for name in export_to or default or ("*",):
            if name == "*" or name == identity.namespace:
                return True
            if name == "." and document.namespace == identity.namespace:
                return True
        return False

    return sorted(filter(exported, documents), key=lambda document: document.created)


def imported(mesh: Mesh, identity: Identity, namespace: str, host: str) -> bool:
    """Whether the workload's Sidecar lists a host of a document in `namespace`; without Sidecar all are."""
    if mesh.sidecar is None or not mesh.sidecar.spec.egress:
        return True
    for egress in mesh.sidecar.spec.egress:
        for entry in egress.hosts:
            entry_namespace, _, pattern = entry.partition("/")
            own = entry_namespace == "." and namespace == identity.namespace
            if (own or entry_namespace in ("*", namespace)) and hosts.overlap(pattern.lower(), host):
                return True
    return False


def services_for(
    documents: Documents, identity: Identity, mesh: Mesh, profile: Profile
) -> tuple[list[Service], list[Complaint]]:
    """All services the workload sees, by creation time, then host, then namespace."""
    entries = visible(
        documents.of(istio.ServiceEntry),
        identity,
        mesh.settings.default_service_export_to,
        lambda entry: (entry.export_to, entry.config_scope),
    )
    workloads = documents.of(istio.WorkloadEntry)
    found = [
        service
        for document in entries
        for service in _services(document, workloads, profile)
        if imported(mesh, identity, service.namespace, service.host)
    ]
    found.sort(key=lambda service: (service.created, service.host, service.namespace))
    return _without_duplicates(found)


def _without_duplicates(services: Iterable[Service]) -> tuple[list[Service], list[Complaint]]:
    kept: dict[tuple[str, int], Service] = {}
    complaints: list[Complaint] = []
    for service in services:
        key = (service.host, service.number)
        if key not in kept:
            kept[key] = service
            continue
        text = f"port {service.number} of {service.host} belongs to the older {kept[key].origin.resource}"
        complaints.append(service.document.field.warning("se-host-port-dup", text))
    return list(kept.values()), complaints


def _services(
    document: Document[istio.ServiceEntry], workloads: Sequence[Document[istio.WorkloadEntry]], profile: Profile
) -> Iterator[Service]:
    entry = document.spec
    networks = [hosts.network(address) for address in entry.addresses]
    addresses = tuple(
        str(net.network_address) if hosts.is_single(net) else str(net) for net in networks if net is not None
    )
    ports = tuple(port.number for port in entry.ports if port.protocol.upper() != "UDP")
    # a host such as a*.example.com matches nothing, which a warning has said
    names = [hosts.canonical(host) for host in entry.hosts if not hosts.has_partial_wildcard(host)]
    for written in dict.fromkeys(names):
        for number, port in enumerate(entry.ports):
            declared = port.protocol.upper()
            if declared == "UDP":
                continue
            yield Service(
                host=written,
                namespace=document.namespace,
                created=document.created,
                number=port.number,
                declared=declared,
                protocol=protocol_of(declared, profile),
                target_port=port.target_port or 0,
                resolution=entry.resolution,
                addresses=addresses,
                endpoints=tuple(_endpoints(document, workloads, port, written)),
                subject_alt_names=entry.subject_alt_names,
                ports=ports,
                document=document,
                origin=(document.field / "ports" / number).origin,
            )


def protocol_of(declared: str, profile: Profile) -> Protocol:
    """How a port of the declared protocol is served; Istio 1.0 detects nothing."""
    if declared in HTTP_PROTOCOLS:
        return Protocol.HTTP
    if declared in TCP_PROTOCOLS or profile is Profile.ISTIO_1_0:
        return Protocol.TCP
    return Protocol.TLS if declared in TLS_PROTOCOLS else Protocol.AUTO


def _endpoints(
    document: Document[istio.ServiceEntry],
    workloads: Sequence[Document[istio.WorkloadEntry]],
    port: istio.ServicePort,
    host: str,
) -> Iterator[Endpoint]:
    entry = document.spec
    default_port = port.target_port or port.number
    if entry.resolution == "NONE":
        return
    if entry.workload_selector:
        yield from _selected(document, workloads, port)
    elif entry.endpoints:
        for endpoint in entry.endpoints:
            number = endpoint.ports.get(port.name, default_port)
            labels = tuple(sorted(endpoint.labels.items()))
            yield Endpoint(hosts.canonical(endpoint.address), number, endpoint.weight or 1, labels)
    elif entry.resolution in DNS_RESOLUTIONS:
        yield Endpoint(host, default_port)


def _selected(
    document: Document[istio.ServiceEntry],
    workloads: Sequence[Document[istio.WorkloadEntry]],
    port: istio.ServicePort,
) -> Iterator[Endpoint]:
    """The WorkloadEntries of the entry's own namespace that its selector takes."""
    entry = document.spec
    selector = entry.workload_selector.labels if entry.workload_selector else {}
    for workload in workloads:
        labels = {**workload.spec.labels, **workload.labels}
        if workload.namespace != document.namespace or not selects(selector, labels.items()):
            continue
        if entry.resolution == "STATIC" and not hosts.is_address(workload.spec.address):
            continue  # only the DNS kinds can use a name
        number = workload.spec.ports.get(port.name, port.target_port or port.number)
        address = hosts.canonical(workload.spec.address)
        yield Endpoint(address, number, workload.spec.weight or 1, tuple(sorted(labels.items())))
