"""Egress policies of one service account, united."""

from __future__ import annotations

from mesh_iptables.policy.model import (
    PASSTHROUGH_CLUSTER,
    RAW,
    TLS,
    UNLIMITED,
    ChainMatch,
    ClusterKind,
    DefaultAction,
    Identity,
    Limits,
    Listener,
    MatchKind,
    NamedMatch,
    Profile,
    RequestMatch,
    RouteTo,
    StringMatch,
    TcpAction,
    UpstreamProtocol,
    WeightedCluster,
)
from mesh_iptables.policy.settings import Options
from tests.unit.policy.samples import (
    CURL,
    Fields,
    compiled,
    document,
    egress,
    osm_policy,
    policy_of,
    route_group,
    table,
)

_GROUP: Fields = {"apiGroup": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "name": "g"}
_SETTING: Fields = {
    "apiGroup": "policy.openservicemesh.io/v1alpha1",
    "kind": "UpstreamTrafficSetting",
    "name": "s",
}


def _mesh(**spec: object) -> Fields:
    return document("MeshConfig", spec, "config.openservicemesh.io/v1alpha1")


def _listener(*documents: Fields) -> Listener:
    return osm_policy(*documents).listeners["0.0.0.0", 0]


def _setting(**connection_settings: object) -> Fields:
    spec = {"connectionSettings": connection_settings}
    group = "policy.openservicemesh.io/v1alpha1"
    return document("UpstreamTrafficSetting", spec, group, name="s", namespace="curl")


def test_without_a_policy_for_the_account_the_port_is_not_opened() -> None:
    assert osm_policy().default is DefaultAction.REFUSE
    for identity in (Identity("curl", "other"), Identity("other", "curl")):
        policy = policy_of(egress((80, "tcp")), profile=Profile.OSM, identity=identity)
        assert (policy.default, policy.listeners) == (DefaultAction.REFUSE, {})


def test_the_mesh_can_let_everything_pass_or_switch_policies_off() -> None:
    permissive = osm_policy(_mesh(traffic={"enableEgress": True}), egress((80, "tcp")))
    assert permissive.default is DefaultAction.PASSTHROUGH
    assert permissive.default_chain is not None
    assert permissive.default_chain.action == TcpAction((WeightedCluster(PASSTHROUGH_CLUSTER),))
    assert not permissive.listeners
    off = osm_policy(_mesh(featureFlags={"enableEgressPolicy": False}), egress((80, "tcp")))
    assert off.default is DefaultAction.REFUSE


def test_http_goes_to_the_addresses_of_the_host_itself() -> None:
    policy = osm_policy(egress((80, "http"), hosts=["a.x"]))
    cluster = policy.clusters["a.x:80"]
    assert (cluster.kind, cluster.endpoints[0].address) == (ClusterKind.STRICT_DNS, "a.x")
    assert (cluster.protocol, cluster.connect_timeout) == (UpstreamProtocol.SAME_AS_CLIENT, 5.0)
    vhost = table(policy).vhosts[0]
    assert vhost.domains == ("a.x", "a.x:80")
    assert [(rule.match, rule.action, rule.retry) for rule in vhost.rules] == [
        (RequestMatch(), RouteTo((WeightedCluster("a.x:80"),)), None)
    ]
    assert (table(policy).ignore_port, table(policy).fallback) == (False, None)


def test_https_is_matched_by_server_name_and_range_and_goes_where_the_client_connected() -> None:
    policy = osm_policy(egress((443, "HTTPS"), hosts=["a.x", "*.b.x"], ipAddresses=["10.0.0.0/8"]))
    chain = policy.listeners["0.0.0.0", 0].chains[0]
    assert chain.match == ChainMatch(443, ("10.0.0.0/8",), ("a.x", "*.b.x"), TLS)
    assert policy.clusters["443"].kind is ClusterKind.ORIGINAL_DST


def test_https_without_ranges_is_reported() -> None:
    result = compiled(egress((443, "https"), hosts=["a.x"]), profile=Profile.OSM, identity=CURL)
    assert [each.id for each in result.complaints] == ["W-SNI-SPOOF"]


