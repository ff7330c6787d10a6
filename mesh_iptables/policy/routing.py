"""Find the rule for one HTTP request in a compiled route table, and what it makes of the target. Pure.

Built once per policy, asked once per request: hosts are dictionary look-ups, rules are tried in order, and the
answers are made beforehand, so that a request allocates next to nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import assert_never

from mesh_iptables.policy import regex
from mesh_iptables.policy.hosts import by_suffix
from mesh_iptables.policy.model import (
    MatchKind,
    NamedMatch,
    Redirect,
    RequestMatch,
    RouteTable,
    RouteTo,
    Rule,
    StringMatch,
    VirtualHost,
    WeightedCluster,
)


class Reason(Enum):
    """Why a connection or request was decided as it was; the access log prints the value."""

    ALLOWED = "allowed"
    PASSTHROUGH = "passthrough"  # nothing names the destination, and the policy lets that pass
    BLOCKED_HOST = "blocked_host"  # no virtual host names it: the fallback answers (502)
    NO_HOST = "no_host"  # no virtual host names it, and there is no fallback (404, NR)
    NO_RULE = "no_rule"  # the host is known, none of its rules matches (404, NR)
    NO_CHAIN = "no_chain"  # the port is known, but not with these first bytes
    NO_LISTENER = "no_listener"  # nothing names this destination
    LOOP = "loop"  # the redirect port itself was the destination
    NOT_OPEN = "not_open"  # the policy does not open the redirect port


@dataclass(slots=True)
class Request:
    """The head of one request. Header names are lower case, text is Latin-1 decoded.

    `authority` is Host as sent (for an absolute-form target its authority), `target` path and query, normalised
    already where the policy asks for that. Not frozen only because one is made per request.
    """

    method: str
    authority: str
    target: str
    headers: Sequence[tuple[str, str]] = ()
    scheme: str = "http"


@dataclass(frozen=True, slots=True)
class Routed:
    """The rule that takes the request."""

    rule: Rule
    vhost: VirtualHost
    reason: Reason


@dataclass(frozen=True, slots=True)
class Deny:
    """Nothing takes it: answered 404 on an HTTP chain, elsewhere the connection is closed."""

    reason: Reason


UNKNOWN_HOST = Deny(Reason.NO_HOST)
UNKNOWN_PATH = Deny(Reason.NO_RULE)

_TextTest = Callable[[str], bool]
_RequestTest = Callable[[Request, str], bool]  # the request and its path without query
_HostIndex = list[tuple[tuple[_RequestTest, ...], Routed]]


class RouteIndex:
    """A `RouteTable` prepared for look-ups."""

    __slots__ = ("_exact", "_fallback", "_suffixes", "table")

    def __init__(self, table: RouteTable) -> None:
        self.table = table
        self._exact: dict[str, _HostIndex] = {}
        self._suffixes: dict[str, _HostIndex] = {}
        self._fallback = _host_index(table.fallback, is_fallback=True) if table.fallback else None
        for vhost in table.vhosts:
            index = _host_index(vhost)
            for domain in vhost.domains:
                self._add(domain, index)

    def _add(self, domain: str, index: _HostIndex) -> None:
        if domain == "*":
            self._fallback = index
        elif domain.startswith("*"):
            self._suffixes[domain[1:]] = index
        else:
            self._exact[domain] = index

    def route_for(self, request: Request) -> Routed | Deny:
        """The first rule that matches; `Deny` (404) when host or rule is missing."""
        host = request.authority.lower()
        if self.table.ignore_port:
            host = _before_port(host)
        index = self._exact.get(host)
        if index is None:
            index = by_suffix(self._suffixes, host) if self._suffixes else None
        if index is None:
            index = self._fallback
        if index is None:
            return UNKNOWN_HOST
        path = path_of(request.target)
        # "*" (OPTIONS) and CONNECT name no path, so that no rule can mean them
        if not path.startswith("/") or request.method == "CONNECT":
            return UNKNOWN_PATH
        for tests, routed in index:
            for test in tests:
                if not test(request, path):
                    break
            else:
                return routed
        return UNKNOWN_PATH


def _host_index(vhost: VirtualHost, *, is_fallback: bool = False) -> _HostIndex:
    return [
        (tuple(_request_tests(rule.match)), Routed(rule, vhost, _reason(rule, is_fallback))) for rule in vhost.rules
    ]


def _reason(rule: Rule, is_fallback: bool) -> Reason:
    if not is_fallback:
        return Reason.ALLOWED
    return Reason.PASSTHROUGH if isinstance(rule.action, RouteTo) else Reason.BLOCKED_HOST


def without_port(authority: str) -> str:
    """`name:80` without the port; what follows the colon stays unless it is a number."""
    name, colon, port = authority.rpartition(":")
    if not colon or not port.isdecimal() or name.endswith(":"):
        return authority
    if ":" in name and not name.endswith("]"):  # an IPv6 address without brackets has no port
        return authority
    return name


def _before_port(authority: str) -> str:
    """What Envoy matches where ports do not count: it drops all behind the last colon, number or not."""
    name, colon, port = authority.rpartition(":")
    return name if colon and "]" not in port else authority


def path_of(target: str) -> str:
    """The part of a target before `?` and `#`."""
    return target.partition("#")[0].partition("?")[0]


# --- matches as functions ----------------------------------------------------------------------------------


def _request_tests(match: RequestMatch) -> Iterator[_RequestTest]:
    """The parts that are set, cheapest first."""
    if match.methods:
        yield _method_test([text_test(method) for method in match.methods])
    if match.path is not None:
        yield _path_test(text_test(match.path))
    if match.scheme is not None:
        yield _scheme_test(text_test(match.scheme))
    if match.authority is not None:
        yield _authority_test(text_test(match.authority))
    for header in match.headers:
        yield _header_test(header)
    for parameter in match.query:
        yield _query_test(parameter)


def text_test(match: StringMatch) -> _TextTest:
    """A function that says whether a text satisfies `match`."""
    value = match.value.lower() if match.ignore_case else match.value
    match match.kind:
        case MatchKind.PRESENT:
            return lambda _text: True
        case MatchKind.REGEX:
            return regex.full_match(match.value, ignore_case=match.ignore_case)
        case MatchKind.EXACT if match.ignore_case:
            return lambda text: text.lower() == value
        case MatchKind.EXACT:
            return lambda text: text == value
        case MatchKind.PREFIX if match.ignore_case:
            return lambda text: text.lower().startswith(value)
        case MatchKind.PREFIX:
            return lambda text: text.startswith(value)
    assert_never(match.kind)


def _path_test(test: _TextTest) -> _RequestTest:
    return lambda _request, path: test(path)


def _method_test(tests: Sequence[_TextTest]) -> _RequestTest:
    return lambda request, _path: any(test(request.method) for test in tests)


def _scheme_test(test: _TextTest) -> _RequestTest:
    return lambda request, _path: test(request.scheme)


def _authority_test(test: _TextTest) -> _RequestTest:
    return lambda request, _path: test(request.authority)


def _header_test(match: NamedMatch) -> _RequestTest:
    test = text_test(match.match)
    name, inverted = match.name, match.inverted
    absent_is_empty = inverted and match.match.kind is not MatchKind.PRESENT

    def holds(request: Request, _path: str) -> bool:
        values = [value for header, value in request.headers if header == name]
        return (bool(values or absent_is_empty) and test(",".join(values))) is not inverted

    return holds


def _query_test(match: NamedMatch) -> _RequestTest:
    test = text_test(match.match)
    name, inverted = match.name, match.inverted

    def holds(request: Request, _path: str) -> bool:
        value = _parameter(request.target, name)
        return (value is not None and test(value)) is not inverted

    return holds


def _parameter(target: str, name: str) -> str | None:
    """The first value of a query parameter, still percent-encoded as Envoy compares it."""
    for item in target.partition("?")[2].split("&"):
        key, _, value = item.partition("=")
        if key == name:
            return value
    return None


# --- what a rule makes of a request ------------------------------------------------------------------------


def pick(targets: Sequence[WeightedCluster], fraction: float) -> WeightedCluster:
    """The target that a random `fraction` in [0, 1) falls on."""
    if len(targets) == 1:
        return targets[0]
    point = fraction * sum(target.weight for target in targets)
    for target in targets:
        point -= target.weight
        if point < 0:
            return target
    return targets[-1]


def rewritten_target(rule: Rule, target: str) -> str:
    """The target the upstream gets; `target` itself when the rule rewrites no path."""
    rewrite = rule.rewrite
    if rewrite is None or (rewrite.path is None and rewrite.regex is None):
        return target
    path = path_of(target)
    rest = target[len(path) :]
    if rewrite.regex is not None:
        return regex.substitution(rewrite.regex.pattern, rewrite.regex.substitution)(path) + rest
    assert rewrite.path is not None
    return rewrite.path + path[_matched_length(rule.match.path, path) :] + rest


def _matched_length(match: StringMatch | None, path: str) -> int:
    if match is None:
        return 1  # counts as the prefix "/"
    return len(match.value) if match.kind is MatchKind.PREFIX else len(path)


def redirect_location(redirect: Redirect, request: Request) -> str:
    """The `location` header for a request."""
    forwarded = next((value for name, value in request.headers if name == "x-forwarded-proto"), "http")
    target = request.target
    path = target if redirect.path is None else redirect.path
    if redirect.path is not None and "?" not in path:
        path += target[len(path_of(target)) :]
    scheme = redirect.scheme or request.scheme
    authority = redirect.authority or request.authority
    usual = {"http": ":80", "https": ":443"}.get(forwarded)
    if not redirect.authority and scheme != forwarded and usual and authority.endswith(usual):
        authority = authority.removesuffix(usual)  # the port of the scheme that is left
    return f"{scheme}://{authority}{path}"
