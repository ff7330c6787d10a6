"""From a request's head to what shall be done with it. Pure, and remembered: many requests begin alike.

`Router.plan` is all that a request costs before it is sent on: the head is checked, its rule is found and the head
for the upstream is written. Plans hold nothing that differs between two requests with the same head, so that a
`Plan` may serve both; what does differ (request id, attempt, chance) is the `Exchange`'s.
"""

from __future__ import annotations

from mesh_iptables.policy.model import (
    NO_HEADER_OPERATIONS,
    Behaviour,
    DirectResponse,
    ExpectContinue,
    HeaderStyle,
    Redirect,
    Rewrite,
    RouteTo,
    Rule,
    WeightedCluster,
)
from mesh_iptables.policy.routing import (
    Deny,
    Reason,
    Request,
    Routed,
    RouteIndex,
    redirect_location,
    rewritten_target,
    without_port,
)
from mesh_iptables.proxy.answers import AnswerHead, LocalReply, proxied
from mesh_iptables.proxy.headers import framing_fields, operate, request_fields, without
from mesh_iptables.proxy.http1 import (
    CHUNKED,
    Fields,
    Malformed,
    RequestHead,
    ResponseHead,
    connection_tokens,
    parse_request_head,
)
from mesh_iptables.proxy.paths import normalised, split_absolute
from mesh_iptables.proxy.upstream import OutgoingHead

_MEMO_SIZE = 1024
_MEMO_HEAD = 2048  # bytes

_BODILESS = frozenset({"GET", "HEAD", "DELETE", "TRACE", "CONNECT"})  # as Envoy has it; others get a length


class Way:
    """A plan's way to one destination: all that is the same for every request that takes it."""

    __slots__ = ("changed", "cluster", "head", "key", "lines", "name", "plain", "target", "timed")

    def __init__(self, target: WeightedCluster, head: OutgoingHead, changed: frozenset[str], *, plain: bool) -> None:
        self.target = target
        self.cluster = target.cluster
        self.head = head
        self.name = without_port(head.authority)  # for TLS, which takes it after rewrites and as it is written
        self.key = self.name.lower()  # of its pool
        self.changed = changed  # the request's fields that the rule sets or removes
        self.lines = b""  # the field lines that Envoy adds to the first try
        self.plain = plain  # answers get no fields of this rule's own
        self.timed = False  # answers tell how long the site took


class Plan:
    """What one request head leads to: a `reply`, or a `routed` rule to follow."""

    __slots__ = (
        "_router",
        "_ways",
        "express",
        "head",
        "name",
        "reason",
        "reply",
        "request",
        "routed",
        "wants_continue",
        "wants_id",
    )

    def __init__(self, router: Router, head: RequestHead, request: Request) -> None:
        self._router = router
        self.head = head
        self.request = request
        self.name = without_port(request.authority).lower()  # the host asked for
        self.routed: Routed | None = None
        self.reply: LocalReply | None = None
        self.reason: Reason | None = None
        self.wants_id = "x-request-id" not in head.names
        self.wants_continue = False  # the proxy itself says 100
        self.express: Way | None = None  # the only way there is, with nothing to be done but to send and answer
        self._ways: dict[int, Way] = {}

    def way(self, target: WeightedCluster) -> Way:
        """The way to one of the rule's destinations."""
        way = self._ways.get(id(target))
        if way is None:
            way = self._ways[id(target)] = self._router.way(self, target)
            way.lines = self.lines(way, 1)
        return way

    def lines(self, way: Way, attempt: int, elapsed: float = 0.0) -> bytes:
        """Field lines that Envoy adds to a try, `elapsed` seconds after the request; the rule may change those of the
        first one."""
        lines = ""
        counts = self._router.behaviour.attempt_count_header
        if counts and (attempt > 1 or "x-envoy-attempt-count" not in way.changed):
            lines = f"x-envoy-attempt-count: {attempt}\r\n"
        if self._router.envoy_headers and (attempt > 1 or "x-envoy-expected-rq-timeout-ms" not in way.changed):
            assert self.routed is not None
            seconds = _time_left(self.routed.rule, elapsed)
            if seconds:
                lines += f"x-envoy-expected-rq-timeout-ms: {round(seconds * 1000)}\r\n"
        return lines.encode()


def _time_left(rule: Rule, elapsed: float) -> float:
    """Seconds that a try may take, 0 without limit."""
    seconds = (rule.retry.per_try_timeout if rule.retry else 0) or rule.timeout
    return max(0.001, min(seconds, rule.timeout - elapsed)) if seconds and rule.timeout else seconds


