from __future__ import annotations

import re
from dataclasses import replace

import pytest

from mesh_iptables.policy.model import (
    Behaviour,
    Cluster,
    ClusterKind,
    DirectResponse,
    Endpoint,
    ExpectContinue,
    Fault,
    FaultAbort,
    FaultDelay,
    HashPolicy,
    HashSource,
    HeaderOperations,
    HeaderStyle,
    Limits,
    LoadBalancing,
    MatchKind,
    Mirror,
    Outlier,
    Redirect,
    RequestMatch,
    RetryPolicy,
    Rewrite,
    RouteTo,
    StringMatch,
    TlsOrigination,
    VirtualHost,
    WeightedCluster,
)
from mesh_iptables.proxy.cluster import Resolution
from mesh_iptables.proxy.wire import Failure

from .pieces import splits
from .world import ORIGINAL, FakeWire, World, http_policy, rule, static

GET = b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: example.com\r\ncontent-length: 3\r\n\r\nabc"
OK = b"HTTP/1.1 200 OK\r\nServer: site\r\nContent-Length: 2\r\nDate: now\r\n\r\nok"
ENTRY = b"upstream connect error or disconnect/reset before headers. "


def head_of(data: bytes) -> tuple[str, dict[str, str], bytes]:
    """First line, fields and body of one message."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    return first, dict(line.split(": ", 1) for line in lines), body


def answer_of(client: FakeWire) -> tuple[int, dict[str, str], bytes]:
    first, fields, body = head_of(client.take())
    return int(first.split()[1]), fields, body


class Dialogue:
    """One client connection on port 80."""

    def __init__(self, *rules: object, **more: object) -> None:
        self.world = World()
        self.active = self.world.activate(http_policy(*rules, **more))  # type: ignore[arg-type]
        self.client = self.world.accept(self.active)

    def asks(self, data: bytes = GET) -> None:
        self.client.says(data)

    def site(self) -> FakeWire:
        """The newest upstream connection, open."""
        upstream = self.world.upstream
        if not upstream.sent:
            upstream.connects()
        return upstream

    def answered(self, data: bytes = OK) -> tuple[int, dict[str, str], bytes]:
        self.site().says(data)
        return answer_of(self.client)


def test_a_request_is_forwarded_with_what_envoy_adds() -> None:
    talk = Dialogue()
    talk.asks(b"GET /a?b HTTP/1.1\r\nHost: Example.COM\r\nUser-Agent: x\r\n\r\n")
    first, fields, body = head_of(talk.site().take())
    assert first == "GET /a?b HTTP/1.1"
    assert re.fullmatch(
        r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", fields.pop("x-request-id")
    )
    assert fields == {
        "host": "Example.COM",
        "user-agent": "x",
        "x-forwarded-proto": "http",
        "x-envoy-attempt-count": "1",
    }
    assert body == b""


def test_an_answer_comes_with_what_envoy_adds() -> None:
    talk = Dialogue()
    talk.asks()
    status, fields, body = talk.answered()
    assert (status, body) == (200, b"ok")
    assert fields == {"server": "envoy", "content-length": "2", "date": "now", "x-envoy-upstream-service-time": "0"}
    assert not talk.client.closed


def test_transparent_style_adds_nothing() -> None:
    talk = Dialogue(behaviour=Behaviour(header_style=HeaderStyle.TRANSPARENT, attempt_count_header=False))
    talk.asks()
    assert talk.answered()[1] == {"server": "site", "content-length": "2", "date": "now"}


def test_headers_of_the_connection_and_of_envoy_stay_behind() -> None:
    talk = Dialogue()
    talk.asks(
        b"GET / HTTP/1.1\r\nhost: example.com\r\nconnection: keep-alive, x-mine\r\nx-mine: 1\r\nkeep-alive: 5\r\n"
        b"proxy-connection: x\r\nte: trailers, gzip\r\nx-envoy-retry-on: 5xx\r\nx-envoy-attempt-count: 9\r\n"
        b"x-envoy-original-dst-host: 1.2.3.4:5\r\nx-request-id: mine\r\nproxy-authorization: x\r\n\r\n"
    )
    fields = head_of(talk.site().take())[1]
    assert fields == {
        "host": "example.com",
        "x-envoy-original-dst-host": "1.2.3.4:5",
        "x-request-id": "mine",
        "proxy-authorization": "x",
        "te": "trailers",
        "x-forwarded-proto": "http",
        "x-envoy-attempt-count": "1",
    }


def test_each_request_of_a_connection_is_decided_for_itself() -> None:
    blocked = VirtualHost("block_all", ("*",), (rule(action=DirectResponse(502)),))
    talk = Dialogue(fallback=blocked)
    for host, status in ((b"example.com", 200), (b"other.example.com", 502), (b"example.com", 200)):
        talk.asks(GET.replace(b"example.com", host))
        assert (talk.answered() if status == 200 else answer_of(talk.client))[0] == status
    assert len(talk.world.upstreams) == 1
    assert not talk.client.closed


def test_pipelined_requests_are_answered_in_order() -> None:
    talk = Dialogue()
    talk.asks(GET + GET.replace(b"example.com", b"other.com") + GET)
    assert talk.answered()[0] == 200
    talk.world.passes(0)
    assert b" 404 Not Found" in talk.client.take()
    talk.site().says(OK)
    assert b" 200 OK" in talk.client.take()


@pytest.mark.parametrize("pieces", list(splits(GET)))
def test_a_request_may_come_in_any_pieces(pieces: list[bytes]) -> None:
    talk = Dialogue()
    for piece in pieces:
        talk.asks(piece)
    assert talk.answered()[0] == 200


@pytest.mark.parametrize("pieces", list(splits(POST)))
def test_a_body_may_come_in_any_pieces(pieces: list[bytes]) -> None:
    talk = Dialogue()
    for piece in pieces:
        talk.asks(piece)
    assert talk.site().take().endswith(b"\r\n\r\nabc")


@pytest.mark.parametrize("pieces", list(splits(OK)))
def test_an_answer_may_come_in_any_pieces(pieces: list[bytes]) -> None:
    talk = Dialogue()
    talk.asks()
    site = talk.site()
    for piece in pieces:
        site.says(piece)
    assert answer_of(talk.client)[2] == b"ok"
    talk.asks()
    assert talk.answered()[2] == b"ok"
    assert len(talk.world.upstreams) == 1


def test_a_chunked_request_is_chunked_anew_without_trailers() -> None:
    talk = Dialogue()
    talk.asks(
        b"POST / HTTP/1.1\r\nhost: example.com\r\ntransfer-encoding: chunked\r\n\r\n"
        b"1\r\na\r\n2\r\nbc\r\n0\r\nx: y\r\n\r\n"
    )
    _, fields, body = head_of(talk.site().take())
    assert fields["transfer-encoding"] == "chunked"
    assert body == b"3\r\nabc\r\n0\r\n\r\n"


def test_an_answer_that_ends_with_its_connection_is_chunked() -> None:
    talk = Dialogue()
    talk.asks()
    talk.site().says(b"HTTP/1.0 200 OK\r\n\r\nhello")
    talk.world.upstream.ends()
    _, fields, body = answer_of(talk.client)
    assert fields["transfer-encoding"] == "chunked"
    assert body == b"5\r\nhello\r\n0\r\n\r\n"
    assert not talk.client.closed


def test_connections_are_shared_between_clients() -> None:
    talk = Dialogue()
    talk.asks()
    talk.answered()
    other = talk.world.accept(talk.active, peer=("10.0.0.2", 40001))
    other.says(GET)
    assert len(talk.world.upstreams) == 1
    talk.world.upstream.says(OK)
    assert answer_of(other)[0] == 200


def test_a_connection_that_the_site_closes_is_not_used_again() -> None:
    talk = Dialogue()
    talk.asks()
    talk.answered(OK.replace(b"Date", b"Connection: close\r\nDate"))
    assert talk.world.upstream.closed
    talk.asks()
    assert len(talk.world.upstreams) == 2


def test_an_idle_connection_that_ends_is_forgotten() -> None:
    talk = Dialogue()
    talk.asks()
    talk.answered()
    talk.world.upstream.ends()
    talk.asks()
    assert len(talk.world.upstreams) == 2
    assert talk.answered()[0] == 200


# --- answers of the proxy's own -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status", "body", "closes"),
    [
        (b"GET / HTTP/1.1\r\nhost: other.com\r\n\r\n", 404, b"", False),
        (b"GET / HTTP/1.1\r\n\r\n", 400, b"", True),
        (b"GET / HTTP/1.1\r\nhost:\r\n\r\n", 404, b"", False),
        (b"GET / HTTP/1.1\r\nhost: example.com\r\nhost: example.com\r\n\r\n", 404, b"", False),
        (b"GET /a#b HTTP/1.1\r\nhost: example.com\r\n\r\n", 400, b"", True),
        (b"OPTIONS * HTTP/1.1\r\nhost: example.com\r\n\r\n", 404, b"", False),
        (b"CONNECT example.com:80 HTTP/1.1\r\nhost: example.com:80\r\n\r\n", 404, b"", True),
        (b"GET / HTTP/1.0\r\nhost: example.com\r\n\r\n", 426, b"Upgrade Required", True),
        (b"GET / HTTP/1.1\r\nhost: example.com\r\nconnection: upgrade\r\nupgrade: foo\r\n\r\n", 403, b"", True),
        (b"GET / HTTP/1.1\r\nhost : example.com\r\n\r\n", 400, b"Bad Request", True),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n", 501, b"Not Implemented", True),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 61500 + b"\r\n\r\n", 431, b"Request Header Fields Too Large", True),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 70000, 431, b"Request Header Fields Too Large", True),
        (b"\x16\x03\x01\x02\x00", 400, b"Bad Request", True),
    ],
)
def test_refusals(data: bytes, status: int, body: bytes, closes: bool) -> None:
    talk = Dialogue()
    talk.asks(data)
    got, fields, text = answer_of(talk.client)
    assert (got, text) == (status, body)
    assert fields["server"] == "envoy"
    assert fields["content-length"] == str(len(body))
    assert fields.get("content-type") == ("text/plain" if body else None)
    assert (fields.get("connection") == "close") is closes
    assert not talk.client.closed
    talk.world.passes(1.0)  # time to read the answer
    assert talk.client.closed is closes


def test_a_refused_head_request_has_no_length() -> None:
    talk = Dialogue(behaviour=Behaviour(header_style=HeaderStyle.TRANSPARENT))
    talk.asks(b"HEAD / HTTP/1.1\r\nhost: other.com\r\n\r\n")
    assert set(answer_of(talk.client)[1]) == {"date", "transfer-encoding"}


def test_a_refused_request_whose_body_is_missing_closes_after_a_while() -> None:
    talk = Dialogue()
    talk.asks(b"POST / HTTP/1.1\r\nhost: other.com\r\ncontent-length: 9\r\n\r\n")
    assert answer_of(talk.client)[1]["connection"] == "close"
    assert not talk.client.closed
    talk.world.passes(1.0)
    assert talk.client.closed


def test_a_bad_chunk_is_a_bad_request() -> None:
    talk = Dialogue()
    talk.asks(b"POST / HTTP/1.1\r\nhost: example.com\r\ntransfer-encoding: chunked\r\n\r\n")
    talk.asks(b"zz\r\n")
    assert answer_of(talk.client)[0] == 400


def test_a_head_that_does_not_end_times_out() -> None:
    talk = Dialogue()
    talk.asks(b"GET / HTTP/1.1\r\nhost: exa")
    talk.world.passes(59)
    assert talk.client.take() == b""
    talk.world.passes(2)
    assert answer_of(talk.client)[0] == 408


def test_a_client_connection_without_requests_is_no_slow_head() -> None:
    talk = Dialogue()
    talk.world.passes(120)
    assert talk.client.take() == b""


def test_a_redirect_is_answered_at_once() -> None:
    talk = Dialogue(rule(action=Redirect(302, authority="b.example.com", path="/new")))
    talk.asks(b"GET /old?x=1 HTTP/1.1\r\nhost: example.com\r\n\r\n")
    status, fields, _ = answer_of(talk.client)
    assert (status, fields["location"]) == (302, "http://b.example.com/new?x=1")


@pytest.mark.parametrize(
    ("failure", "status", "text"),
    [
        (Failure.CONNECT, 503, b"reset reason: remote connection failure"),
        (Failure.CONNECT_TIMEOUT, 503, b"reset reason: connection timeout"),
    ],
)
def test_a_site_that_cannot_be_reached(failure: Failure, status: int, text: bytes) -> None:
    talk = Dialogue()
    talk.asks()
    talk.world.upstream.breaks(failure)
    got, _, body = answer_of(talk.client)
    assert (got, body) == (status, ENTRY + text)
    assert talk.world.records[0].flags == "UF"


def test_a_site_that_breaks_before_it_answers() -> None:
    talk = Dialogue()
    talk.asks()
    talk.site().ends()
    assert answer_of(talk.client)[2] == ENTRY + b"reset reason: connection termination"


@pytest.mark.parametrize(
    "data", [b"nonsense", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"]
)
def test_a_site_that_does_not_speak_http(data: bytes) -> None:
    talk = Dialogue()
    talk.asks()
    status, _, body = talk.answered(data)
    assert (status, body) == (502, ENTRY + b"reset reason: protocol error")
    assert talk.world.records[0].flags == "UPE"


def test_a_site_that_breaks_off_ends_the_client_too() -> None:
    talk = Dialogue()
    talk.asks()
    assert talk.answered(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npartial")[2] == b"partial"
    talk.world.upstream.ends()
    assert talk.client.closed


def test_a_cluster_without_hosts_is_no_healthy_upstream() -> None:
    talk = Dialogue(clusters=(static("site"),))
    talk.asks()
    assert answer_of(talk.client)[::2] == (503, b"no healthy upstream")


def test_an_unknown_cluster_is_503_without_a_word() -> None:
    talk = Dialogue(rule("nowhere"))
    talk.asks()
    assert answer_of(talk.client)[::2] == (503, b"")
    assert talk.world.records[0].flags == "NC"


# --- time, faults, retries ----------------------------------------------------------------------------------


def test_a_slow_answer_is_cut_and_the_connection_stays() -> None:
    talk = Dialogue(rule(timeout=3.0))
    talk.asks()
    assert head_of(talk.site().take())[1]["x-envoy-expected-rq-timeout-ms"] == "3000"
    talk.world.passes(2.9)
    assert talk.client.take() == b""
    talk.world.passes(0.2)
    assert answer_of(talk.client)[::2] == (504, b"upstream request timeout")
    assert talk.world.upstream.aborted
    assert not talk.client.closed
    assert talk.world.records[0].flags == "UT"


def test_the_timeout_begins_when_the_request_is_complete() -> None:
    talk = Dialogue(rule(timeout=1.0))
    talk.asks(POST[:-1])
    talk.world.passes(5)
    assert talk.client.take() == b""
    talk.asks(b"c")
    talk.world.passes(1.1)
    assert answer_of(talk.client)[0] == 504


def test_a_delay_is_outside_the_timeout() -> None:
    talk = Dialogue(rule(timeout=1.0, fault=Fault(delay=FaultDelay(2.0, 100.0))))
    talk.asks()
    talk.world.passes(1.9)
    assert not talk.world.upstreams
    talk.world.passes(0.2)
    assert talk.answered()[0] == 200


def test_an_abort_comes_after_the_delay() -> None:
    talk = Dialogue(rule(fault=Fault(FaultDelay(1.0, 100.0), FaultAbort(418, 100.0))))
    talk.asks()
    talk.world.passes(0.9)
    assert talk.client.take() == b""
    talk.world.passes(0.2)
    first, _, body = head_of(talk.client.take())
    assert (first, body) == ("HTTP/1.1 418 Unknown", b"fault filter abort")


@pytest.mark.parametrize(("fraction", "status"), [(0.49, 500), (0.51, 200)])
def test_faults_fall_by_chance(fraction: float, status: int) -> None:
    talk = Dialogue(rule(fault=Fault(abort=FaultAbort(500, 50.0))))
    talk.world.fraction = fraction
    talk.asks()
    assert (talk.answered() if status == 200 else answer_of(talk.client))[0] == status


def retrying(*on: str, attempts: int = 2, statuses: tuple[int, ...] = (), per_try: float = 0.0) -> RetryPolicy:
    return RetryPolicy(attempts, on, statuses, per_try)


@pytest.mark.parametrize(
    ("policy", "status", "again"),
    [
        (retrying("5xx"), 500, True),
        (retrying("5xx"), 404, False),
        (retrying("gateway-error"), 503, True),
        (retrying("gateway-error"), 500, False),
        (retrying("retriable-status-codes", statuses=(429,)), 429, True),
        (retrying("retriable-4xx"), 409, True),
        (retrying("connect-failure", "unavailable"), 503, False),
        (retrying("5xx", attempts=0), 503, False),
    ],
)
def test_answers_are_asked_for_again(policy: RetryPolicy, status: int, again: bool) -> None:
    talk = Dialogue(rule(retry=policy))
    talk.asks()
    bad = b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % status
    talk.site().take()
    talk.world.upstream.says(bad)
    talk.world.passes(0.3)
    assert (talk.client.sent == b"") is again
    if again:
        assert head_of(talk.world.upstream.take())[1]["x-envoy-attempt-count"] == "2"


def test_the_last_answer_is_returned_when_tries_are_used_up() -> None:
    talk = Dialogue(rule(retry=retrying("5xx")))
    talk.asks(POST)
    for _ in range(3):
        assert talk.site().take().endswith(b"abc")
        talk.world.upstream.says(b"HTTP/1.1 503 X\r\ncontent-length: 5\r\n\r\nflaky")
        talk.world.passes(0.3)
    assert answer_of(talk.client)[::2] == (503, b"flaky")


def test_failed_connections_are_retried_and_told_so() -> None:
    talk = Dialogue(rule(retry=retrying("connect-failure")))
    talk.asks()
    for _ in range(3):
        talk.world.upstream.breaks(Failure.CONNECT)
        talk.world.passes(0.3)
    text = b"retried and the latest reset reason: remote connection failure"
    assert answer_of(talk.client)[::2] == (503, ENTRY + text)
    assert talk.world.records[0].flags == "URX,UF"


def test_a_reset_after_the_request_was_sent_is_no_failed_connection() -> None:
    talk = Dialogue(rule(retry=retrying("connect-failure")))
    talk.asks()
    talk.site().breaks()
    assert answer_of(talk.client)[2] == ENTRY + b"reset reason: connection termination"


def test_each_try_has_its_own_time() -> None:
    talk = Dialogue(rule(retry=retrying("5xx", per_try=0.5)))
    talk.asks()
    for _ in range(3):
        talk.site()
        talk.world.passes(0.5)
    assert answer_of(talk.client)[::2] == (504, b"upstream request timeout")
    assert len(talk.world.upstreams) == 3
    assert talk.world.records[0].flags == "URX,UT"


def test_a_client_that_goes_takes_its_request_along() -> None:
    talk = Dialogue()
    talk.asks()
    talk.site()
    talk.client.breaks()
    assert talk.world.upstream.aborted
    assert talk.world.records[0].flags == "DC"


# --- limits and health --------------------------------------------------------------------------------------


def limited(**limits: int) -> Cluster:
    return replace(ORIGINAL, limits=Limits(**limits))


def test_requests_over_the_limits_overflow() -> None:
    talk = Dialogue(clusters=(limited(max_connections=1, max_pending_requests=1),))
    clients = [talk.client, *(talk.world.accept(talk.active) for _ in range(3))]
    clients[0].says(GET)
    talk.world.upstream.connects()
    for client in clients[1:]:
        client.says(GET)
    assert [client.sent[:12] for client in clients[1:]] == [b"", b"HTTP/1.1 503", b"HTTP/1.1 503"]
    _, fields, body = answer_of(clients[2])
    assert fields["x-envoy-overloaded"] == "true"
    assert body == ENTRY + b"reset reason: overflow"
    talk.world.upstream.says(OK)
    talk.world.upstream.says(OK)
    assert [answer_of(client)[0] for client in clients[:2]] == [200, 200]
    assert len(talk.world.upstreams) == 1


def test_no_request_may_be_allowed_at_all() -> None:
    talk = Dialogue(clusters=(limited(max_requests=0),))
    talk.asks()
    talk.world.upstream.connects()
    assert answer_of(talk.client)[2] == ENTRY + b"reset reason: overflow"


def test_a_connection_serves_only_so_many_requests() -> None:
    talk = Dialogue(clusters=(limited(max_requests_per_connection=2),))
    for count in (1, 1, 2):
        talk.asks()
        assert talk.answered()[0] == 200
        assert len(talk.world.upstreams) == count


def test_a_host_that_fails_is_ejected_and_comes_back() -> None:
    outlier = Outlier(consecutive_5xx=2, interval=1.0, base_ejection_time=3.0, max_ejection_percent=100)
    talk = Dialogue(clusters=(static("site", "192.0.2.1", outlier=outlier),))
    for _ in range(2):
        talk.asks()
        assert talk.answered(b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n")[0] == 500
    talk.asks()
    assert answer_of(talk.client)[2] == b"no healthy upstream"
    talk.world.passes(4.1)
    talk.asks()
    assert talk.answered()[0] == 200


@pytest.mark.parametrize("percent", [10, 50])
def test_the_only_host_is_not_ejected_below_100_percent(percent: int) -> None:
    outlier = Outlier(consecutive_5xx=1, max_ejection_percent=percent)
    talk = Dialogue(clusters=(static("site", "192.0.2.1", outlier=outlier),))
    for _ in range(3):
        talk.asks()
        assert talk.answered(b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n")[0] == 500


# --- what rules change --------------------------------------------------------------------------------------


def test_a_rewrite_says_what_it_replaced() -> None:
    match = RequestMatch(path=StringMatch(MatchKind.PREFIX, "/api/"))
    talk = Dialogue(rule(match=match, rewrite=Rewrite("/", None, "b.example.com")))
    talk.asks(b"GET /api/get?x HTTP/1.1\r\nhost: example.com\r\n\r\n")
    first, fields, _ = head_of(talk.site().take())
    assert first == "GET /get?x HTTP/1.1"
    assert fields["host"] == "b.example.com"
    assert (fields["x-envoy-original-path"], fields["x-envoy-original-host"]) == ("/api/get?x", "example.com")


def test_header_operations_apply_both_ways() -> None:
    operations = HeaderOperations(set=(("x-set", "1"),), add=(("x-add", "2"),), remove=("x-rm", "server"))
    talk = Dialogue(rule(request_headers=operations, response_headers=operations))
    talk.asks(b"GET / HTTP/1.1\r\nhost: example.com\r\nx-rm: 1\r\nx-set: 0\r\n\r\n")
    fields = head_of(talk.site().take())[1]
    assert (fields["x-set"], fields["x-add"], fields.get("x-rm")) == ("1", "2", None)
    assert answer_of_site(talk)["x-set"] == "1"


def answer_of_site(talk: Dialogue) -> dict[str, str]:
    talk.world.upstream.says(OK)
    return answer_of(talk.client)[1]


def test_an_absolute_target_overrides_host() -> None:
    talk = Dialogue()
    talk.asks(b"GET http://example.com/get HTTP/1.1\r\nhost: other.com\r\n\r\n")
    first, fields, _ = head_of(talk.site().take())
    assert (first, fields["host"]) == ("GET /get HTTP/1.1", "example.com")


def test_dot_segments_are_resolved_before_a_rule_sees_them() -> None:
    talk = Dialogue(rule(match=RequestMatch(path=StringMatch(MatchKind.EXACT, "/get"))))
    talk.asks(b"GET /a/%2e%2E/get HTTP/1.1\r\nhost: example.com\r\n\r\n")
    assert talk.site().take().startswith(b"GET /get ")


def test_a_copy_goes_to_the_mirror_and_its_answer_nowhere() -> None:
    clusters = (ORIGINAL, static("copy", "192.0.2.99"))
    talk = Dialogue(rule(mirrors=(Mirror("copy"),)), clusters=clusters)
    talk.asks(POST)
    copy, site = talk.world.upstreams
    copy.connects()
    assert head_of(copy.take())[1]["host"] == "example.com-shadow"
    copy.says(OK)
    assert talk.client.take() == b""
    site.connects()
    site.says(OK)
    assert answer_of(talk.client)[0] == 200


def test_equal_hashes_go_to_one_host() -> None:
    cluster = static("site", *(f"192.0.2.{i}" for i in range(1, 9)), lb=LoadBalancing.RING_HASH)
    talk = Dialogue(rule(hash_policies=(HashPolicy(HashSource.HEADER, "x-user"),)), clusters=(cluster,))
    chosen = set()
    for _ in range(5):
        talk.asks(GET[:-2] + b"x-user: alice\r\nconnection: x\r\n\r\n")
        chosen.add(talk.world.upstream.remote)
        talk.answered(OK.replace(b"Date", b"Connection: close\r\nDate"))
    assert len(chosen) == 1


def test_a_cookie_to_hash_is_made_when_there_is_none() -> None:
    cluster = static("site", "192.0.2.1", "192.0.2.2", lb=LoadBalancing.RING_HASH)
    talk = Dialogue(rule(hash_policies=(HashPolicy(HashSource.COOKIE, "c", "/", 60.0),)), clusters=(cluster,))
    talk.asks()
    assert re.fullmatch(r'c="[0-9a-f]{16}"; Max-Age=60; Path=/; HttpOnly', talk.answered()[1]["set-cookie"])


def test_tls_is_asked_for_with_the_name_of_the_request() -> None:
    tls = TlsOrigination(ca_file="/ca.pem", sni_from_host=True, verify_host=True)
    talk = Dialogue(clusters=(static("site", "192.0.2.1", tls=tls),))
    talk.asks(GET.replace(b"example.com", b"example.com:80"))
    asked = talk.world.upstream.tls
    assert asked is not None
    assert (asked.sni, asked.names, asked.ca_file, asked.verify) == ("example.com", ("example.com",), "/ca.pem", True)


def test_a_weighted_target_is_drawn_for_each_request() -> None:
    targets = RouteTo((WeightedCluster("a", 80), WeightedCluster("b", 20)))
    talk = Dialogue(rule(action=targets), clusters=(static("a", "192.0.2.1"), static("b", "192.0.2.2")))
    for fraction, address in ((0.79, "192.0.2.1"), (0.81, "192.0.2.2")):
        talk.world.fraction = fraction
        talk.asks()
        assert talk.world.upstream.remote[0] == address
        talk.answered()


# --- special requests ---------------------------------------------------------------------------------------


def test_a_websocket_becomes_a_tunnel() -> None:
    talk = Dialogue()
    talk.asks(b"GET /ws HTTP/1.1\r\nhost: example.com\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nearly")
    fields = head_of(talk.site().take())[1]
    assert (fields["connection"], fields["upgrade"]) == ("Upgrade", "websocket")
    talk.site().says(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nhello")
    first, fields, rest = head_of(talk.client.take())
    assert (first, fields["server"], rest) == ("HTTP/1.1 101 Switching Protocols", "envoy", b"hello")
    assert talk.world.relayed == [(talk.client, talk.world.upstream)]
    assert talk.world.upstream.take() == b"early"


def test_a_websocket_that_the_site_refuses_ends_the_connection() -> None:
    talk = Dialogue()
    talk.asks(b"GET /ws HTTP/1.1\r\nhost: example.com\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n")
    talk.site().says(OK)
    status, fields, body = answer_of(talk.client)
    assert (status, body) == (200, b"")
    assert fields == {"server": "envoy", "date": "now", "content-length": "0", "connection": "close"}


def test_an_upgrade_to_http2_is_ignored() -> None:
    talk = Dialogue()
    talk.asks(GET[:-2] + b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: x\r\n\r\n")
    assert "upgrade" not in head_of(talk.site().take())[1]
    assert talk.world.upstream


def test_the_sites_own_100_is_passed_on() -> None:
    talk = Dialogue()
    talk.asks(POST.replace(b"\r\n\r\nabc", b"\r\nexpect: 100-continue\r\n\r\n"))
    assert head_of(talk.site().take())[1]["expect"] == "100-continue"
    talk.site().says(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert talk.client.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    talk.asks(b"abc")
    assert talk.world.upstream.take() == b"abc"
    assert talk.answered()[0] == 200


def test_the_proxy_may_say_100_itself() -> None:
    talk = Dialogue(behaviour=Behaviour(expect_continue=ExpectContinue.ANSWER))
    talk.asks(POST.replace(b"\r\n\r\nabc", b"\r\nexpect: 100-continue\r\n\r\n"))
    assert talk.client.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert "expect" not in head_of(talk.site().take())[1]


def test_http_10_is_served_where_it_is_accepted() -> None:
    talk = Dialogue(behaviour=Behaviour(accept_http_10=True))
    talk.asks(b"GET / HTTP/1.0\r\nhost: example.com\r\n\r\n")
    talk.site().says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    first, fields, body = head_of(talk.client.take())
    assert (first, body) == ("HTTP/1.0 200 OK", b"ok")
    assert fields["connection"] == "close"
    assert talk.client.closed


# --- flow ---------------------------------------------------------------------------------------------------


def test_a_client_that_does_not_read_pauses_the_site() -> None:
    talk = Dialogue()
    talk.asks()
    talk.client.unsent = 1 << 20
    talk.answered(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
    assert talk.world.upstream.paused
    talk.client.unsent = 0
    talk.client.handler.drained()
    assert not talk.world.upstream.paused


def test_a_site_that_does_not_read_pauses_the_client() -> None:
    talk = Dialogue()
    talk.asks(b"POST / HTTP/1.1\r\nhost: example.com\r\ncontent-length: 9\r\n\r\n")
    talk.site().unsent = 1 << 20
    talk.asks(b"abc")
    assert talk.client.paused
    talk.world.upstream.handler.drained()
    assert not talk.client.paused


def test_a_client_that_was_paused_is_heard_again_after_its_answer() -> None:
    talk = Dialogue()
    talk.asks(b"POST / HTTP/1.1\r\nhost: example.com\r\ncontent-length: 3\r\n\r\n")
    talk.site().unsent = 1 << 20
    talk.asks(b"abc")
    assert talk.client.paused
    assert talk.answered()[0] == 200
    assert not talk.client.paused


def test_a_body_that_goes_wrong_after_the_answer_began_gets_no_second_one() -> None:
    talk = Dialogue()
    talk.asks(b"POST / HTTP/1.1\r\nhost: example.com\r\ntransfer-encoding: chunked\r\n\r\n")
    assert talk.answered(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")[0] == 200
    talk.asks(b"zz\r\n")
    assert talk.client.take() == b""
    assert talk.client.closed


def test_retiring_ends_idle_connections_at_once_and_busy_ones_after_their_answer() -> None:
    talk = Dialogue()
    idle = talk.world.accept(talk.active)
    talk.asks()
    for client in (idle, talk.client):
        client.handler.retire()  # type: ignore[attr-defined]
    assert idle.closed
    assert not talk.client.closed
    assert talk.answered()[1]["connection"] == "close"
    assert talk.client.closed


def test_an_old_policy_closes_its_idle_connections() -> None:
    talk = Dialogue()
    talk.asks()
    talk.answered()
    talk.active.surroundings.clusters.retire()
    assert talk.world.upstream.closed


def test_hosts_take_turns_whoever_has_a_connection_waiting() -> None:
    cluster = static("site", "192.0.2.1", "192.0.2.2", lb=LoadBalancing.ROUND_ROBIN)
    talk = Dialogue(clusters=(cluster,))
    seen = []
    for turn in range(6):
        talk.asks()
        if turn < 2:
            talk.world.upstream.connects()
        asked = next(wire for wire in talk.world.upstreams if wire.take())
        asked.says(OK)
        assert answer_of(talk.client)[0] == 200
        seen.append(asked.remote[0])
    assert seen in (["192.0.2.1", "192.0.2.2"] * 3, ["192.0.2.2", "192.0.2.1"] * 3)


def test_names_decide_where_a_resolved_cluster_goes() -> None:
    cluster = Cluster("site", ClusterKind.STRICT_DNS, endpoints=(Endpoint("example.com", 80),))
    talk = Dialogue(clusters=(cluster,))
    talk.world.resolves("example.com", "198.51.100.7")
    talk.asks()
    assert talk.world.upstream.remote == ("198.51.100.7", 80)
    talk.answered()
    talk.world.resolves("example.com")
    talk.asks()
    assert answer_of(talk.client)[2] == b"no healthy upstream"


def test_a_fence_resolves_the_name_that_was_asked_for() -> None:
    talk = Dialogue(clusters=(Cluster("site", ClusterKind.FORWARD, port_override=80),), domains=("*.example.com",))
    talk.world.resolves("a.example.com", "198.51.100.1")
    for host, address in (("a.example.com", "198.51.100.1"), ("A.example.com:80", "198.51.100.1")):
        talk.asks(GET.replace(b"example.com", host.encode()))
        assert talk.world.upstream.remote == (address, 80)
        assert talk.answered()[0] == 200
    talk.asks(GET.replace(b"example.com", b"b.example.com"))
    assert answer_of(talk.client)[2] == b"no healthy upstream"


def test_a_fence_refuses_a_name_that_leads_to_a_special_address() -> None:
    fence = Cluster("site", ClusterKind.FORWARD, port_override=80, guarded=True, permitted=("127.0.0.2",))
    talk = Dialogue(clusters=(fence,), domains=("*.example.com",))
    for name, address in (("a.example.com", "127.0.0.1"), ("b.example.com", "127.0.0.2")):
        talk.world.names[name] = Resolution((address,), special=((address, "loopback"),))
    talk.asks(GET.replace(b"example.com", b"a.example.com"))
    status, _, body = answer_of(talk.client)
    assert (status, body) == (403, b"this host leads to an address that is not allowed\n")
    assert talk.world.records[-1].detail == "address_refused{127.0.0.1 is loopback}"
    talk.asks(GET.replace(b"example.com", b"b.example.com"))
    assert talk.world.upstream.remote == ("127.0.0.2", 80)


def test_requests_wait_for_the_first_look_up_but_not_for_long() -> None:
    cluster = Cluster("site", ClusterKind.STRICT_DNS, endpoints=(Endpoint("example.com", 80),))
    talk = Dialogue(clusters=(cluster,))
    talk.asks()
    assert talk.client.take() == b""
    talk.world.passes(1.1)
    assert answer_of(talk.client)[2] == b"no healthy upstream"
    other = Dialogue(clusters=(cluster,))
    other.asks()
    other.world.resolves("example.com", "198.51.100.7")
    assert other.answered()[0] == 200


def test_a_logical_name_keeps_its_last_good_address() -> None:
    cluster = Cluster("site", ClusterKind.LOGICAL_DNS, endpoints=(Endpoint("example.com", 80),))
    talk = Dialogue(clusters=(cluster,))
    talk.world.resolves("example.com", "198.51.100.7", "198.51.100.8")
    talk.world.resolves("example.com")
    talk.asks()
    assert talk.world.upstream.remote == ("198.51.100.7", 80)
