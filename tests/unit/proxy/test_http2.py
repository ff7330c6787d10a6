from __future__ import annotations

from dataclasses import replace

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    Event,
    InformationalResponseReceived,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh_iptables.policy.model import UpstreamProtocol
from mesh_iptables.proxy.http2 import BadHeaders, decoded, field_lines, request_head
from mesh_iptables.proxy.sniff import H2_PREFACE

from .test_http_connection import OK, head_of
from .world import ORIGINAL, FakeWire, World, http_policy

ASK = [(":method", "GET"), (":scheme", "http"), (":authority", "example.com"), (":path", "/a")]


class Peer:
    """The other end of a wire that speaks HTTP/2."""

    def __init__(self, wire: FakeWire, *, client: bool) -> None:
        self.wire = wire
        self.http2 = H2Connection(H2Configuration(client_side=client, header_encoding="utf-8"))
        self.http2.initiate_connection()

    def hears(self) -> list[Event]:
        """What the proxy said."""
        return self.http2.receive_data(self.wire.take())

    def says(self) -> list[Event]:
        """Send what is to be sent, and hear what comes back."""
        self.wire.says(self.http2.data_to_send())
        events = self.hears()
        if more := self.http2.data_to_send():
            self.wire.says(more)
        return [*events, *self.hears()]


def connected(protocol: UpstreamProtocol = UpstreamProtocol.HTTP1, *, inspect: bool = False) -> tuple[World, Peer]:
    world = World()
    active = world.activate(http_policy(clusters=(replace(ORIGINAL, protocol=protocol),), inspect=inspect))
    peer = Peer(world.accept(active), client=True)
    return world, peer


def answers(events: list[Event]) -> tuple[dict[str, str], bytes]:
    """Headers and body of the one answer among the events."""
    (head,) = [event for event in events if isinstance(event, ResponseReceived)]
    body = b"".join(event.data or b"" for event in events if isinstance(event, DataReceived))
    assert any(isinstance(event, StreamEnded) for event in events)
    headers = {str(name): str(value) for name, value in head.headers or []}
    return headers, body


@pytest.mark.parametrize("inspect", [False, True])
def test_a_request_goes_on_by_http1(inspect: bool) -> None:
    world, peer = connected(inspect=inspect)
    peer.http2.send_headers(1, ASK, end_stream=True)
    peer.says()
    world.upstream.connects()
    first, fields, _ = head_of(world.upstream.take())
    assert (first, fields["host"]) == ("GET /a HTTP/1.1", "example.com")
    world.upstream.says(OK)
    headers, body = answers(peer.hears())
    assert (headers[":status"], headers["server"], body) == ("200", "envoy", b"ok")


def test_the_preface_may_come_byte_by_byte() -> None:
    world = World()
    client = world.accept(world.activate(http_policy()))
    for at in range(len(H2_PREFACE)):
        client.says(H2_PREFACE[at : at + 1])
    assert client.take().startswith(b"\x00\x00")


def test_a_body_is_passed_on_as_chunks() -> None:
    world, peer = connected()
    ask = [(":method", "POST"), *ASK[1:]]
    peer.http2.send_headers(1, ask)
    peer.http2.send_data(1, b"abc")
    peer.says()
    world.upstream.connects()
    assert head_of(world.upstream.take())[2] == b"3\r\nabc\r\n"
    peer.http2.end_stream(1)
    peer.says()
    assert world.upstream.take() == b"0\r\n\r\n"


def test_a_refused_request_leaves_the_others_alone() -> None:
    world, peer = connected()
    peer.http2.send_headers(1, [*ASK[:2], (":authority", "other.com"), ASK[3]], end_stream=True)
    peer.http2.send_headers(3, ASK, end_stream=True)
    headers, _ = answers(peer.says())
    assert headers[":status"] == "404"
    world.upstream.connects()
    world.upstream.says(OK)
    assert answers(peer.hears())[0][":status"] == "200"


