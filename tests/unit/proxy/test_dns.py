from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_iptables.proxy.cluster import Resolution
from mesh_iptables.proxy.dns import Resolver
from mesh_iptables.proxy.dns_message import AAAA, NXDOMAIN, A, Answer, BadMessage, encode_question, parse_answer
from mesh_iptables.proxy.resolv import ResolvConf, candidates, parse_hosts, parse_resolv_conf

from .world import World


def message(
    name: str, *records: tuple[int, int, bytes], kind: int = A, code: int = 0, flags: int = 0, ident: int = 7
) -> bytes:
    """An answer to one question; each record is (kind, ttl, value)."""
    question = encode_question(ident, name, kind)[12:]
    header = struct.pack("!6H", ident, 0x8180 | code | flags, 1, len(records), 0, 0)
    body = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", k, 1, ttl, len(value)) + value for k, ttl, value in records)
    return header + question + body


def test_an_answer_is_read_with_its_shortest_time_to_live() -> None:
    data = message("a.example", (5, 5, b"\x01b\xc0\x0e"), (A, 60, b"\x01\x02\x03\x04"), (A, 30, b"\x01\x02\x03\x05"))
    assert parse_answer(data) == Answer(7, ("a.example", A), 0, False, ("1.2.3.4", "1.2.3.5"), 5)


def test_addresses_of_ipv6_are_read() -> None:
    assert parse_answer(message("a", (AAAA, 9, b"\x00" * 15 + b"\x01"), kind=AAAA)).addresses == ("::1",)


def test_errors_and_truncation_are_read() -> None:
    assert parse_answer(message("a", code=NXDOMAIN)).code == NXDOMAIN
    assert parse_answer(message("a", flags=0x0200)).truncated


@pytest.mark.parametrize(
    "name", ["", "a..b", "a" * 64, ".".join(["a" * 60] * 5), "\ud800", "x,a.b", "x@a.b", "a b.c", "a\0.b", "%41.b"]
)
def test_what_is_no_host_name_is_not_asked_for(name: str) -> None:
    with pytest.raises((BadMessage, UnicodeError)):
        encode_question(1, name, A)


def test_pointers_cannot_lead_in_circles() -> None:
    data = bytearray(message("a", (A, 1, b"\x01\x02\x03\x04")))
    at = data.index(b"\xc0\x0c")
    data[at : at + 2] = b"\xc0" + bytes([at])
    with pytest.raises(BadMessage):
        parse_answer(bytes(data))


@given(st.binary(max_size=200))
def test_no_message_crashes_the_parser(data: bytes) -> None:
    for start in (b"", message("a")[:12]):
        try:
            parse_answer(start + data)
        except BadMessage:
            continue


