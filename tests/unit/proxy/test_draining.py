"""What becomes of each kind of connection when the proxy is told to end."""

from __future__ import annotations

from mesh_iptables.proxy.connection import Connection
from mesh_iptables.proxy.http_connection import HttpConnection

from .world import FakeWire, World, http_policy

GET = b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n"


def accepted(*, inspect: bool) -> tuple[World, FakeWire]:
    world = World()
    return world, world.accept(world.activate(http_policy(inspect=inspect)))


def retire(wire: FakeWire) -> None:
    assert isinstance(wire.handler, Connection | HttpConnection)
    wire.handler.retire()


def test_a_client_that_has_said_nothing_is_closed() -> None:
    for inspect in (True, False):
        _, wire = accepted(inspect=inspect)
        retire(wire)
        assert wire.closed


def test_a_client_that_has_begun_to_speak_may_go_on() -> None:
    for inspect in (True, False):
        world, wire = accepted(inspect=inspect)
        wire.says(GET[:3])
        retire(wire)
        assert not wire.closed
        wire.says(GET[3:])
        assert len(world.upstreams) == 1


def test_a_request_under_way_is_answered_and_the_answer_says_that_it_is_the_last() -> None:
    world, wire = accepted(inspect=False)
    wire.says(GET)
    retire(wire)
    assert not wire.closed
    world.upstream.connects().says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    assert b"connection: close\r\n" in wire.sent
    assert wire.closed


def test_a_connection_between_two_requests_is_closed() -> None:
    world, wire = accepted(inspect=False)
    wire.says(GET)
    world.upstream.connects().says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    assert not wire.closed
    retire(wire)
    assert wire.closed
