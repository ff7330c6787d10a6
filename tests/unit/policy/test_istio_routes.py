"""VirtualServices into rules, hosts into domains."""

from __future__ import annotations

import pytest

from mesh_iptables.policy.istio_routes import DEFAULT_RETRY
from mesh_iptables.policy.model import (
    DirectResponse,
    Fault,
    FaultAbort,
    HashPolicy,
    HashSource,
    HeaderOperations,
    Identity,
    MatchKind,
    Mirror,
    NamedMatch,
    Profile,
    Redirect,
    RegexRewrite,
    RequestMatch,
    RetryPolicy,
    Rewrite,
    RouteTo,
    Rule,
    StringMatch,
    WeightedCluster,
)
from tests.unit.policy.samples import HTTP, REGISTRY_ONLY, Fields, entry, istio, mesh, policy_of, routes, table, to


def _rules(*http: Fields, identity: Identity = Identity(), more: tuple[Fields, ...] = ()) -> tuple[Rule, ...]:  # noqa: B008
    policy = policy_of(entry("a.x"), routes("a.x", *http), *more, identity=identity)
    return table(policy).vhosts[0].rules


def _rule(**fields: object) -> Rule:
    return _rules({**to("a.x"), **fields})[0]


def _domains(*documents: Fields, profile: Profile = Profile.ISTIO) -> list[tuple[str, ...]]:
    return [vhost.domains for vhost in table(policy_of(*documents, profile=profile)).vhosts]


def test_a_host_is_known_with_and_without_a_dot_and_by_its_addresses() -> None:
    assert _domains(entry("A.x", addresses=["192.0.2.1", "10.0.0.0/8"], resolution="STATIC")) == [
        ("a.x", "a.x.", "192.0.2.1")
    ]


def test_istio_1_0_knows_a_host_with_and_without_the_port() -> None:
    assert _domains(entry("a.x"), profile=Profile.ISTIO_1_0) == [("a.x", "a.x:80")]


def test_a_domain_stays_with_the_older_service() -> None:
    address = ["192.0.2.1"]
    assert _domains(entry("a.x", addresses=address), entry("b.x", addresses=address)) == [
        ("a.x", "a.x.", "192.0.2.1"),
        ("b.x", "b.x."),
    ]


def test_unknown_hosts_get_502_or_pass_or_nothing_in_istio_1_0() -> None:
    blocked = table(policy_of(REGISTRY_ONLY, entry("a.x"))).fallback
    assert blocked is not None
    assert blocked.rules[0].action == DirectResponse(502)
    passed = table(policy_of(entry("a.x"))).fallback
    assert passed is not None
    assert passed.rules[0].action == RouteTo((WeightedCluster("PassthroughCluster"),))
    assert passed.rules[0].retry is None
    assert table(policy_of(entry("a.x"), profile=Profile.ISTIO_1_0)).fallback is None


def test_an_egress_proxy_takes_unknown_traffic() -> None:
    settings = mesh(outboundTrafficPolicy={"egressProxy": {"host": "p.x", "port": {"number": 8080}}})
    fallback = table(policy_of(settings, entry("a.x"))).fallback
    assert fallback is not None
    assert fallback.rules[0].action == RouteTo((WeightedCluster("outbound|8080||p.x"),))


def test_a_service_without_rules_is_reached_with_the_default_retries() -> None:
    rule = table(policy_of(entry("a.x"))).vhosts[0].rules[0]
    assert rule.action == RouteTo((WeightedCluster("outbound|80||a.x"),))
    assert (rule.retry, rule.timeout) == (DEFAULT_RETRY, 0.0)
    assert table(policy_of(entry("a.x"), profile=Profile.ISTIO_1_0)).vhosts[0].rules[0].retry is None


def test_virtual_services_are_not_merged_the_oldest_owns_the_host() -> None:
    policy = policy_of(entry("a.x"), routes("a.x", to("b.x")), routes("a.x", to("c.x")))
    assert [rule.action for rule in table(policy).vhosts[0].rules] == [RouteTo((WeightedCluster("outbound|80||b.x"),))]


