"""Who gets which listener, and by which chain."""

from __future__ import annotations

from mesh_iptables.policy.model import RAW, Chain, ChainMatch, HttpAction, Profile, TcpAction
from mesh_iptables.policy.settings import Options
from tests.unit.policy.samples import (
    REGISTRY_ONLY,
    TCP,
    TLS,
    Fields,
    entry,
    istio,
    listener,
    mesh,
    policy_of,
    routes,
    to,
)

_MYSQL: Fields = {"number": 80, "name": "db", "protocol": "MYSQL"}
_TCP80: Fields = {"number": 80, "name": "raw", "protocol": "TCP"}
_AUTO: Fields = {"number": 80, "name": "auto", "protocol": ""}


def _clusters(chain: Chain) -> list[str]:
    assert isinstance(chain.action, TcpAction)
    return [target.cluster for target in chain.action.targets]


def test_an_http_port_is_inspected_for_http_alone() -> None:
    found = listener(policy_of(REGISTRY_ONLY, entry("a.x")), 80)
    assert [chain.match for chain in found.chains] == [ChainMatch(transport=RAW, protocols=("http/1.1", "h2c"))]
    assert (found.inspect_http, found.inspect_tls, found.default_chain) == (True, False, None)


def test_http_1_0_is_http_only_on_demand() -> None:
    policy = policy_of(entry("a.x"), options=Options(accept_http_10=True))
    assert "http/1.0" in listener(policy, 80).chains[0].match.protocols


def test_a_tls_port_is_matched_by_its_host_and_never_times_out() -> None:
    policy = policy_of(mesh(protocolDetectionTimeout="5s"), entry("a.x", "b.x", ports=[TLS]))
    found = listener(policy, 443)
    assert [chain.match.sni for chain in found.chains] == [("a.x",), ("b.x",)]
    assert (found.inspect_tls, found.inspect_http, found.inspect_timeout) == (True, False, 0.0)


def test_a_tcp_port_is_not_inspected_at_all() -> None:
    found = listener(policy_of(entry("a.x", ports=[TCP])), 443)
    assert (found.inspect_tls, found.inspect_http) == (False, False)


def test_the_detection_timeout_holds_where_http_is_looked_for() -> None:
    policy = policy_of(mesh(protocolDetectionTimeout="5s"), entry("a.x"))
    assert listener(policy, 80).inspect_timeout == 5.0


def test_unknown_traffic_of_a_known_port_passes_under_allow_any() -> None:
    default = listener(policy_of(entry("a.x")), 80).default_chain
    assert default is not None
    assert (default.name, _clusters(default)) == ("PassthroughFilterChain", ["PassthroughCluster"])


def test_an_address_has_a_listener_and_a_range_is_a_match() -> None:
    policy = policy_of(
        entry("a.x", ports=[TCP], addresses=["192.0.2.1/32"]),
        entry("b.x", ports=[TCP], addresses=["10.1.2.3/8", "192.0.2.2"], resolution="STATIC"),
    )
    assert sorted(policy.listeners) == [("0.0.0.0", 443), ("192.0.2.1", 443), ("192.0.2.2", 443)]
    assert listener(policy, 443).chains[0].match.dst_cidrs == ("10.0.0.0/8",)


def test_http_services_live_on_every_address_of_the_port() -> None:
    assert list(policy_of(entry("a.x", addresses=["192.0.2.1"])).listeners) == [("0.0.0.0", 80)]


def test_tcp_services_with_different_ranges_share_a_port() -> None:
    policy = policy_of(
        entry("a.x", ports=[TCP], addresses=["10.0.0.0/8"], resolution="STATIC"),
        entry("b.x", ports=[TCP], addresses=["10.0.0.0/8", "11.0.0.0/8"], resolution="STATIC"),
    )
    assert [(chain.name, chain.match.dst_cidrs) for chain in listener(policy, 443).chains] == [
        ("a.x:443", ("10.0.0.0/8",)),
        ("b.x:443", ("11.0.0.0/8",)),
    ]


def test_http_and_tcp_share_a_port_and_raw_bytes_find_their_chain() -> None:
    chains = listener(policy_of(entry("a.x"), entry("b.x", ports=[_TCP80])), 80).chains
    assert [(type(chain.action), chain.match.transport) for chain in chains] == [
        (HttpAction, RAW),
        (TcpAction, ""),
        (TcpAction, RAW),
    ]


