"""The decision in words, with the documents behind it."""

from __future__ import annotations

from mesh_iptables.policy.explain import Explanation, Question, explain
from mesh_iptables.policy.model import Profile
from mesh_iptables.policy.routing import Reason, Request
from tests.unit.policy.samples import (
    HTTP,
    REGISTRY_ONLY,
    TCP,
    TLS,
    Fields,
    egress,
    entry,
    osm_policy,
    policy_of,
    routes,
    to,
)


def _get(host: str, target: str = "/", port: int = 80) -> Question:
    return Question("198.51.100.9", port, Request("GET", host, target))


def _outcome(found: Explanation) -> tuple[str, Reason, int | None]:
    return found.action, found.reason, found.status


def test_an_allowed_request_names_its_rule_cluster_and_documents() -> None:
    route = {**to("a.x"), "match": [{"uri": {"prefix": "/a"}}], "rewrite": {"uri": "/b"}}
    found = explain(policy_of(REGISTRY_ONLY, entry("a.x"), routes("a.x", route)), _get("a.x", "/ax?q"))
    assert found.allowed
    assert (found.listener, found.virtual_host, found.rule) == ("0.0.0.0_80", "a.x:80", "http[0].match[0]")
    assert found.target == "/bx?q"
    assert [target.name for target in found.targets] == ["outbound|80||a.x"]
    assert [origin.field for origin in found.origins] == ["spec.ports[0]", "", "spec.http[0].match[0]"]


def test_a_refused_request_says_why_and_by_which_setting() -> None:
    policy = policy_of(REGISTRY_ONLY, entry("a.x"), routes("a.x", {**to("a.x"), "match": [{"port": 81}]}))
    assert _outcome(explain(policy, _get("b.x"))) == ("answer", Reason.BLOCKED_HOST, 502)
    assert explain(policy, _get("b.x")).origins[-1].resource == "IstioOperator/default/mesh"
    assert _outcome(explain(policy, _get("a.x"))) == ("answer", Reason.NO_RULE, 404)
    assert _outcome(explain(policy, _get("a.x", port=81))) == ("close", Reason.NO_LISTENER, None)
    assert _outcome(explain(policy, _get("a.x", port=15001))) == ("close", Reason.LOOP, None)
    assert _outcome(explain(policy, Question("198.51.100.9", 80, sni="a.x"))) == ("close", Reason.NO_CHAIN, None)


def test_redirects_and_answers_are_told() -> None:
    rules: tuple[Fields, ...] = (
        {"match": [{"uri": {"prefix": "/r"}}], "redirect": {"uri": "/n"}},
        {"directResponse": {"status": 405}},
    )
    policy = policy_of(entry("a.x"), routes("a.x", *rules))
    found = explain(policy, _get("a.x", "/r?q"))
    assert (found.action, found.status, found.location) == ("redirect", 301, "http://a.x/n?q")
    assert _outcome(explain(policy, _get("a.x", "/x"))) == ("answer", Reason.ALLOWED, 405)


def test_weights_are_told_as_shares_and_missing_clusters_as_such() -> None:
    destinations = [
        {"destination": {"host": "a.x"}, "weight": 80},
        {"destination": {"host": "gone.x"}, "weight": 20},
    ]
    found = explain(policy_of(entry("a.x"), routes("a.x", {"route": destinations})), _get("a.x"))
    assert [(target.share, target.cluster is None) for target in found.targets] == [(0.8, False), (0.2, True)]
    assert any("80%" in step for step in found.steps)


def test_connections_are_followed_by_server_name_and_without() -> None:
    policy = policy_of(entry("a.x", ports=[TLS]), entry("b.x", ports=[{**TCP, "number": 22}]))
    assert _outcome(explain(policy, Question("198.51.100.9", 443, sni="A.x")))[:2] == ("tcp", Reason.ALLOWED)
    assert _outcome(explain(policy, Question("198.51.100.9", 443, sni="z.x")))[:2] == ("tcp", Reason.PASSTHROUGH)
    assert explain(policy, Question("198.51.100.9", 22)).chain == "b.x:22"


def test_a_port_that_is_not_opened_is_refused() -> None:
    assert _outcome(explain(osm_policy(), Question("198.51.100.9", 80))) == ("refuse", Reason.NOT_OPEN, None)


def test_tls_with_http_in_its_alpn_meets_the_http_chain_of_osm() -> None:
    policy = osm_policy(egress((80, "http"), hosts=["a.x"]))
    question = Question("198.51.100.9", 80, sni="a.x", alpn=("http/1.1",))
    assert _outcome(explain(policy, question))[0::2] == ("answer", 400)
    assert explain(policy, Question("198.51.100.9", 80, sni="a.x")).action == "close"


def test_http_1_0_takes_the_way_of_other_bytes() -> None:
    question = Question("198.51.100.9", 80, Request("GET", "a.x", "/"), http_version="http/1.0")
    assert explain(policy_of(REGISTRY_ONLY, entry("a.x")), question).action == "close"
    old = policy_of(entry("a.x", ports=[HTTP]), profile=Profile.ISTIO_1_0)
    assert explain(old, _get("a.x")).action == "route"
