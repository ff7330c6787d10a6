"""One request's way: its plan is carried out, an upstream is asked (perhaps more than once), the client answered.

Of its life only this matters: until the answer's head has gone to the client (`_answering`) everything may be tried
again or replaced by an answer of our own; afterwards a failure can only be passed on by breaking off. `_over` is
final. An exchange talks to an upstream connection through `_connection` and hears from nobody after having cleared
it, which is what makes retries safe against late events.
"""

from __future__ import annotations

from typing import Protocol

from mesh_iptables.policy.model import (
    Fault,
    HashPolicy,
    HashSource,
    HeaderOperations,
    RetryPolicy,
    RouteTo,
    Rule,
    WeightedCluster,
)
from mesh_iptables.policy.routing import Reason, pick
from mesh_iptables.proxy.access_log import Record
from mesh_iptables.proxy.answers import AnswerHead, LocalReply, local_lines, refused_upgrade, switching
from mesh_iptables.proxy.balance import digest
from mesh_iptables.proxy.cluster import ClusterState, Host, Pooled, Queue
from mesh_iptables.proxy.http1 import HTTP2, Fields, ResponseHead
from mesh_iptables.proxy.router import Plan, Router, Way
from mesh_iptables.proxy.surroundings import Surroundings
from mesh_iptables.proxy.upstream import Http1Upstream, OutgoingHead
from mesh_iptables.proxy.wire import HIGH_WATER, Address, Failure, Timer

_KEPT_BODY = 1 << 20  # of a request, for another try; a larger one is tried once
_GRPC_TOKENS = {
    "1": "cancelled",
    "4": "deadline-exceeded",
    "8": "resource-exhausted",
    "13": "internal",
    "14": "unavailable",
}
_ENTRY = "upstream connect error or disconnect/reset before headers. "
_FLAGS = {
    Failure.CONNECT: "UF",
    Failure.CONNECT_TIMEOUT: "UF",
    Failure.TERMINATION: "UC",
    Failure.PROTOCOL: "UPE",
    Failure.OVERFLOW: "UO",
}
_REFUSED_ADDRESS = "this host leads to an address that is not allowed\n"
_TIMEOUT_TEXT = "upstream request timeout"