def test_tcp_is_inspected_like_everything_for_15_seconds_or_as_the_option_says() -> None:
    found = _listener(egress((443, "tcp")))
    assert (found.inspect_tls, found.inspect_http, found.inspect_timeout) == (True, True, 15.0)
    policy = osm_policy(egress((443, "tcp")), options=Options(listener_filter_timeout=2.0))
    assert policy.listeners["0.0.0.0", 0].inspect_timeout == 2.0


def test_a_server_first_port_is_opaque() -> None:
    found = _listener(egress((3306, "tcp-server-first")), egress((3306, "http"), hosts=["a.x"]))
    assert found.opaque_ports == {3306}
    assert [chain.name for chain in found.chains] == ["egress-tcp.3306", "egress-http.3306"]


def test_policies_for_one_host_and_port_unite_their_routes() -> None:
    groups = route_group("g", {"pathRegex": "/a"}), route_group("h", {"pathRegex": "/b"}, {"pathRegex": "/a"})
    policies = [egress((80, "http"), hosts=["a.x"], matches=[{**_GROUP, "name": name}]) for name in ("g", "h", "g")]
    rules = table(osm_policy(*groups, *policies)).vhosts[0].rules
    paths = [rule.match.path.value for rule in rules if rule.match.path]
    assert paths == ["/a", "/b", "/a"]


def test_https_rules_that_share_a_host_are_one_chain_each() -> None:
    found = _listener(egress((443, "https"), hosts=["a.x", "b.x"]), egress((443, "https"), hosts=["b.x", "c.x"]))
    assert [chain.match.sni for chain in found.chains] == [("a.x", "b.x"), ("c.x",)]


def test_a_route_group_limits_path_method_headers_and_host() -> None:
    group = route_group(
        "g",
        {"pathRegex": "/get", "methods": ["GET", "HEAD"], "headers": {"Host": "a.*", "X-A": "1"}},
        {"methods": ["*"]},
    )
    rules = table(osm_policy(group, egress((80, "http"), hosts=["a.x"], matches=[_GROUP]))).vhosts[0].rules
    assert rules[0].match == RequestMatch(
        path=StringMatch(MatchKind.REGEX, "/get"),
        methods=(StringMatch(MatchKind.EXACT, "GET"), StringMatch(MatchKind.EXACT, "HEAD")),
        authority=StringMatch(MatchKind.REGEX, "a.*"),
        headers=(NamedMatch("x-a", StringMatch(MatchKind.REGEX, "1")),),
    )
    assert rules[1].match == RequestMatch(path=StringMatch(MatchKind.REGEX, ".*"))


def test_a_route_group_that_is_missing_allows_nothing() -> None:
    documents = egress((80, "http"), hosts=["a.x"], matches=[_GROUP])
    result = compiled(documents, profile=Profile.OSM, identity=CURL)
    assert result.policy is not None
    assert table(result.policy).vhosts[0].rules == ()
    assert [each.id for each in result.complaints] == ["eg-group-missing"]


def test_a_policy_whose_traffic_setting_is_missing_is_dropped() -> None:
    result = compiled(egress((80, "tcp"), matches=[_SETTING]), profile=Profile.OSM, identity=CURL)
    assert result.policy is not None
    assert result.policy.default is DefaultAction.REFUSE
    assert [each.id for each in result.complaints] == ["eg-uts-missing"]


def test_a_traffic_setting_limits_the_clusters_and_zero_is_zero() -> None:
    setting = _setting(tcp={"maxConnections": 3, "connectTimeout": "2s"}, http={"maxRequests": 0})
    policy = osm_policy(setting, egress((80, "http"), hosts=["a.x"], matches=[_SETTING]))
    cluster = policy.clusters["a.x:80"]
    assert cluster.limits == Limits(3, UNLIMITED, 0)
    assert cluster.connect_timeout == 2.0


def test_http_does_not_ask_for_a_transport_so_that_tls_with_alpn_meets_it() -> None:
    chain = _listener(egress((80, "http"), hosts=["a.x"])).chains[0]
    assert chain.match == ChainMatch(80, protocols=("http/1.0", "http/1.1", "h2c"))
    assert chain.match.transport != RAW