def test_an_exact_virtual_service_comes_before_an_older_wildcard() -> None:
    policy = policy_of(entry("a.x.y"), routes("*.x.y", to("b.x")), routes("a.x.y", to("c.x")))
    assert table(policy).vhosts[0].rules[0].action == RouteTo((WeightedCluster("outbound|80||c.x"),))


def test_hosts_that_only_a_virtual_service_names_are_on_port_80() -> None:
    policy = policy_of(entry("a.x", ports=[HTTP, {**HTTP, "number": 81, "name": "b"}]), routes("alias.y", to("a.x")))
    assert [vhost.name for vhost in table(policy).vhosts] == ["a.x:80", "alias.y:80"]
    assert [vhost.name for vhost in table(policy, 81).vhosts] == ["a.x:81"]


def test_each_match_is_a_rule_and_nothing_follows_a_rule_without() -> None:
    rules = _rules({**to("a.x"), "match": [{"uri": {"exact": "/a"}}, {"uri": {"prefix": "/b"}}]}, to("b.x"), to("c.x"))
    assert [rule.match.path for rule in rules] == [
        StringMatch(MatchKind.EXACT, "/a"),
        StringMatch(MatchKind.PREFIX, "/b"),
        None,
    ]


@pytest.mark.parametrize(
    ("match", "applies"),
    [
        ({"port": 80}, True),
        ({"port": 81}, False),
        ({"sourceLabels": {"app": "web"}}, True),
        ({"sourceLabels": {"app": "db"}}, False),
        ({"sourceNamespace": "ns1"}, True),
        ({"sourceNamespace": "ns2"}, False),
        ({"gateways": ["mesh"]}, True),
        ({"gateways": ["edge"]}, False),
    ],
)
def test_matches_about_other_workloads_ports_and_gateways_are_dropped(match: Fields, applies: bool) -> None:
    identity = Identity("ns1", "a", (("app", "web"),))
    rules = _rules({**to("a.x"), "match": [match]}, identity=identity)
    assert bool(rules) is applies


def test_all_kinds_of_matches_are_kept() -> None:
    rule = _rule(
        match=[
            {
                "uri": {"prefix": "/CI"},
                "ignoreUriCase": True,
                "scheme": {"exact": "http"},
                "method": {"regex": "GET|PUT"},
                "authority": {"prefix": "a."},
                "headers": {"X-A": {"exact": "1"}, "x-b": {"regex": "*"}, "x-c": {}},
                "withoutHeaders": {"X-D": {"exact": "2"}},
                "queryParams": {"Q": {"regex": "[0-9]+"}},
            }
        ]
    )
    present = StringMatch(MatchKind.PRESENT)
    assert rule.match == RequestMatch(
        path=StringMatch(MatchKind.PREFIX, "/CI", ignore_case=True),
        scheme=StringMatch(MatchKind.EXACT, "http"),
        methods=(StringMatch(MatchKind.REGEX, "GET|PUT"),),
        authority=StringMatch(MatchKind.PREFIX, "a."),
        headers=(
            NamedMatch("x-a", StringMatch(MatchKind.EXACT, "1")),
            NamedMatch("x-b", present),
            NamedMatch("x-c", present),
            NamedMatch("x-d", StringMatch(MatchKind.EXACT, "2"), inverted=True),
        ),
        query=(NamedMatch("Q", StringMatch(MatchKind.REGEX, "[0-9]+")),),
    )


def test_weights_leave_out_nothing_but_zeros() -> None:
    destinations = [
        {"destination": {"host": "a.x"}, "weight": 80},
        {"destination": {"host": "b.x"}, "weight": 0},
        {"destination": {"host": "c.x", "subset": "v", "port": {"number": 81}}, "weight": 20},
    ]
    assert _rule(route=destinations).action == RouteTo(
        (WeightedCluster("outbound|80||a.x", 80), WeightedCluster("outbound|81|v|c.x", 20))
    )
    assert _rule(route=[{"destination": {"host": "a.x"}, "weight": 0}]).action == RouteTo(
        (WeightedCluster("outbound|80||a.x"),)
    )


def test_the_port_of_a_destination_is_its_only_one_else_that_of_the_listener() -> None:
    other = entry("b.x", ports=[{**HTTP, "number": 8080}])
    assert _rules(to("b.x"), more=(other,))[0].action == RouteTo((WeightedCluster("outbound|8080||b.x"),))