class Upstream(Protocol):
    """A connection, or a stream of one, that takes a request."""

    @property
    def unsent(self) -> int: ...
    def start(self, receiver: Exchange, head: OutgoingHead, extra: bytes, body: bytes, ended: bool) -> None: ...
    def send_body(self, data: bytes, ended: bool) -> None: ...
    def cancel(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Client(Protocol):
    """The side that brought the request: an HTTP/1 connection, or one stream of HTTP/2."""

    @property
    def unsent(self) -> int:
        """Bytes the client has not taken yet."""

    def interim(self, head: ResponseHead) -> None:
        """Pass a 1xx answer on."""

    def answer(self, head: AnswerHead, extra: bytes, payload: bytes, ended: bool) -> None:
        """The final answer; `extra` are further field lines."""

    def answer_body(self, payload: bytes, ended: bool) -> None:
        """More of its body."""

    def trailers(self, fields: Fields) -> None:
        """What HTTP/2 sends behind the body; comes before the body's end."""

    def reply(self, reply: LocalReply, head: AnswerHead, extra: bytes) -> None:
        """An answer of the proxy's own, whole."""

    def break_off(self) -> None:
        """The answer will not be completed."""

    def switch(self, head: AnswerHead, extra: bytes, upstream: Http1Upstream, rest: bytes) -> None:
        """101: from here on bytes go both ways."""

    def pause_body(self) -> None:
        """Bring no more of the request's body for now."""

    def resume_body(self) -> None:
        """Go on with it."""


class Exchange:
    """From a request's head to the end of its answer."""

    __slots__ = (
        "_answering",
        "_attempt",
        "_cluster",
        "_complete",
        "_connection",
        "_ended",
        "_extra",
        "_flags",
        "_holds_retry",
        "_host",
        "_keeps_body",
        "_kept",
        "_over",
        "_paused_upstream",
        "_peer",
        "_pool",
        "_received",
        "_request_id",
        "_retry",
        "_router",
        "_sent",
        "_service_ms",
        "_sni",
        "_started",
        "_status",
        "_surroundings",
        "_timer",
        "_try_timer",
        "_way",
        "_whole",
        "client",
        "digest",
        "original",
        "plan",
    )

    def __init__(
        self,
        surroundings: Surroundings,
        router: Router,
        client: Client,
        plan: Plan,
        peer: Address,
        original: Address,
        sni: str = "",
    ) -> None:
        self._surroundings = surroundings
        self._router = router
        self.client = client
        self.plan = plan
        self._peer = peer
        self.original = original
        self._sni = sni
        self._started = surroundings.outside.now
        self.digest: int | None = None
        self._complete = self._started  # when the request was, from which timeouts count
        # the request
        self._ended = False
        self._whole = True  # all of its body is in `_kept`
        self._kept: bytearray | None = None
        self._received = 0
        self._keeps_body = False  # for another try, or for copies
        self._request_id = ""
        # the tries
        self._way: Way | None = None
        self._cluster: ClusterState | None = None
        self._host: Host | None = None
        self._pool: Queue | None = None  # where it waits for a connection
        self._connection: Upstream | None = None
        self._attempt = 0
        self._retry: RetryPolicy | None = None
        self._holds_retry = False  # counts among the cluster's retries, until it is over
        self._timer: Timer | None = None
        self._try_timer: Timer | None = None
        # the answer
        self._answering = self._over = self._paused_upstream = False
        self._status = self._sent = 0
        self._service_ms: int | None = None
        self._extra = b""  # field lines for it
        self._flags = ""

    @property
    def name(self) -> str:
        """See `cluster.Wanted`."""
        return self.plan.name

    def take_over(
        self,
        way: Way,
        cluster: ClusterState,
        host: Host,
        connection: Upstream | None,
        started: float,
        request_id: str,
    ) -> None:
        """Stand where `express` stood: a request without a body was sent to `host` for the first time."""
        assert self.plan.routed is not None
        self._way, self._cluster, self._host, self._connection = way, cluster, host, connection
        self._started, self._request_id = started, request_id
        self._retry = self.plan.routed.rule.retry
        self._ended = True
        self._attempt = 1

    def log_answer(self, status: int, sent: int) -> None:
        """Log an answer that `express` has given."""
        self._status, self._sent, self._over = status, sent, True
        if self._router.envoy_headers:
            self._service_ms = int((self._surroundings.outside.now - self._started) * 1000)
        self._surroundings.outside.log(self._record("", "via_upstream", ""))

    # --- from the client ----------------------------------------------------------------------------------

    def begin(self, payload: bytes, ended: bool, host: Host | None = None) -> None:
        """Carry the plan out; `payload` is what of the body came with the head. `host` was chosen for the first try."""
        self._host = host
        if payload:
            self._keep(payload)
        self._ended = ended
        plan = self.plan
        if plan.reply is not None:
            self._reply(plan.reply)
            return
        assert plan.routed is not None
        rule = plan.routed.rule
        self._retry = rule.retry
        self._keeps_body = rule.retry is not None or bool(rule.mirrors)
        if ended and rule.timeout:
            self._start_timer(rule)
        if rule.fault is not None:
            self._inject(rule.fault)
        else:
            self._route()

    def asks_upstream(self) -> bool:
        """Whether the plan surely leads to an upstream, so that no answer of our own comes before the body."""
        routed = self.plan.routed
        if self.plan.reply is not None or routed is None or routed.rule.fault is not None:
            return False
        action = routed.rule.action
        if not isinstance(action, RouteTo) or len(action.targets) != 1:
            return False
        cluster = self._surroundings.clusters.get(action.targets[0].cluster)
        return cluster is not None and not cluster.refuses()

    def body(self, payload: bytes, ended: bool) -> None:
        """More of the request's body."""
        if self._over:
            return
        self._ended = ended
        if payload:
            self._keep(payload)
        connection = self._connection
        if connection is not None:
            connection.send_body(payload, ended)
            if connection.unsent > HIGH_WATER:
                self.client.pause_body()
        elif len(self._kept or b"") > HIGH_WATER and not self._answering:
            self.client.pause_body()
        if ended and self.plan.routed is not None and not self._answering:
            self._start_timer(self.plan.routed.rule)
            self._mirror(self.plan.routed.rule)

    def client_gone(self) -> None:
        """Nobody waits for the answer any more."""
        if not self._over:
            self._drop_upstream()
            self._finish("DC", "downstream_remote_disconnect")

    def client_drained(self) -> None:
        """The client has taken all it was sent."""
        if self._paused_upstream and self._connection is not None:
            self._paused_upstream = False
            self._connection.resume()

    def _keep(self, payload: bytes) -> None:
        """Keep the body for an upstream that is not there yet, or for another one."""
        self._received += len(payload)
        if not self._whole:
            return
        if self._connection is not None and (not self._keeps_body or len(self._kept or b"") > _KEPT_BODY):
            self._kept, self._whole = None, False
            return
        if self._kept is None:
            self._kept = bytearray()
        self._kept += payload

    # --- faults and timers --------------------------------------------------------------------------------

    def _inject(self, fault: Fault) -> None:
        delay = fault.delay
        if delay is not None and self._falls(delay.percent):
            self._cancel_timers()  # the delay is outside the request's timeout
            self._flags = "DI"
            self._timer = self._surroundings.outside.call_later(delay.seconds, self._delayed)
        else:
            self._abort_or_route(fault)

    def _delayed(self) -> None:
        self._timer = None
        assert self.plan.routed is not None
        rule = self.plan.routed.rule
        assert rule.fault is not None
        if self._ended:
            self._start_timer(rule)
        self._abort_or_route(rule.fault)

    def _abort_or_route(self, fault: Fault) -> None:
        abort = fault.abort
        if abort is not None and self._falls(abort.percent):
            self._reply(LocalReply(abort.status, "fault filter abort", flags="FI", detail="fault_filter_abort"))
        else:
            self._route()

    def _falls(self, percent: float) -> bool:
        return percent > 0 and self._surroundings.outside.chance() * 100 < percent

    def _start_timer(self, rule: Rule) -> None:
        if rule.timeout and self._timer is None:
            self._complete = self._surroundings.outside.now
            self._timer = self._surroundings.outside.call_later(rule.timeout, self._timed_out)
        if self._connection is not None:
            self._start_try_timer()

    def _start_try_timer(self) -> None:
        if self._retry is not None and self._retry.per_try_timeout and self._try_timer is None:
            self._try_timer = self._surroundings.outside.call_later(self._retry.per_try_timeout, self._try_timed_out)

    def _cancel_timers(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._cancel_try_timer()

    def _cancel_try_timer(self) -> None:
        if self._try_timer is not None:
            self._try_timer.cancel()
            self._try_timer = None

    def _timed_out(self) -> None:
        self._timer = None
        self._charge(504)
        self._drop_upstream()
        if self._answering:
            self._break_off("UT", "response_timeout")
        else:
            self._reply(LocalReply(504, _TIMEOUT_TEXT, flags="UT", detail="response_timeout"))

    def _try_timed_out(self) -> None:
        self._try_timer = None
        self._charge(504)
        self._drop_upstream()
        if self._answering:
            self._break_off("UT", "upstream_per_try_timeout")
        elif self._retries_reset() and self._may_retry():
            self._try_later()
        else:
            self._reply(LocalReply(504, _TIMEOUT_TEXT, flags=self._limited("UT"), detail="upstream_per_try_timeout"))

    # --- to an upstream -----------------------------------------------------------------------------------

    def _route(self) -> None:
        routed = self.plan.routed
        assert routed is not None
        action = routed.rule.action
        assert isinstance(action, RouteTo)
        self._way = self.plan.way(self._target(action))
        if self._ended and routed.rule.mirrors:
            self._mirror(routed.rule)
        if routed.rule.hash_policies:
            self.digest = self._digest(routed.rule.hash_policies)
        self._try()

    def _target(self, action: RouteTo) -> WeightedCluster:
        targets = action.targets
        return targets[0] if len(targets) == 1 else pick(targets, self._surroundings.outside.chance())

    def _mirror(self, rule: Rule) -> None:
        """Send copies; they need the whole body, so they wait for it, and are not sent when it is too large."""
        if not rule.mirrors or not self._whole or self._way is None:
            return
        from mesh_iptables.proxy.mirror import send_copies  # few rules have mirrors

        body = bytes(self._kept or b"")
        send_copies(self._surroundings, rule.mirrors, self.plan, self._way.head, body, self.original)

    def _try(self) -> None:
        assert self._way is not None
        cluster = self._cluster = self._surroundings.clusters.get(self._way.cluster)
        if cluster is None:
            self._reply(LocalReply(503, flags="NC", detail="cluster_not_found"))
            return
        self._attempt += 1
        if cluster.immediate:
            chosen = self._host if self._attempt == 1 else None
            self._chosen(chosen or cluster.pick(self))
        else:
            cluster.choose(self, self._chosen)

    def _digest(self, policies: tuple[HashPolicy, ...]) -> int | None:
        for policy in policies:
            value = self._hashed(policy)
            if value:
                return digest(value)
        return None

    def _hashed(self, policy: HashPolicy) -> str:
        request = self.plan.request
        match policy.source:
            case HashSource.HEADER:
                return ",".join(value for name, value in request.headers if name == policy.name)
            case HashSource.SOURCE_IP:
                return self._peer[0]
            case HashSource.QUERY:
                pairs = (item.partition("=") for item in request.target.partition("?")[2].split("&"))
                return next((value for key, _, value in pairs if key == policy.name), "")
            case HashSource.COOKIE:
                return self._cookie(policy)

    def _cookie(self, policy: HashPolicy) -> str:
        """The client's cookie, or a new one that the answer will set."""
        crumbs = [item for name, value in self.plan.request.headers if name == "cookie" for item in value.split(";")]
        for crumb in crumbs:
            key, _, value = crumb.strip().partition("=")
            if key == policy.name:
                return value.strip('"')
        if policy.ttl is None:
            return ""
        value = self._surroundings.ids.next().replace("-", "")[:16]
        age = f"; Max-Age={round(policy.ttl)}" if policy.ttl else ""
        path = f"; Path={policy.path}" if policy.path else ""
        line = f'set-cookie: {policy.name}="{value}"{age}{path}; HttpOnly\r\n'
        self._extra = line.encode("latin-1")
        return value

    def _chosen(self, host: Host | None) -> None:
        if self._over:
            return
        assert self._cluster is not None
        if host is None and self._cluster.refusal:
            detail = f"address_refused{{{self._cluster.refusal}}}"
            self._reply(LocalReply(403, _REFUSED_ADDRESS, flags="UH", detail=detail))
            return
        if host is None:
            self.refused(None, None, "no healthy upstream")
            return
        http2 = self._cluster.speaks_http2(to_http2_client=self.plan.head.minor == HTTP2)
        assert self._way is not None
        pool = self._pool = self._cluster.pool_for(host, self._way.name, http2=http2)
        pool.request(self)

    def ready(self, connection: Pooled, host: Host) -> None:
        """See `cluster.Waiter`."""
        self._pool = None
        self._host = host
        upstream: Upstream = connection  # type: ignore[assignment]  # pools hold what their maker made
        self._connection = upstream
        body = bytes(self._kept) if self._kept else b""
        if self._retry is not None and self._ended:
            self._start_try_timer()
        plan, way = self.plan, self._way
        assert way is not None
        if self._attempt == 1:
            extra = way.lines
        else:
            extra = plan.lines(way, self._attempt, self._surroundings.outside.now - self._complete)
        if plan.wants_id:
            if not self._request_id:
                self._request_id = self._surroundings.ids.next()
            extra = b"x-request-id: %b\r\n%b" % (self._request_id.encode(), extra)
        self._surroundings.stats.upstream_requests += 1
        upstream.start(self, way.head, extra, body, self._ended)
        if not self._ended:
            if not self._keeps_body:
                self._kept, self._whole = None, False
            self.client.resume_body()

    def refused(self, host: Host | None, failure: Failure | None, detail: str) -> None:
        """See `cluster.Waiter`."""
        self._pool = None
        self._host = host
        if failure is None:
            self._reply(LocalReply(503, "no healthy upstream", flags="UH", detail="no_healthy_upstream"))
        elif failure is Failure.OVERFLOW:
            self._reply(
                LocalReply(
                    503,
                    f"{_ENTRY}reset reason: overflow",
                    flags="UO",
                    detail="upstream_reset_before_response_started{overflow}",
                    fields=[("x-envoy-overloaded", "true")],
                )
            )
        else:
            self._failed(failure, detail, sent=False)

    def _drop_upstream(self) -> None:
        """Hear no more of this try."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.cancel()
        if self._pool is not None:
            self._pool.forget(self)
            self._pool = None
        self._cancel_try_timer()

    # --- retries ------------------------------------------------------------------------------------------

    def _may_retry(self) -> bool:
        retry, cluster = self._retry, self._cluster
        if retry is None or cluster is None or self._attempt > retry.attempts or not self._whole:
            return False
        return self._holds_retry or cluster.retries < cluster.config.limits.max_retries

    def _try_later(self) -> None:
        """Begin another try after a pause that grows, with chance in it so that clients do not return in step."""
        assert self._retry is not None
        assert self._cluster is not None
        if not self._holds_retry:
            self._holds_retry = True
            self._cluster.retries += 1
        self._surroundings.stats.upstream_retries += 1
        ceiling = min(self._retry.backoff_base * 2 ** (self._attempt - 1), self._retry.backoff_max)
        outside = self._surroundings.outside
        self._try_timer = outside.call_later(outside.chance() * ceiling, self._retry_now)

    def _retry_now(self) -> None:
        self._try_timer = None
        self._try()

    def _limited(self, flags: str) -> str:
        """Flags of a failure that no further try was left for."""
        return f"URX,{flags}" if self._retry is not None and self._attempt > self._retry.attempts > 0 else flags

    def _retries_reset(self) -> bool:
        on = self._retry.on if self._retry else ()
        return "reset" in on or "5xx" in on or "gateway-error" in on

    def _retries_failure(self, failure: Failure, *, sent: bool) -> bool:
        on = self._retry.on if self._retry else ()
        if self._retries_reset() or ("reset-before-request" in on and not sent):
            return True
        return "connect-failure" in on and failure in (Failure.CONNECT, Failure.CONNECT_TIMEOUT)

    def _retries_answer(self, head: ResponseHead) -> bool:
        retry = self._retry
        if retry is None or "x-envoy-overloaded" in head.names:
            return False
        status, on = head.status, retry.on
        if status == 200 and "grpc-status" in head.names:
            return _GRPC_TOKENS.get(head.get("grpc-status") or "") in on
        return (
            ("5xx" in on and status >= 500)
            or ("gateway-error" in on and status in (502, 503, 504))
            or ("retriable-4xx" in on and status == 409)
            or ("retriable-status-codes" in on and status in retry.statuses)
            or ("envoy-ratelimited" in on and "x-envoy-ratelimited" in head.names)
        )

    # --- from the upstream --------------------------------------------------------------------------------

    def interim(self, head: ResponseHead) -> None:
        """See `upstream.Receiver`."""
        if head.status == 100 and self.plan.wants_continue:
            return  # the client has had its 100 from us
        self.client.interim(head)

    def answered(self, head: ResponseHead, payload: bytes, ended: bool) -> None:
        """See `upstream.Receiver`."""
        self._charge(head.status)
        if self._try_timer is not None:
            self._cancel_try_timer()
        if ended:
            self._connection = None
        if self._retry is not None and self._retries_answer(head) and self._may_retry():
            self._drop_upstream()
            self._try_later()
            return
        self._answering = True
        self._status = head.status
        if self._way is not None and self._way.head.upgrade:
            self._refuse_upgrade(head)
            return
        self._sent += len(payload)
        assert self._way is not None
        answer = self._router.answer(self.plan, self._way, head)
        self.client.answer(answer, self._answer_extra(answer), payload, ended)
        if ended:
            self._finish("", "via_upstream")
        else:
            self._throttle()

    def _refuse_upgrade(self, head: ResponseHead) -> None:
        assert self._way is not None
        answer = refused_upgrade(self._router.answer(self.plan, self._way, head), self.plan.head.method)
        self._drop_upstream()
        date = b"" if answer.dated else self._surroundings.outside.date_line()
        self.client.answer(answer, date, b"", ended=True)
        self._finish("", "via_upstream")

    def _answer_extra(self, answer: AnswerHead) -> bytes:
        outside = self._surroundings.outside
        extra = self._extra
        if self._way is not None and self._way.timed:
            self._service_ms = int((outside.now - self._started) * 1000)
            extra = b"%bx-envoy-upstream-service-time: %d\r\n" % (extra, self._service_ms)
        return extra if answer.dated else extra + outside.date_line()

    def answer_body(self, payload: bytes, ended: bool) -> None:
        """See `upstream.Receiver`."""
        self._sent += len(payload)
        if ended:
            self._connection = None
        self.client.answer_body(payload, ended)
        if ended:
            self._finish("", "via_upstream")
        else:
            self._throttle()

    def trailers(self, fields: Fields) -> None:
        """See `upstream.Receiver`."""
        self.client.trailers(fields)

    def _throttle(self) -> None:
        if self.client.unsent > HIGH_WATER and self._connection is not None and not self._paused_upstream:
            self._paused_upstream = True
            self._connection.pause()

    def switched(self, head: ResponseHead, connection: Http1Upstream, rest: bytes) -> None:
        """See `upstream.Receiver`."""
        self._connection = None
        self._answering = True
        self._status = head.status
        answer = switching(head, self._router.style)
        date = b"" if answer.dated else self._surroundings.outside.date_line()
        self.client.switch(answer, date, connection, rest)
        self._finish("", "via_upstream")

    def upstream_failed(self, failure: Failure, detail: str) -> None:
        """See `upstream.Receiver`."""
        self._connection = None
        self._failed(failure, detail, sent=True)

    def upstream_drained(self) -> None:
        """See `upstream.Receiver`."""
        self.client.resume_body()

    def _failed(self, failure: Failure, detail: str, *, sent: bool) -> None:
        self._cancel_try_timer()
        if self._answering:
            self._break_off(_FLAGS[failure], detail)
            return
        status = 502 if failure is Failure.PROTOCOL else 503
        self._charge(status)
        if self._retries_failure(failure, sent=sent) and self._may_retry():
            self._try_later()
            return
        again = "retried and the latest " if self._attempt > 1 else ""
        name = f"upstream_reset_before_response_started{{{failure.value}}}".replace(" ", "_")
        self._reply(
            LocalReply(
                status,
                f"{_ENTRY}{again}reset reason: {failure.value}",
                flags=self._limited(_FLAGS[failure]),
                detail=name,
            ),
            failure=detail,
        )

    def _charge(self, status: int) -> None:
        if self._host is not None and self._cluster is not None and self._cluster.config.outlier is not None:
            self._cluster.report(self._host, status)

    # --- the end ------------------------------------------------------------------------------------------

    def _reply(self, reply: LocalReply, failure: str = "") -> None:
        """Answer by ourselves."""
        self._answering = True
        self._status = reply.status
        self._sent = len(reply.text)
        style = self._router.style
        head = reply.head(style, *self._operations())
        self.client.reply(reply, head, local_lines(style, self._surroundings.outside.date_line()))
        self._finish(reply.flags, reply.detail, failure)

    def _operations(self) -> tuple[HeaderOperations, ...]:
        """What destination and rule change of every answer, also of our own; other actions have done it already."""
        routed = self.plan.routed
        if routed is None or not isinstance(routed.rule.action, RouteTo):
            return ()
        target = self._way.target if self._way is not None else self._target(routed.rule.action)
        return target.response_headers, routed.rule.response_headers

    def _break_off(self, flags: str, detail: str) -> None:
        self.client.break_off()
        self._finish(flags, detail)

    def _finish(self, flags: str, detail: str, failure: str = "") -> None:
        if self._over:
            return
        self._over = True
        if self._timer is not None or self._try_timer is not None:
            self._cancel_timers()
        if self._holds_retry and self._cluster is not None:
            self._cluster.retries -= 1
        surroundings = self._surroundings
        surroundings.stats.requests[self._status] += 1
        if surroundings.logging:
            joined = ",".join(item for item in (self._flags, flags) if item)
            surroundings.outside.log(self._record(joined, detail, failure))

    def _record(self, flags: str, detail: str, failure: str) -> Record:
        plan = self.plan
        head, cluster, host = plan.head, self._cluster, self._host
        reason = plan.reason or Reason.ALLOWED
        return Record(
            peer=self._peer,
            original=self.original,
            seconds=self._surroundings.outside.now - self._started,
            method=head.method,
            path=head.target,
            host=plan.request.authority,
            protocol=f"HTTP/1.{head.minor}" if head.minor != HTTP2 else "HTTP/2",
            status=self._status,
            flags=flags,
            detail=detail,
            reason=reason.value,
            received=self._received,
            sent=self._sent,
            service_ms=self._service_ms,
            forwarded_for=head.get("x-forwarded-for") or "",
            user_agent=head.get("user-agent") or "",
            request_id=self._request_id or head.get("x-request-id") or "",
            sni=self._sni,
            cluster=cluster.config.name if cluster is not None else "",
            upstream=host.key if host is not None else "",
            failure=failure,
        )