def test_a_body_waits_for_the_clients_window() -> None:
    world, peer = connected()
    peer.http2.send_headers(1, ASK, end_stream=True)
    peer.says()
    world.upstream.connects()
    body = b"a" * 200_000
    world.upstream.says(b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n" + body)
    got = b""
    for _ in range(100):
        for event in peer.hears():
            if isinstance(event, DataReceived) and event.data:
                got += event.data
                peer.http2.acknowledge_received_data(len(event.data), 1)
        if len(got) == len(body):
            break
        peer.wire.says(peer.http2.data_to_send())
    assert got == body


def test_a_reset_stream_lets_the_site_go() -> None:
    world, peer = connected()
    peer.http2.send_headers(1, ASK, end_stream=True)
    peer.says()
    world.upstream.connects()
    peer.http2.reset_stream(1)
    peer.says()
    assert world.upstream.aborted


def test_a_site_that_breaks_off_resets_the_stream() -> None:
    world, peer = connected()
    peer.http2.send_headers(1, ASK, end_stream=True)
    peer.says()
    world.upstream.connects()
    world.upstream.says(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
    world.upstream.ends()
    assert any(isinstance(event, StreamReset) for event in peer.hears())


def test_http2_stays_http2_where_the_cluster_says_so() -> None:
    world, peer = connected(UpstreamProtocol.SAME_AS_CLIENT)
    for number in (1, 3):
        peer.http2.send_headers(number, ASK, end_stream=True)
    peer.says()
    (wire,) = world.upstreams
    wire.connects()
    site = Peer(wire, client=False)
    requests = [event for event in site.says() if isinstance(event, RequestReceived)]
    assert [event.stream_id for event in requests] == [1, 3]
    site.http2.send_headers(1, [(":status", "103"), ("link", "x")])
    site.http2.send_headers(1, [(":status", "200"), ("server", "site")])
    site.http2.send_data(1, b"hello")
    site.http2.send_headers(1, [("grpc-status", "0")], end_stream=True)
    site.says()
    events = peer.says()
    headers, body = answers(events)
    assert (headers[":status"], headers["server"], body) == ("200", "envoy", b"hello")
    assert any(isinstance(event, InformationalResponseReceived) for event in events)
    (trailers,) = [event for event in events if isinstance(event, TrailersReceived)]
    assert [tuple(map(str, field)) for field in trailers.headers or []] == [("grpc-status", "0")]


def test_http1_goes_on_by_http2_where_the_cluster_says_so() -> None:
    world = World()
    active = world.activate(http_policy(clusters=(replace(ORIGINAL, protocol=UpstreamProtocol.HTTP2),)))
    client = world.accept(active)
    client.says(b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n")
    site = Peer(world.upstream.connects(), client=False)
    site.says()
    site.http2.send_headers(1, [(":status", "204")], end_stream=True)
    site.says()
    assert client.take().startswith(b"HTTP/1.1 204 No Content\r\n")


def test_a_site_that_ends_its_connection_fails_its_requests() -> None:
    world = World()
    active = world.activate(http_policy(clusters=(replace(ORIGINAL, protocol=UpstreamProtocol.HTTP2),)))
    client = world.accept(active)
    client.says(b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n")
    world.upstream.connects()
    world.upstream.ends()
    assert b"503 Service Unavailable" in client.take()
    cluster = active.surroundings.clusters.get("site")
    assert cluster is not None
    assert (cluster.connections, cluster.requests) == (0, 0)


@pytest.mark.parametrize(
    "headers",
    [
        [(b":method", b"GET"), (b":path", b"")],
        [(b":method", b"FETCH"), (b":path", b"/")],
        [(b":method", b"GET"), (b":path", b"/a b")],
        [(b":method", b"GET"), (b":path", b"/"), (b"x", b"a\r\nb: c")],
        [(b":method", b"GET"), (b":path", b"/"), (b"x y", b"a")],
    ],
)
def test_headers_that_would_split_a_request_are_refused(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(BadHeaders):
        request_head(headers, ended=True)


def test_crumbs_of_a_cookie_are_joined() -> None:
    headers = [(b":method", b"GET"), (b":path", b"/"), (b"cookie", b"a=1"), (b"cookie", b"b=2")]
    assert request_head(headers, ended=True).get("cookie") == "a=1; b=2"


def test_field_lines_are_taken_apart() -> None:
    assert field_lines(b"a: b\r\nc: d: e\r\n") == [("a", "b"), ("c", "d: e")]


@settings(max_examples=50)
@given(st.binary(max_size=300))
def test_no_frames_crash_a_connection(data: bytes) -> None:
    _, peer = connected()
    peer.wire.says(peer.http2.data_to_send())
    peer.wire.says(data or b"\x00")


@given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=8)), max_size=4))
def test_decoded_values_never_hold_a_line_end(headers: list[tuple[bytes, bytes]]) -> None:
    try:
        _, fields = decoded(headers)
    except BadHeaders:
        return
    assert not any("\n" in value or "\r" in value for _, value in fields)