class Router:
    """Requests of the HTTP chains that share one route table."""

    def __init__(self, routes: RouteIndex, behaviour: Behaviour) -> None:
        self._routes = routes
        self.behaviour = behaviour
        self.style = behaviour.header_style
        self.envoy_headers = behaviour.header_style is HeaderStyle.ENVOY
        self._plans: dict[bytes, Plan] = {}
        self._answers: dict[int, tuple[ResponseHead, AnswerHead]] = {}

    def known(self, data: bytes) -> Plan | None:
        """The plan for a whole head that was seen before."""
        return self._plans.get(data)

    def plan(self, data: bytes) -> Plan:
        """For a whole HTTP/1.x head; raises Malformed."""
        plan = self._plans.get(data)
        if plan is None:
            behaviour = self.behaviour
            head = parse_request_head(data, limit=behaviour.max_header_bytes, count=behaviour.max_headers)
            plan = self.plan_for(head)
            if len(data) <= _MEMO_HEAD:
                if len(self._plans) >= _MEMO_SIZE:
                    self._plans.clear()
                self._plans[data] = plan
        return plan

    def plan_for(self, head: RequestHead) -> Plan:
        """For a checked head, of whatever protocol."""
        plan = Plan(self, head, _request(head, normalise=self.behaviour.normalise_path))
        plan.reply = self._refusal(plan)
        if plan.reply is None:
            self._follow(plan)
        expects = (head.get("expect") or "").lower() == "100-continue"
        plan.wants_continue = expects and self.behaviour.expect_continue is ExpectContinue.ANSWER
        return plan

    def _refusal(self, plan: Plan) -> LocalReply | None:
        """What is answered whatever the policy says, in the order in which Envoy looks."""
        head, target = plan.head, plan.request.target
        if head.minor == 0 and not self.behaviour.accept_http_10:
            return LocalReply(426, "Upgrade Required", flags="DPE", detail="low_version", closes=True)
        if "connection" in head.names and not _FORWARDED.isdisjoint(connection_tokens(head.fields)):
            return malformed_reply(Malformed("connection names a field that is not the client's to drop"))
        if _names_host(head):
            return LocalReply(400, detail="missing_host_header", closes=True)
        if "host" not in head.names and split_absolute(head.target) is None:
            return LocalReply(400, detail="missing_host_header", closes=True)
        if head.method == "CONNECT":
            return LocalReply(404, flags="NR", detail="route_not_found", closes=True)
        if not target.startswith("/"):
            return LocalReply(404, flags="NR", detail="route_not_found")
        if "#" in target or (self.behaviour.normalise_path and "%00" in target.partition("?")[0]):
            return LocalReply(400, detail="path_normalization_failed", closes=True)
        return None

    def _follow(self, plan: Plan) -> None:
        found = self._routes.route_for(plan.request)
        plan.reason = found.reason
        refused = plan.head.upgrade not in ("", "websocket", "h2c")
        if isinstance(found, Deny):
            plan.reply = LocalReply(404, flags="NR", detail="route_not_found", closes=refused)
            return
        plan.routed = found
        action = found.rule.action
        if refused:
            plan.reply = LocalReply(403, detail="upgrade_failed", closes=True)
            return
        if isinstance(action, RouteTo):
            plan.wants_id = plan.wants_id and not any("x-request-id" in _changed(found.rule, t) for t in action.targets)
        operations = found.rule.response_headers
        if isinstance(action, RouteTo) and len(action.targets) == 1 and _is_simple(plan.head, found.rule):
            plan.express = plan.way(action.targets[0])
        if isinstance(action, Redirect):
            location = redirect_location(action, plan.request)
            fields = operate([("location", location)], operations)
            plan.reply = LocalReply(action.status, detail="direct_response", fields=fields)
        elif isinstance(action, DirectResponse):
            location = redirect_location(Redirect(action.status), plan.request)
            fields = [("location", location)] if action.status == 201 or action.status // 100 == 3 else []
            fields = operate(fields, operations)
            plan.reply = LocalReply(action.status, action.body, detail="direct_response", fields=fields)

    def way(self, plan: Plan, target: WeightedCluster) -> Way:
        """See `Way`."""
        assert plan.routed is not None
        plain = plan.routed.rule.response_headers == target.response_headers == NO_HEADER_OPERATIONS
        way = Way(target, self._outgoing(plan, target), _changed(plan.routed.rule, target), plain=plain)
        removed = (*target.response_headers.remove, *plan.routed.rule.response_headers.remove)
        way.timed = self.envoy_headers and "x-envoy-upstream-service-time" not in removed
        return way

    def _outgoing(self, plan: Plan, target: WeightedCluster) -> OutgoingHead:
        """The head that goes to `target`."""
        assert plan.routed is not None
        head, request, rule = plan.head, plan.request, plan.routed.rule
        fields = request_fields(head.fields)
        if plan.wants_continue:
            fields = without(fields, ("expect",))
        if self.behaviour.attempt_count_header:
            fields = without(fields, ("x-envoy-attempt-count",))
        if "x-forwarded-proto" not in head.names:
            fields.append(("x-forwarded-proto", "http"))
        for operations in (target.request_headers, rule.request_headers):
            fields = operate(fields, operations)
        path = rewritten_target(rule, request.target)
        authority = (rule.rewrite and rule.rewrite.authority) or target.authority or request.authority
        if self.envoy_headers and rule.rewrite is not None:
            fields = _originals(fields, rule.rewrite, request, target)
        upgrade = "websocket" if head.upgrade == "websocket" else ""
        outgoing = OutgoingHead(head.method, path, authority, fields + _framing(head, upgrade), head.framing, upgrade)
        outgoing.assumes_empty = "content-length" not in head.names
        return outgoing

    def answer(self, plan: Plan, way: Way, head: ResponseHead) -> AnswerHead:
        """A site's answer as the client gets it; remembered like a plan while nothing is changed for one rule."""
        if not way.plain:
            assert plan.routed is not None
            return proxied(head, self.style, way.target.response_headers, plan.routed.rule.response_headers)
        known = self._answers.get(id(head))
        if known is not None and known[0] is head:
            return known[1]
        answer = proxied(head, self.style)
        if len(self._answers) >= _MEMO_SIZE:
            self._answers.clear()
        self._answers[id(head)] = (head, answer)  # holding the head keeps its id from being reused
        return answer


