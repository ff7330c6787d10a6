"""Documents to compile, and short ways to do it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mesh_iptables.policy.compile import Compiled, compile_policy
from mesh_iptables.policy.documents import Documents, read_documents
from mesh_iptables.policy.model import Cluster, EgressPolicy, HttpAction, Identity, Listener, Profile, RouteTable
from mesh_iptables.policy.settings import Options, Settings

Fields = dict[str, object]

HTTP: Fields = {"number": 80, "name": "http", "protocol": "HTTP"}
TLS: Fields = {"number": 443, "name": "tls", "protocol": "TLS"}
TCP: Fields = {"number": 443, "name": "tcp", "protocol": "TCP"}
REGISTRY_ONLY: Fields = {
    "apiVersion": "install.istio.io/v1alpha1",
    "kind": "IstioOperator",
    "metadata": {"name": "mesh"},
    "spec": {"meshConfig": {"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}},
}
CURL = Identity("curl", "curl")


def document(kind: str, spec: Mapping[str, object], group: str, **metadata: object) -> Fields:
    return {"apiVersion": group, "kind": kind, "metadata": {"name": "it", **metadata}, "spec": dict(spec)}


def istio(kind: str, spec: Mapping[str, object], **metadata: object) -> Fields:
    return document(kind, spec, "networking.istio.io/v1", **metadata)


def entry(*hosts: str, **spec: object) -> Fields:
    """A ServiceEntry; port 80 for HTTP and resolution DNS unless said. `metadata` is no field of its spec."""
    metadata = spec.pop("metadata", {})
    assert isinstance(metadata, dict)
    fields = {"hosts": list(hosts), "ports": [HTTP], "resolution": "DNS", **spec}
    return istio("ServiceEntry", fields, **{"name": hosts[0] if hosts else "none", **metadata})


def routes(host: str, *http: Fields, metadata: Fields | None = None, **spec: object) -> Fields:
    """A VirtualService."""
    return istio("VirtualService", {"hosts": [host], "http": list(http), **spec}, **(metadata or {}))


def to(host: str, **destination: object) -> Fields:
    """An http or tcp route to one host."""
    return {"route": [{"destination": {"host": host, **destination}}]}


def mesh(**settings: object) -> Fields:
    return {**REGISTRY_ONLY, "spec": {"meshConfig": settings}}


def egress(*ports: tuple[int, str], hosts: Sequence[str] = (), **spec: object) -> Fields:
    """An Egress policy for the service account curl/curl."""
    fields: Fields = {
        "sources": [{"kind": "ServiceAccount", "name": "curl", "namespace": "curl"}],
        "hosts": list(hosts),
        "ports": [{"number": number, "protocol": protocol} for number, protocol in ports],
        **spec,
    }
    return document("Egress", fields, "policy.openservicemesh.io/v1alpha1", namespace="curl")


def route_group(name: str, *matches: Fields) -> Fields:
    fields = {"matches": list(matches)}
    return document("HTTPRouteGroup", fields, "specs.smi-spec.io/v1alpha4", name=name, namespace="curl")


def text(*documents: Fields) -> str:
    return json.dumps({"kind": "List", "items": list(documents)})


def read(*documents: Fields, strict: bool = False, compat_1_0: bool = False) -> Documents:
    return read_documents([("policy.yaml", text(*documents))], strict=strict, compat_1_0=compat_1_0)


def ids(*documents: Fields, strict: bool = False, compat_1_0: bool = False) -> list[str]:
    """The ids of all complaints that reading makes."""
    return [each.id for each in read(*documents, strict=strict, compat_1_0=compat_1_0).complaints]


def compiled(
    *documents: Fields,
    profile: Profile = Profile.ISTIO,
    identity: Identity = Identity(),  # noqa: B008  # a frozen value
    options: Options = Options(),  # noqa: B008
) -> Compiled:
    found = read(*documents, compat_1_0=profile is Profile.ISTIO_1_0)
    return compile_policy(found, replace(Settings(), profile=profile, identity=identity, options=options))


def policy_of(
    *documents: Fields,
    profile: Profile = Profile.ISTIO,
    identity: Identity = Identity(),  # noqa: B008
    options: Options = Options(),  # noqa: B008
) -> EgressPolicy:
    result = compiled(*documents, profile=profile, identity=identity, options=options)
    assert result.policy is not None, result.complaints
    return result.policy


def osm_policy(*documents: Fields, options: Options = Options()) -> EgressPolicy:  # noqa: B008
    return policy_of(*documents, profile=Profile.OSM, identity=CURL, options=options)


def listener(policy: EgressPolicy, port: int, address: str = "0.0.0.0") -> Listener:
    return policy.listeners[address, port]


def table(policy: EgressPolicy, port: int = 80) -> RouteTable:
    """The route table of the first HTTP chain of a port."""
    for found in policy.listeners.values():
        for chain in found.chains:
            if isinstance(chain.action, HttpAction) and port in (found.port, chain.match.dst_port):
                return chain.action.routes
    raise AssertionError(f"no HTTP chain on port {port}")


def cluster(policy: EgressPolicy, host: str, port: int = 80, subset: str = "") -> Cluster:
    return policy.clusters[f"outbound|{port}|{subset}|{host}"]
