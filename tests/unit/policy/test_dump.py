"""What `istioctl proxy-config` shows for the same resources, by the names of the old listings."""

from __future__ import annotations

from mesh_iptables.policy import dump
from mesh_iptables.policy.model import Profile
from tests.unit.policy.samples import TLS, egress, entry, osm_policy, policy_of, routes, to


def _names(messages: list[dict[str, object]]) -> list[object]:
    return [message["name"] for message in messages]


def test_the_listings_of_istio_1_0() -> None:
    policy = policy_of(
        entry("httpbin.org", resolution="NONE"),
        entry("www.baidu.com", ports=[TLS]),
        routes("httpbin.org", {**to("httpbin.org"), "timeout": "3s"}),
        profile=Profile.ISTIO_1_0,
    )
    (cluster,) = dump.clusters(policy, fqdn="httpbin.org")
    assert cluster["name"] == "outbound|80||httpbin.org"
    assert (cluster["type"], cluster["connectTimeout"], cluster["lbPolicy"]) == (
        *("ORIGINAL_DST", "1s", "CLUSTER_PROVIDED"),
    )
    (table,) = dump.routes(policy, name="80")
    assert table["validateClusters"] is False
    vhosts = table["virtualHosts"]
    assert isinstance(vhosts, list)
    (vhost,) = vhosts
    assert (vhost["name"], vhost["domains"]) == ("httpbin.org:80", ["httpbin.org", "httpbin.org:80"])
    assert vhost["routes"][0]["route"] == {"cluster": "outbound|80||httpbin.org", "timeout": "3s"}
    (listener,) = dump.listeners(policy, port=443)
    assert (listener["name"], listener["bindToPort"]) == ("0.0.0.0_443", False)


def test_listeners_name_their_routes_and_filters_keep_their_names() -> None:
    (listener,) = dump.listeners(policy_of(entry("a.x")), name="0.0.0.0_80")
    text = str(listener)
    assert "'routeConfigName': '80'" in text
    assert "virtualHosts" not in text
    assert "envoy.filters.network.http_connection_manager" in text


def test_each_filter_narrows_the_listing() -> None:
    policy = policy_of(entry("a.x"), entry("b.x", ports=[TLS]))
    assert _names(dump.listeners(policy)) == ["virtualOutbound", "0.0.0.0_80", "0.0.0.0_443"]
    assert _names(dump.clusters(policy, port=443)) == ["outbound|443||b.x"]
    assert _names(dump.clusters(policy, name="PassthroughCluster")) == ["PassthroughCluster"]
    assert _names(dump.clusters(policy, fqdn="A.x.")) == ["outbound|80||a.x"]
    assert dump.routes(policy, port=443) == []
    assert _names(dump.routes(policy, fqdn="a.x")) == ["80"]
    assert dump.routes(policy, fqdn="b.x") == []
    assert _names(dump.listeners(policy, fqdn="b.x")) == ["0.0.0.0_443"]
    assert _names(dump.listeners(policy, fqdn="a.x")) == ["0.0.0.0_80"]


def test_the_names_of_osm() -> None:
    policy = osm_policy(egress((80, "http"), (443, "https"), hosts=["a.x"]))
    assert _names(dump.listeners(policy)) == ["outbound-listener"]
    assert _names(dump.routes(policy, port=80)) == ["rds-egress.80"]
    assert _names(dump.clusters(policy)) == ["BlackHoleCluster", "a.x:80", "443"]