_FORWARDED = frozenset({"x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"})


def _names_host(head: RequestHead) -> bool:
    """Whether `connection` asks to drop Host, which leaves none."""
    return "connection" in head.names and "host" in connection_tokens(head.fields)


def _changed(rule: Rule, target: WeightedCluster) -> frozenset[str]:
    """Names of the request's fields that are set or removed on the way to `target`."""
    both = (rule.request_headers, target.request_headers)
    return frozenset(name for each in both for name in (*each.remove, *(name for name, _ in each.set)))


def _is_simple(head: RequestHead, rule: Rule) -> bool:
    """Whether a request needs no timer, no chance, no copy and no body; see `express`."""
    waits = rule.timeout or (rule.retry is not None and rule.retry.per_try_timeout)
    special = rule.fault or rule.mirrors or rule.hash_policies
    return not (waits or special or head.framing or head.upgrade or "expect" in head.names)


def _request(head: RequestHead, *, normalise: bool) -> Request:
    """The request as rules see it; an absolute-form target overrides Host, and the scheme the client says it used."""
    authority, target = head.get("host") or "", head.target
    scheme = "https" if (head.get("x-forwarded-proto") or "").lower() == "https" else "http"
    if not target.startswith("/"):
        absolute = split_absolute(target) if head.method != "CONNECT" else None
        if absolute is not None:
            scheme = target.partition(":")[0].lower()
            authority, target = absolute
    if normalise and target.startswith("/") and head.method != "CONNECT" and "#" not in target:
        target = normalised(target)
    return Request(head.method, authority, target, head.fields, scheme)


def _originals(fields: Fields, rewrite: Rewrite, request: Request, target: WeightedCluster) -> Fields:
    """Say what a rewrite has replaced, be it by the same."""
    added: Fields = []
    if rewrite.path is not None or rewrite.regex is not None:
        added.append(("x-envoy-original-path", request.target))
    if rewrite.authority is not None:
        added.append(("x-envoy-original-host", target.authority or request.authority))
    return without(fields, [name for name, _ in added]) + added if added else fields


def _framing(head: RequestHead, upgrade: str) -> Fields:
    if upgrade:
        return [("connection", "Upgrade"), ("upgrade", upgrade)]
    if head.framing == CHUNKED or head.framing > 0 or "content-length" in head.names:
        return framing_fields(head.framing)
    return [] if head.method in _BODILESS else framing_fields(0)


def malformed_reply(error: Malformed) -> LocalReply:
    """What a client gets whose request no parser should have to guess at."""
    return LocalReply(error.status, error.body, flags="DPE", detail=f"codec_error: {error.detail}", closes=True)
