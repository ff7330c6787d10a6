"""The rule for a request, and what it makes of the target."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_iptables.policy.model import (
    DirectResponse,
    MatchKind,
    NamedMatch,
    Redirect,
    RegexRewrite,
    RequestMatch,
    Rewrite,
    RouteTable,
    RouteTo,
    Rule,
    StringMatch,
    VirtualHost,
    WeightedCluster,
)
from mesh_iptables.policy.routing import (
    Deny,
    Reason,
    Request,
    Routed,
    RouteIndex,
    path_of,
    pick,
    redirect_location,
    rewritten_target,
    without_port,
)

_ACTION = RouteTo((WeightedCluster("c"),))
_EXACT, _PREFIX, _REGEX, _PRESENT = MatchKind.EXACT, MatchKind.PREFIX, MatchKind.REGEX, MatchKind.PRESENT


def _host(*domains: str, name: str = "it") -> VirtualHost:
    return VirtualHost(name, domains, (Rule(name, RequestMatch(), _ACTION),))


def _found(table: RouteTable, request: Request) -> str:
    routed = RouteIndex(table).route_for(request)
    return routed.rule.name if isinstance(routed, Routed) else routed.reason.value


def _by_host(table: RouteTable, *authorities: str) -> list[str]:
    return [_found(table, Request("GET", authority, "/")) for authority in authorities]


_HOSTS = (_host("a.x", "a.x.", name="a"), _host("*.wild.x", name="wild"), _host("*.b.wild.x", name="b"))


def test_hosts_are_matched_exactly_then_by_longest_wildcard_whatever_their_case_and_port() -> None:
    table = RouteTable("80", _HOSTS, ignore_port=True)
    assert _by_host(table, "a.x", "A.X:9999", "a.x.", "c.wild.x", "d.b.wild.x", "b.wild.x") == [
        *("a", "a", "a", "wild", "b", "wild"),
    ]


def test_what_no_virtual_host_names_is_denied_or_falls_back() -> None:
    unknown = ("wild.x", "x", "", "a.x,b.x", "a.x:80:80", ".wild.x")
    table = RouteTable("80", _HOSTS, ignore_port=True)
    assert set(_by_host(table, *unknown)) == {"no_host"}
    blocked = VirtualHost("block", ("*",), (Rule("block", RequestMatch(), DirectResponse(502)),))
    assert set(_by_host(RouteTable("80", _HOSTS, True, blocked), *unknown)) == {"block"}


def test_ports_are_compared_where_they_are_not_ignored() -> None:
    table = RouteTable("80", (_host("a.x", "a.x:80"), _host("*.w.x:80", name="w")), ignore_port=False)
    assert _by_host(table, "a.x", "a.x:80", "a.x:81", "b.w.x:80", "b.w.x") == [
        *("it", "it", "no_host", "w", "no_host"),
    ]


def test_the_reason_tells_an_allowed_host_from_the_fallback() -> None:
    def reason(action: RouteTo | DirectResponse) -> Reason:
        fallback = VirtualHost("f", ("*",), (Rule("f", RequestMatch(), action),))
        routed = RouteIndex(RouteTable("80", (), True, fallback)).route_for(Request("GET", "a.x", "/"))
        return routed.reason

    assert reason(_ACTION) is Reason.PASSTHROUGH
    assert reason(DirectResponse(502)) is Reason.BLOCKED_HOST


def test_targets_that_are_no_path_match_no_rule() -> None:
    table = RouteTable("80", _HOSTS, ignore_port=True)
    assert _found(table, Request("OPTIONS", "a.x", "*")) == "no_rule"
    assert _found(table, Request("CONNECT", "a.x", "/")) == "no_rule"


def _matches(match: RequestMatch, request: Request) -> bool:
    rule = Rule("it", match, _ACTION)
    table = RouteTable("80", (VirtualHost("it", ("a.x",), (rule,)),), ignore_port=True)
    return not isinstance(RouteIndex(table).route_for(request), Deny)


@pytest.mark.parametrize(
    ("match", "target", "holds"),
    [
        (StringMatch(_EXACT, "/a"), "/a?x=1", True),
        (StringMatch(_EXACT, "/a"), "/a/", False),
        (StringMatch(_EXACT, "/A", True), "/a", True),
        (StringMatch(_PREFIX, "/a"), "/ab", True),
        (StringMatch(_PREFIX, "/A", True), "/ab", True),
        (StringMatch(_PREFIX, "/A"), "/ab", False),
        (StringMatch(_REGEX, "/re/[0-9]+"), "/re/12?x", True),
        (StringMatch(_REGEX, "/re/[0-9]+"), "/re/12/x", False),
        (StringMatch(_REGEX, "/A", True), "/a", True),
        (StringMatch(_PRESENT), "/", True),
    ],
)
def test_paths_are_matched_without_their_query(match: StringMatch, target: str, holds: bool) -> None:
    assert _matches(RequestMatch(path=match), Request("GET", "a.x", target)) is holds


@pytest.mark.parametrize(
    ("match", "values", "holds"),
    [
        (NamedMatch("x", StringMatch(_EXACT, "1")), ["1"], True),
        (NamedMatch("x", StringMatch(_EXACT, "1")), [], False),
        (NamedMatch("x", StringMatch(_EXACT, "1,2")), ["1", "2"], True),
        (NamedMatch("x", StringMatch(_PRESENT)), [""], True),
        (NamedMatch("x", StringMatch(_PRESENT)), [], False),
        (NamedMatch("x", StringMatch(_PRESENT), True), [], True),
        (NamedMatch("x", StringMatch(_EXACT, "1"), True), ["1"], False),
        (NamedMatch("x", StringMatch(_EXACT, "1"), True), ["2"], True),
        (NamedMatch("x", StringMatch(_EXACT, "1"), True), [], True),
        (NamedMatch("x", StringMatch(_REGEX, ".*"), True), [], False),
    ],
)
def test_headers_are_joined_and_may_be_asked_to_be_absent(match: NamedMatch, values: list[str], holds: bool) -> None:
    headers = [("y", "z"), *(("x", value) for value in values)]
    assert _matches(RequestMatch(headers=(match,)), Request("GET", "a.x", "/", headers)) is holds


@pytest.mark.parametrize(
    ("target", "holds"),
    [("/?v=1", True), ("/?a&v=1&v=2", True), ("/?v=2&v=1", False), ("/?v=%31", False), ("/", False)],
)
def test_the_first_value_of_a_parameter_counts_as_it_is_written(target: str, holds: bool) -> None:
    match = RequestMatch(query=(NamedMatch("v", StringMatch(_EXACT, "1")),))
    assert _matches(match, Request("GET", "a.x", target)) is holds


def test_method_scheme_and_authority_must_all_hold() -> None:
    match = RequestMatch(
        methods=(StringMatch(_EXACT, "GET"), StringMatch(_EXACT, "PUT")),
        scheme=StringMatch(_EXACT, "http"),
        authority=StringMatch(_REGEX, r"a\.x:80"),
    )
    assert _matches(match, Request("PUT", "a.x:80", "/"))
    assert not _matches(match, Request("POST", "a.x:80", "/"))
    assert not _matches(match, Request("GET", "a.x", "/"))
    assert not _matches(match, Request("GET", "a.x:80", "/", scheme="https"))


@pytest.mark.parametrize(
    ("authority", "name"),
    [("a.x:80", "a.x"), ("a.x", "a.x"), ("a.x:b", "a.x:b"), ("a.x:", "a.x:"), ("[::1]:80", "[::1]"), ("::1", "::1")],
)
def test_only_a_number_is_a_port(authority: str, name: str) -> None:
    assert without_port(authority) == name


def test_where_ports_do_not_count_neither_does_what_stands_in_their_place() -> None:
    table = RouteTable("80", _HOSTS, ignore_port=True)
    assert _by_host(table, "a.x:", "a.x:b", "a.x.:80") == ["a", "a", "a"]


def _rule(rewrite: Rewrite, path: StringMatch | None = None) -> Rule:
    return Rule("it", RequestMatch(path=path), _ACTION, rewrite=rewrite)


@pytest.mark.parametrize(
    ("rule", "target", "rewritten"),
    [
        (_rule(Rewrite("/new"), StringMatch(_EXACT, "/exact")), "/exact?a=1", "/new?a=1"),
        (_rule(Rewrite("/"), StringMatch(_PREFIX, "/api/")), "/api/get?x", "/get?x"),
        (_rule(Rewrite("/n"), StringMatch(_REGEX, "/.*")), "/a/b?x", "/n?x"),
        (_rule(Rewrite("/n")), "/a", "/na"),
        (_rule(Rewrite(regex=RegexRewrite("^/a/(.*)$", r"/b/\1"))), "/a/x?y", "/b/x?y"),
        (_rule(Rewrite(authority="b.x")), "/a?x", "/a?x"),
    ],
)
def test_a_rewrite_replaces_what_was_matched_and_keeps_the_query(rule: Rule, target: str, rewritten: str) -> None:
    assert rewritten_target(rule, target) == rewritten


@pytest.mark.parametrize(
    ("redirect", "location"),
    [
        (Redirect(authority="b.x", path="/n"), "http://b.x/n?q=1"),
        (Redirect(path="/n?own"), "http://a.x/n?own"),
        (Redirect(scheme="https"), "https://a.x/old?q=1"),
    ],
)
def test_a_redirect_takes_what_it_does_not_say_from_the_request(redirect: Redirect, location: str) -> None:
    assert redirect_location(redirect, Request("GET", "a.x", "/old?q=1")) == location


@pytest.mark.parametrize(
    ("redirect", "authority", "location"),
    [
        (Redirect(scheme="https"), "a.x:80", "https://a.x/"),
        (Redirect(scheme="https"), "a.x:8080", "https://a.x:8080/"),
        (Redirect(path="/"), "a.x:80", "http://a.x:80/"),
    ],
)
def test_a_redirect_to_another_scheme_leaves_its_port_behind(redirect: Redirect, authority: str, location: str) -> None:
    assert redirect_location(redirect, Request("GET", authority, "/")) == location


@given(st.lists(st.integers(1, 100), min_size=1, max_size=5), st.floats(0, 1, exclude_max=True))
def test_a_target_is_picked_by_its_share(weights: list[int], fraction: float) -> None:
    targets = [WeightedCluster(str(number), weight) for number, weight in enumerate(weights)]
    picked = int(pick(targets, fraction).cluster)
    assert sum(weights[:picked]) <= fraction * sum(weights) <= sum(weights[: picked + 1])


@given(st.text(), st.text(), st.text())
def test_no_request_crashes_the_lookup(method: str, authority: str, target: str) -> None:
    match = RequestMatch(
        path=StringMatch(_REGEX, ".*"),
        headers=(NamedMatch("x", StringMatch(_REGEX, ".*"), True),),
        query=(NamedMatch("q", StringMatch(_PRESENT)),),
    )
    _matches(match, Request(method, authority, target, [("x", target)]))
    assert path_of(target) in target
