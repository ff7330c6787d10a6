"""Clusters: kinds of resolution, DestinationRules, subsets, TLS."""

from __future__ import annotations

import pytest

from mesh_iptables.policy.model import (
    UNLIMITED,
    Cluster,
    ClusterKind,
    Endpoint,
    Limits,
    LoadBalancing,
    Outlier,
    Profile,
    TlsOrigination,
    UpstreamProtocol,
)
from mesh_iptables.policy.settings import Options
from tests.unit.policy.samples import HTTP, Fields, cluster, compiled, entry, istio, mesh, policy_of


def _rule(host: str = "a.x", *, metadata: Fields | None = None, **spec: object) -> Fields:
    return istio("DestinationRule", {"host": host, **spec}, **(metadata or {}))


def _with(policy: Fields, **spec: object) -> Cluster:
    """The cluster of a.x under a traffic policy."""
    return cluster(policy_of(entry("a.x", **spec), _rule(trafficPolicy=policy)), "a.x")


@pytest.mark.parametrize(
    ("resolution", "kind"),
    [
        ("NONE", ClusterKind.ORIGINAL_DST),
        ("STATIC", ClusterKind.STATIC),
        ("DNS", ClusterKind.STRICT_DNS),
        ("DNS_ROUND_ROBIN", ClusterKind.LOGICAL_DNS),
    ],
)
def test_each_resolution_has_its_kind(resolution: str, kind: ClusterKind) -> None:
    found = cluster(policy_of(entry("a.x", resolution=resolution)), "a.x")
    assert found.kind is kind
    named = kind in (ClusterKind.STRICT_DNS, ClusterKind.LOGICAL_DNS)
    assert found.endpoints == ((Endpoint("a.x", 80),) if named else ())


def test_the_target_port_replaces_the_port_of_the_original_destination() -> None:
    ports = [{**HTTP, "targetPort": 8080}]
    assert cluster(policy_of(entry("a.x", ports=ports, resolution="NONE")), "a.x").port_override == 8080
    assert cluster(policy_of(entry("a.x", ports=ports)), "a.x").endpoints == (Endpoint("a.x", 8080),)


def test_the_connect_timeout_is_that_of_the_rule_then_the_mesh_then_the_profile() -> None:
    assert _with({"connectionPool": {"tcp": {"connectTimeout": "3s"}}}).connect_timeout == 3.0
    assert cluster(policy_of(mesh(connectTimeout="2s"), entry("a.x")), "a.x").connect_timeout == 2.0
    assert cluster(policy_of(entry("a.x")), "a.x").connect_timeout == 10.0
    assert cluster(policy_of(entry("a.x"), profile=Profile.ISTIO_1_0), "a.x").connect_timeout == 1.0


def test_an_exact_host_beats_wildcards_and_the_longest_wildcard_beats_others() -> None:
    def named(host: str, seconds: int) -> Fields:
        return _rule(host, trafficPolicy={"connectionPool": {"tcp": {"connectTimeout": f"{seconds}s"}}})

    rules = [named("*.y", 1), named("*.x.y", 2), named("a.x.y", 3), named("a.x.y", 4)]
    policy = policy_of(entry("a.x.y"), entry("b.x.y"), entry("c.y"), *rules)
    assert [cluster(policy, host).connect_timeout for host in ("a.x.y", "b.x.y", "c.y")] == [3, 2, 1]


def test_port_level_settings_replace_the_whole_policy_for_their_port() -> None:
    policy: Fields = {
        "connectionPool": {"tcp": {"maxConnections": 1}},
        "loadBalancer": {"simple": "RANDOM"},
        "portLevelSettings": [{"port": {"number": 80}, "loadBalancer": {"simple": "ROUND_ROBIN"}}],
    }
    found = _with(policy)
    assert (found.lb, found.limits) == (LoadBalancing.ROUND_ROBIN, Limits())