@given(st.data())
def test_no_damaged_message_crashes_the_parser(draw: st.DataObject) -> None:
    data = bytearray(message("www.example.com", (A, 60, b"\x01\x02\x03\x04"), (5, 1, b"\x01b\xc0\x0c")))
    for _ in range(draw.draw(st.integers(1, 5))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        parse_answer(bytes(data))
    except BadMessage:
        return


def test_resolv_conf_is_read_as_the_c_library_does() -> None:
    text = "# x\nnameserver 10.0.0.1 ; y\nnameserver nonsense\nsearch A.b. c\noptions ndots:5 timeout:1 rotate\n"
    text += "options attempts:9"
    assert parse_resolv_conf(text) == ResolvConf(("10.0.0.1",), ("a.b", "c"), 5, 1.0, 5)
    assert parse_resolv_conf("").servers == ("127.0.0.1",)


def test_hosts_are_read_with_all_their_names() -> None:
    assert parse_hosts("127.0.0.1 localhost Me\n::1 localhost\nbad x\n# 1.2.3.4 no\n") == {
        "localhost": ("127.0.0.1", "::1"),
        "me": ("127.0.0.1",),
    }


@pytest.mark.parametrize(
    ("name", "asked"),
    [("a", ["a.b.c", "a"]), ("a.d", ["a.d", "a.d.b.c"]), ("a.d.", ["a.d"])],
)
def test_search_domains_come_first_for_short_names(name: str, asked: list[str]) -> None:
    assert candidates(name, ResolvConf(search=("b.c",))) == asked


class Servers:
    """Answers questions as told; None is silence."""

    def __init__(self, **answers: tuple[str, ...] | int | None) -> None:
        self.answers = answers
        self.ttl = 30
        self.asked: list[tuple[str, str]] = []

    def ask(self, server: str, name: str, kind: int, timeout: float, told: Callable[[Answer | None], None]) -> None:  # noqa: ARG002
        self.asked.append((server, name))
        answer = self.answers.get(name, NXDOMAIN)
        if isinstance(answer, int):
            told(Answer(0, (name, kind), answer, False, (), 0))
        else:
            told(Answer(0, (name, kind), 0, False, answer, self.ttl) if answer else None)


def resolving(servers: Servers, **more: object) -> tuple[World, Resolver, list[Resolution]]:
    world = World()
    conf = ResolvConf(("s1", "s2"), attempts=2)
    resolver = Resolver(world, servers, conf, {"here": ("127.0.0.1", "::1")}, **more)  # type: ignore[arg-type]
    return world, resolver, []


def test_a_watched_name_is_asked_for_again_when_its_time_is_over() -> None:
    servers = Servers(a=("1.1.1.1",))
    world, resolver, told = resolving(servers)
    stop = resolver.watch("a", told.append)
    servers.answers["a"] = ("2.2.2.2",)
    world.passes(29)
    assert told == [Resolution(("1.1.1.1",))]
    world.passes(2)
    assert told[1:] == [Resolution(("2.2.2.2",))]
    stop()
    world.passes(100)
    assert len(told) == 2


def test_a_name_that_is_not_there_is_asked_for_after_the_refresh_time() -> None:
    servers = Servers()
    world, resolver, told = resolving(servers, refresh=60.0)
    resolver.watch("a", told.append)
    assert told == [Resolution()]
    world.passes(59)
    assert len(servers.asked) == 1
    servers.answers["a"] = ("1.1.1.1",)
    world.passes(2)
    assert told[-1] == Resolution(("1.1.1.1",))


@pytest.mark.parametrize("answer", [None, 2])
def test_servers_are_asked_in_turn_before_a_look_up_fails(answer: int | None) -> None:
    servers = Servers(a=answer)
    _, resolver, told = resolving(servers)
    resolver.watch("a", told.append)
    assert [server for server, _ in servers.asked] == ["s1", "s2", "s1", "s2"]
    assert told == [Resolution(failed=True)]


def test_addresses_and_hosts_need_no_server() -> None:
    servers = Servers()
    _, resolver, told = resolving(servers)
    resolver.resolve("192.0.2.1", told.append)
    resolver.resolve("HERE.", told.append)
    assert told == [Resolution(("192.0.2.1",)), Resolution(("127.0.0.1",), special=(("127.0.0.1", "loopback"),))]
    assert not servers.asked


def test_addresses_are_told_apart_once_they_are_found() -> None:
    servers = Servers(a=("169.254.169.254", "192.0.2.1", "192.0.2.2"))
    _, resolver, told = resolving(servers, is_own=lambda address: address == "192.0.2.2")
    resolver.resolve("a", told.append)
    assert told[0].special == (("169.254.169.254", "link-local"), ("192.0.2.2", "this machine's own"))


def test_an_absolute_name_is_not_completed() -> None:
    servers = Servers()
    _, resolver, told = resolving(servers)
    resolver.conf = ResolvConf(("s1",), search=("b.c",), ndots=5)
    resolver.absolute = True
    resolver.resolve("a.example.com", told.append)
    assert told == [Resolution()]
    assert servers.asked == [("s1", "a.example.com")]


def test_a_name_that_was_resolved_is_not_asked_for_twice() -> None:
    servers = Servers(a=("1.1.1.1",))
    world, resolver, told = resolving(servers)
    for _ in range(2):
        resolver.resolve("a", told.append)
    assert len(servers.asked) == 1
    world.passes(31)
    resolver.resolve("a", told.append)
    assert len(servers.asked) == 2
    assert told == [Resolution(("1.1.1.1",))] * 3


def test_names_asked_for_once_do_not_pile_up() -> None:
    _, resolver, told = resolving(Servers())
    for number in range(10_000):
        resolver.resolve(f"n{number}", told.append)
    assert len(told) == 10_000
    assert resolver.known <= 4096


class Slow:
    """Servers that answer when they are told to."""

    def __init__(self) -> None:
        self.open: dict[str, Callable[[Answer | None], None]] = {}

    def ask(self, server: str, name: str, kind: int, timeout: float, told: Callable[[Answer | None], None]) -> None:  # noqa: ARG002
        self.open[name] = told

    def answer(self, name: str) -> None:
        self.open.pop(name)(Answer(0, (name, A), 0, False, ("1.1.1.1",), 30))


def test_of_thousands_of_names_some_are_asked_for_at_a_time_and_those_a_client_waits_for_at_once() -> None:
    world, servers = World(), Slow()
    resolver = Resolver(world, servers, ResolvConf(("s1",)), {})
    told: list[Resolution] = []
    for number in range(1000):
        resolver.watch(f"n{number}.", told.append)
    many = len(servers.open)
    assert 0 < many < 500
    resolver.resolve("n999.", told.append)
    assert len(servers.open) == many + 1
    while servers.open:
        servers.answer(next(iter(servers.open)))
        world.passes(0.001)
        assert len(servers.open) <= many + 1
    assert told == [Resolution(("1.1.1.1",))] * 1001