def test_redirect_and_direct_response() -> None:
    redirect: Fields = {"redirect": {"uri": "/n", "authority": "b.x", "redirectCode": 302}}
    assert _rules(redirect)[0].action == Redirect(302, None, "b.x", "/n")
    answer: Fields = {"directResponse": {"status": 405, "body": {"string": "no"}}}
    assert _rules(answer)[0].action == DirectResponse(405, "no")


def test_retries_name_tokens_and_status_codes() -> None:
    retries = {"attempts": 3, "retryOn": "5xx,503", "perTryTimeout": "500ms", "backoff": "1s"}
    assert _rule(retries=retries).retry == RetryPolicy(
        3, ("5xx", "retriable-status-codes"), (503,), 0.5, backoff_base=1.0, backoff_max=10.0
    )
    assert _rule(retries={"attempts": 4}).retry == RetryPolicy(4, DEFAULT_RETRY.on)
    assert _rule(retries={"attempts": 0}).retry is None


def test_the_mesh_replaces_the_default_retries() -> None:
    policy = policy_of(mesh(defaultHttpRetryPolicy={"attempts": 1, "retryOn": "5xx"}), entry("a.x"))
    assert table(policy).vhosts[0].rules[0].retry == RetryPolicy(1, ("5xx",))


def test_a_fault_without_a_percentage_never_fires() -> None:
    assert _rule(fault={"abort": {"httpStatus": 418}, "delay": {"fixedDelay": "1s"}}).fault is None
    abort = {"httpStatus": 418, "percentage": {"value": 50}}
    assert _rule(fault={"abort": abort, "delay": {"fixedDelay": "1s"}}).fault == Fault(None, FaultAbort(418, 50.0))


def test_rewrites_of_path_and_authority() -> None:
    assert _rule(rewrite={"uri": "/n", "authority": "b.x"}).rewrite == Rewrite("/n", None, "b.x")
    expression = {"match": "^/(.*)", "rewrite": r"/v1/\1"}
    assert _rule(rewrite={"uriRegexRewrite": expression}).rewrite == Rewrite(regex=RegexRewrite("^/(.*)", r"/v1/\1"))


def test_setting_the_host_header_is_a_rewrite_of_the_authority() -> None:
    rule = _rule(headers={"request": {"set": {"Host": "b.x", "X-A": "1"}, "add": {"x-b": "2"}, "remove": ["X-C"]}})
    assert rule.rewrite == Rewrite(authority="b.x")
    assert rule.request_headers == HeaderOperations((("x-a", "1"),), (("x-b", "2"),), ("x-c",))
    own = [{"destination": {"host": "a.x"}, "headers": {"request": {"set": {":authority": "c.x"}}}}]
    assert _rule(route=own).action == RouteTo((WeightedCluster("outbound|80||a.x", authority="c.x"),))


def test_mirrors_are_all_requests_unless_said() -> None:
    rule = _rule(
        mirror={"host": "b.x"},
        mirrors=[
            {"destination": {"host": "c.x"}, "percentage": {"value": 5}},
            {"destination": {"host": "d.x"}, "percentage": {"value": 0}},
        ],
    )
    assert rule.mirrors == (Mirror("outbound|80||b.x"), Mirror("outbound|80||c.x", 5.0))


@pytest.mark.parametrize(
    ("key", "policy"),
    [
        ({"httpHeaderName": "X-User"}, HashPolicy(HashSource.HEADER, "x-user")),
        ({"useSourceIp": True}, HashPolicy(HashSource.SOURCE_IP)),
        ({"httpCookie": {"name": "c", "path": "/", "ttl": "0s"}}, HashPolicy(HashSource.COOKIE, "c", "/", 0.0)),
    ],
)
def test_requests_are_hashed_as_the_destination_rule_says(key: Fields, policy: HashPolicy) -> None:
    rule = istio("DestinationRule", {"host": "a.x", "trafficPolicy": {"loadBalancer": {"consistentHash": key}}})
    assert _rules(to("a.x"), more=(rule,))[0].hash_policies == (policy,)