def test_a_subset_is_a_cluster_of_the_endpoints_with_its_labels_and_the_merged_policy() -> None:
    endpoints = [
        {"address": "192.0.2.1", "labels": {"v": "1"}},
        {"address": "192.0.2.2", "labels": {"v": "2"}},
    ]
    rule = _rule(
        trafficPolicy={"loadBalancer": {"simple": "RANDOM"}, "connectionPool": {"tcp": {"maxConnections": 1}}},
        subsets=[
            {"name": "one", "labels": {"v": "1"}, "trafficPolicy": {"loadBalancer": {"simple": "ROUND_ROBIN"}}},
            {"name": "none", "labels": {"v": "9"}},
        ],
    )
    policy = policy_of(entry("a.x", resolution="STATIC", endpoints=endpoints), rule)
    one = cluster(policy, "a.x", subset="one")
    assert [endpoint.address for endpoint in one.endpoints] == ["192.0.2.1"]
    assert (one.lb, one.limits.max_connections) == (LoadBalancing.ROUND_ROBIN, 1)
    assert cluster(policy, "a.x", subset="none").endpoints == ()
    assert len(cluster(policy, "a.x").endpoints) == 2


def test_zero_means_not_set_in_a_connection_pool() -> None:
    pool = {"tcp": {"maxConnections": 0}, "http": {"http2MaxRequests": 0, "http1MaxPendingRequests": 7}}
    assert _with({"connectionPool": pool}).limits == Limits(UNLIMITED, 7)


def test_outlier_detection_that_is_not_asked_for_is_off() -> None:
    assert _with({}).outlier is None
    assert _with({"outlierDetection": {"consecutive5xxErrors": 2}}).outlier == Outlier(2)


def test_passthrough_balancing_means_the_original_destination() -> None:
    found = _with({"loadBalancer": {"simple": "PASSTHROUGH"}})
    assert (found.kind, found.lb, found.endpoints) == (
        ClusterKind.ORIGINAL_DST,
        LoadBalancing.CLUSTER_PROVIDED,
        (),
    )


@pytest.mark.parametrize("protocol", ["HTTP2", "grpc"])
def test_http2_ports_and_the_upgrade_policy_speak_http2_to_the_upstream(protocol: str) -> None:
    ports = [{**HTTP, "protocol": protocol}]
    assert cluster(policy_of(entry("a.x", ports=ports)), "a.x").protocol is UpstreamProtocol.HTTP2
    upgraded = _with({"connectionPool": {"http": {"h2UpgradePolicy": "UPGRADE"}}})
    assert upgraded.protocol is UpstreamProtocol.HTTP2
    assert _with({}).protocol is UpstreamProtocol.HTTP1


def test_without_sni_and_names_both_come_from_the_host() -> None:
    assert _with({"tls": {"mode": "SIMPLE"}}).tls == TlsOrigination(sni_from_host=True, verify_host=True)


def test_an_sni_alone_switches_the_check_of_the_name_off() -> None:
    assert _with({"tls": {"mode": "SIMPLE", "sni": "b.x"}}).tls == TlsOrigination(sni="b.x")


def test_the_names_of_the_entry_hold_where_the_rule_gives_none() -> None:
    simple: Fields = {"tls": {"mode": "SIMPLE"}}
    found = _with(simple, subjectAltNames=["b.x"]).tls
    assert found == TlsOrigination(sans=("b.x",), sni_from_host=True)
    assert _with({"tls": {"mode": "SIMPLE", "subjectAltNames": ["c.x"]}}, subjectAltNames=["b.x"]).tls == (
        TlsOrigination(sans=("c.x",), sni_from_host=True)
    )


def test_mutual_tls_has_a_certificate_and_no_check_only_on_demand() -> None:
    mutual = {"mode": "MUTUAL", "clientCertificate": "/c", "privateKey": "/k", "insecureSkipVerify": True}
    assert _with({"tls": mutual}).tls == TlsOrigination("/c", "/k", sni_from_host=True, verify=False)


def test_pinned_entries_are_looked_up_and_wildcards_are_left_out() -> None:
    options = Options(pin_original_dst=True)
    documents = (
        entry("a.x", resolution="NONE"),
        entry("*.y", resolution="NONE"),
        entry("b.x", resolution="NONE", addresses=["192.0.2.1"]),
    )
    result = compiled(*documents, options=options)
    assert result.policy is not None
    assert cluster(result.policy, "a.x").endpoints == (Endpoint("a.x", 80),)
    assert cluster(result.policy, "b.x").kind is ClusterKind.ORIGINAL_DST
    assert [each.id for each in result.complaints if each.severity.rejects] == ["pin-wildcard"]
    assert "*.y" not in [each.host for each in result.policy.clusters.values()]