def test_a_database_that_speaks_first_and_http_exclude_each_other() -> None:
    database, web = entry("a.x", ports=[_MYSQL]), entry("b.x")
    assert [chain.name for chain in listener(policy_of(database, web), 80).chains] == ["a.x:80"]
    assert [chain.name for chain in listener(policy_of(web, database), 80).chains] == ["0.0.0.0_80"]


def test_istio_1_0_gives_a_port_to_http_or_tcp_and_looks_at_nothing() -> None:
    documents = entry("a.x"), entry("b.x", ports=[_TCP80])
    found = listener(policy_of(*documents, profile=Profile.ISTIO_1_0), 80)
    assert [chain.match for chain in found.chains] == [ChainMatch()]
    assert isinstance(found.chains[0].action, HttpAction)
    assert (found.inspect_tls, found.inspect_http) == (False, False)
    found = listener(policy_of(*reversed(documents), profile=Profile.ISTIO_1_0), 80)
    assert [type(chain.action) for chain in found.chains] == [TcpAction]


def test_istio_1_0_does_not_match_the_host_of_a_tls_port() -> None:
    found = listener(policy_of(entry("a.x", ports=[TLS]), profile=Profile.ISTIO_1_0), 443)
    assert [chain.match for chain in found.chains] == [ChainMatch()]


def test_an_automatic_port_with_an_address_takes_http_for_any_host_and_raw_bytes() -> None:
    found = listener(policy_of(entry("a.x", ports=[_AUTO], addresses=["192.0.2.1"])), 80, "192.0.2.1")
    http = found.chains[0].action
    assert isinstance(http, HttpAction)
    assert http.routes.vhosts == ()
    assert http.routes.fallback is not None
    assert _clusters(found.chains[1]) == ["outbound|80||a.x"]


def _tls_service(*match: Fields, **spec: object) -> Fields:
    return istio("VirtualService", {"hosts": ["a.x", "*.b.x"], "tls": [{"match": list(match), **to("c.x")}], **spec})


def test_tls_routes_replace_the_match_by_host() -> None:
    match = {"sniHosts": ["A.x", "d.b.x"], "port": 443, "destinationSubnets": ["10.0.0.0/8"]}
    chains = listener(policy_of(entry("a.x", ports=[TLS]), _tls_service(match)), 443).chains
    assert [chain.match for chain in chains] == [ChainMatch(0, ("10.0.0.0/8",), ("a.x", "d.b.x"))]
    assert _clusters(chains[0]) == ["outbound|443||c.x"]


def test_tls_routes_of_another_port_leave_the_match_by_host() -> None:
    chains = listener(
        policy_of(entry("a.x", ports=[TLS]), _tls_service({"sniHosts": ["a.x"], "port": 8443})), 443
    ).chains
    assert [chain.name for chain in chains] == ["a.x:443"]


def test_tls_routes_also_hold_in_istio_1_0() -> None:
    service = _tls_service({"sniHosts": ["a.x"], "port": 443})
    found = listener(policy_of(entry("a.x", ports=[TLS]), service, profile=Profile.ISTIO_1_0), 443)
    assert [chain.match.sni for chain in found.chains] == [("a.x",)]
    assert found.inspect_tls


def test_one_tls_route_for_two_services_is_one_chain() -> None:
    service = _tls_service({"sniHosts": ["a.x", "*.b.x"]})
    policy = policy_of(entry("a.x", ports=[TLS]), entry("d.b.x", ports=[TLS]), service)
    assert [chain.match.sni for chain in listener(policy, 443).chains] == [("a.x", "*.b.x")]


def test_tcp_routes_are_weighted_and_end_with_one_without_match() -> None:
    weighted = {
        "route": [
            {"destination": {"host": "b.x"}, "weight": 1},
            {"destination": {"host": "c.x"}, "weight": 3},
        ]
    }
    tcp = [{"match": [{"port": 443, "destinationSubnets": ["10.0.0.0/8"]}], **to("d.x")}, weighted, to("e.x")]
    chains = listener(policy_of(entry("a.x", ports=[TCP]), routes("a.x", tcp=tcp)), 443).chains
    assert [(chain.match.dst_cidrs, _clusters(chain)) for chain in chains] == [
        (("10.0.0.0/8",), ["outbound|443||d.x"]),
        ((), ["outbound|443||b.x", "outbound|443||c.x"]),
    ]
