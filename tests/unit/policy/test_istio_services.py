"""Which services a workload sees, in which order, with which endpoints."""

from __future__ import annotations

import pytest

from mesh_iptables.policy.model import DefaultAction, Endpoint, Identity
from tests.unit.policy.samples import HTTP, TCP, Fields, cluster, compiled, entry, istio, listener, mesh, policy_of

_NS1 = Identity("ns1", "a", (("app", "web"),))


def _hosts(*documents: Fields, identity: Identity = _NS1) -> list[str]:
    policy = policy_of(*documents, identity=identity)
    return sorted({each.host for each in policy.clusters.values() if each.host})


def _exported(*export_to: str, **spec: object) -> Fields:
    return entry("a.x", exportTo=list(export_to), metadata={"namespace": "ns1"}, **spec)


@pytest.mark.parametrize(
    ("export_to", "own", "other"),
    [((), 1, 1), (("*",), 1, 1), ((".",), 1, 0), (("ns2",), 0, 1), (("~",), 0, 0), ((".", "ns2"), 1, 1)],
)
def test_export_to_decides_who_sees_a_service(export_to: tuple[str, ...], own: int, other: int) -> None:
    assert len(_hosts(_exported(*export_to))) == own
    assert len(_hosts(_exported(*export_to), identity=Identity("ns2"))) == other


def test_config_scope_private_means_export_to_the_own_namespace() -> None:
    private = entry("a.x", configScope="PRIVATE", metadata={"namespace": "ns1"})
    assert _hosts(private) == ["a.x"]
    assert _hosts(private, identity=Identity("ns2")) == []


def test_a_host_with_a_star_inside_a_label_is_no_service() -> None:
    assert _hosts(entry("a*.x", "b.x", resolution="NONE")) == ["b.x"]


def test_the_mesh_has_a_default_for_export_to() -> None:
    documents = (mesh(defaultServiceExportTo=["."]), entry("a.x", metadata={"namespace": "ns2"}))
    assert _hosts(*documents) == []


def _sidecar(*hosts: str, namespace: str = "ns1", **spec: object) -> Fields:
    return istio("Sidecar", {"egress": [{"hosts": list(hosts)}], **spec}, namespace=namespace)


_TWO = (
    entry("a.x", metadata={"namespace": "ns1"}),
    entry("b.x", metadata={"namespace": "ns2"}),
)


@pytest.mark.parametrize(
    ("hosts", "seen"),
    [
        (("*/*",), ["a.x", "b.x"]),
        (("./*",), ["a.x"]),
        (("ns2/*",), ["b.x"]),
        (("*/b.x",), ["b.x"]),
        (("*/*.x",), ["a.x", "b.x"]),
        (("~/*",), []),
        (("./b.x",), []),
    ],
)
def test_a_sidecar_lists_what_its_workload_sees(hosts: tuple[str, ...], seen: list[str]) -> None:
    assert _hosts(*_TWO, _sidecar(*hosts)) == seen


def test_the_sidecar_that_selects_the_workload_comes_first_then_its_namespace_then_the_root() -> None:
    root = _sidecar("~/*", namespace="istio-system")
    namespace = _sidecar("ns2/*")
    selecting = _sidecar("./*", workloadSelector={"labels": {"app": "web"}})
    other = _sidecar("~/*", workloadSelector={"labels": {"app": "db"}})
    assert _hosts(*_TWO, root, namespace, other, selecting) == ["a.x"]
    assert _hosts(*_TWO, root, namespace, other) == ["b.x"]
    assert _hosts(*_TWO, root, other) == []
    assert _hosts(*_TWO, other) == ["a.x", "b.x"]


def test_a_sidecar_overrides_what_happens_to_unknown_traffic() -> None:
    only = istio("Sidecar", {"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}, namespace="ns1")
    assert policy_of(only, identity=_NS1).default is DefaultAction.BLACKHOLE
    assert policy_of(only, identity=Identity("ns2")).default is DefaultAction.PASSTHROUGH


def test_the_older_service_takes_the_port_whatever_the_order_of_documents() -> None:
    young = entry("a.x", ports=[TCP], metadata={"creationTimestamp": "2018-12-21T02:10:00Z"})
    old = entry("z.x", ports=[TCP], metadata={"creationTimestamp": "2018-12-21T02:00:00Z"})
    result = compiled(young, old)
    assert result.policy is not None
    assert [chain.name for chain in listener(result.policy, 443).chains] == ["z.x:443"]
    assert "port-taken" in [each.id for each in result.complaints]


def test_of_equal_age_the_host_name_decides_not_the_name_of_the_document() -> None:
    moment = "2018-12-21T02:00:00Z"
    one = entry("z.x", ports=[TCP], metadata={"creationTimestamp": moment, "name": "a"})
    two = entry("a.x", ports=[TCP], metadata={"creationTimestamp": moment, "name": "z"})
    assert [chain.name for chain in listener(policy_of(one, two), 443).chains] == ["a.x:443"]


def test_a_port_of_a_host_belongs_to_its_oldest_document() -> None:
    result = compiled(entry("a.x", resolution="NONE"), entry("A.X"))
    assert "se-host-port-dup" in [each.id for each in result.complaints]
    assert result.policy is not None
    assert cluster(result.policy, "a.x").kind.value == "original_dst"


def test_workload_entries_of_the_own_namespace_are_selected_by_their_labels() -> None:
    def workload(address: str, app: str, **metadata: object) -> Fields:
        spec = {"address": address, "labels": {"app": app}, "ports": {"http": 8080}}
        return istio("WorkloadEntry", spec, **metadata)

    policy = policy_of(
        entry("a.x", resolution="STATIC", workloadSelector={"labels": {"app": "a"}}),
        workload("192.0.2.1", "a", labels={"v": "1"}),
        workload("192.0.2.2", "b"),
        workload("192.0.2.3", "a", namespace="elsewhere"),
        workload("192.0.2.4", "b", labels={"app": "a"}),
        workload("name.x", "a"),
    )
    assert cluster(policy, "a.x").endpoints == (
        Endpoint("192.0.2.1", 8080, 1, (("app", "a"), ("v", "1"))),
        Endpoint("192.0.2.4", 8080, 1, (("app", "a"),)),
    )


def test_an_endpoint_has_the_port_it_names_else_the_target_port() -> None:
    ports = [{**HTTP, "targetPort": 8000}]
    endpoints = [{"address": "192.0.2.1"}, {"address": "192.0.2.2", "ports": {"http": 9000}, "weight": 3}]
    found = cluster(policy_of(entry("a.x", ports=ports, resolution="STATIC", endpoints=endpoints)), "a.x")
    assert found.endpoints == (Endpoint("192.0.2.1", 8000), Endpoint("192.0.2.2", 9000, 3))
