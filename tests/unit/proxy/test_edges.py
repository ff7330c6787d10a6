"""Small modules at the edge of the proxy: addresses, logs, balancing, relaying in memory, the app's side."""

from __future__ import annotations

import json
import os
import socket
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_iptables.errors import UsageError
from mesh_iptables.policy.model import LoadBalancing
from mesh_iptables.proxy.access_log import Formatter, LogFormat, Record
from mesh_iptables.proxy.balance import Strategy, digest, strategy_for, weighted
from mesh_iptables.proxy.cluster import Host
from mesh_iptables.proxy.inbound import InboundSession
from mesh_iptables.proxy.listeners import Role, handed_in
from mesh_iptables.proxy.log_file import LogFile
from mesh_iptables.proxy.original_dst import parse_sockaddr_in, parse_sockaddr_in6, plain
from mesh_iptables.proxy.request_ids import RequestIds
from mesh_iptables.proxy.tunnel import Tunnel
from mesh_iptables.proxy.wire import Address, Failure

from .world import FakeWire, World

NOBODY = None  # the handler of a wire that gets one later


# --- addresses ----------------------------------------------------------------------------------------------


def test_original_destinations_are_read_from_the_kernels_structures() -> None:
    v4 = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", 443, socket.inet_aton("192.0.2.1"))
    assert parse_sockaddr_in(v4) == ("192.0.2.1", 443)
    for text, expected in (("2001:db8::1", "2001:db8::1"), ("::ffff:192.0.2.1", "192.0.2.1")):
        packed = socket.inet_pton(socket.AF_INET6, text)
        v6 = struct.pack("=H", socket.AF_INET6) + struct.pack("!HI16sI", 443, 0, packed, 0)
        assert parse_sockaddr_in6(v6) == (expected, 443)


@pytest.mark.parametrize("data", [b"", b"\x02\x00\x01"])
def test_addresses_cut_short_are_refused(data: bytes) -> None:
    for parse in (parse_sockaddr_in, parse_sockaddr_in6):
        with pytest.raises(ValueError, match="cut short"):
            parse(data)


def test_an_ipv4_address_inside_ipv6_is_plain() -> None:
    assert plain(("::ffff:10.0.0.1", 80, 0, 0)) == ("10.0.0.1", 80)
    assert plain(("2001:db8::1", 80, 0, 0)) == ("2001:db8::1", 80)


# --- the access log -----------------------------------------------------------------------------------------

RECORD = Record(
    ("10.0.0.2", 4000),
    ("192.0.2.1", 80),
    0.0125,
    started=1.5,
    method="GET",
    path='/a"\x1b[31m\n',
    host="example.com",
    protocol="HTTP/1.1",
    status=503,
    flags="UF",
    detail="remote connection failure",
    reason="allowed",
    cluster="outbound|80||example.com",
    upstream="192.0.2.1:80",
    received=1,
    sent=2,
)


def test_a_line_of_text_begins_as_envoys_does() -> None:
    line = Formatter(LogFormat.TEXT, "default/sleep").line(RECORD)
    assert line.startswith(
        r'[1970-01-01T00:00:01.500Z] "GET /a\x22\x1b[31m\x0a HTTP/1.1" 503 UF 1 2 12 - "-" "-" "-" "example.com" '
        r'"192.0.2.1:80" remote_connection_failure allowed outbound|80||example.com'
    )
    assert line.count("\n") == 1


def test_a_line_of_json_says_the_same() -> None:
    said = json.loads(Formatter(LogFormat.JSON, "default/sleep").line(RECORD))
    assert said["start_time"] == "1970-01-01T00:00:01.500Z"
    assert said["path"] == RECORD.path
    assert (said["response_code"], said["response_flags"], said["reason"]) == (503, "UF", "allowed")
    assert said["downstream_local_address"] == "192.0.2.1:80"


@given(st.text(max_size=30), st.text(max_size=30))
def test_nothing_a_client_sends_breaks_out_of_its_line(path: str, host: str) -> None:
    record = Record(("::1", 1), ("::1", 2), 0.0, path=path, host=host)
    for form in LogFormat:
        line = Formatter(form, "a/b").line(record)
        assert line.endswith("\n")
        assert len(line.splitlines()) == 1


def test_lines_are_written_together_and_again_after_the_file_was_moved(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = LogFile(str(path))
    assert log.write("a\n")
    assert not log.write("b\n")
    log.flush()
    assert path.read_text() == "a\nb\n"
    path.rename(tmp_path / "old")
    log.write("c\n")
    log.reopen()
    log.write("d\n")
    log.flush()
    assert (path.read_text(), (tmp_path / "old").read_text()) == ("d\n", "a\nb\nc\n")


def test_a_reader_that_does_not_read_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    log = LogFile(str(pipe))
    for _ in range(30):
        log.write("x" * 99_999 + "\n")
        log.flush()
    assert log.dropped > 0
    os.close(reader)


def test_nothing_needs_to_be_written_to_the_null_device() -> None:
    assert LogFile(os.devnull).is_null


# --- balancing ----------------------------------------------------------------------------------------------


def hosts(*weights: int) -> list[Host]:
    return [Host((f"192.0.2.{number}", 80), weight) for number, weight in enumerate(weights, start=1)]


def test_chance_falls_by_weight() -> None:
    some = hosts(1, 3)
    assert [weighted(some, fraction / 4) for fraction in range(4)] == [some[0], *[some[1]] * 3]


def test_turns_are_taken_by_weight() -> None:
    some = hosts(1, 2)
    turns: Strategy[Host] = strategy_for(LoadBalancing.ROUND_ROBIN, lambda: 0.0)
    assert (
        sorted(host.key for host in (turns.pick(some, None) for _ in range(6)))
        == ["192.0.2.1:80"] * 2 + ["192.0.2.2:80"] * 4
    )


def test_of_two_hosts_the_less_busy_one_is_taken() -> None:
    some = hosts(1, 1)
    some[0].active = 5
    draws = iter([0.1, 0.9])
    least: Strategy[Host] = strategy_for(LoadBalancing.LEAST_REQUEST, lambda: next(draws))
    assert least.pick(some, None) is some[1]


def test_most_hashes_stay_where_they_were_when_a_host_goes() -> None:
    some = hosts(*[1] * 5)
    ring: Strategy[Host] = strategy_for(LoadBalancing.RING_HASH, lambda: 0.0)
    before = {name: ring.pick(some, digest(name)) for name in map(str, range(500))}
    after = {name: ring.pick(some[:-1], digest(name)) for name in before}
    moved = [name for name in before if before[name] is not some[-1] and before[name] is not after[name]]
    assert not moved
    assert len(set(before.values())) == 5


def test_request_ids_differ() -> None:
    ids = RequestIds()
    assert len({ids.next() for _ in range(1000)}) == 1000


# --- sockets that were handed in ----------------------------------------------------------------------------


def test_a_listening_socket_may_be_handed_in() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (found,) = handed_in([os.dup(server.fileno())], {port: Role.INBOUND}, {})
        assert (found.role, found.port, found.own) == (Role.INBOUND, port, False)
        found.sock.close()


def test_what_is_no_listening_socket_is_refused() -> None:
    with socket.socket() as sock, pytest.raises(UsageError, match="--listen-fd"):
        handed_in([os.dup(sock.fileno())], {}, {})
    with pytest.raises(UsageError, match="--listen-fd"):
        handed_in([987], {}, {})


def test_sockets_of_systemd_are_for_this_process_only() -> None:
    assert handed_in([], {}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}) == []


# --- bytes both ways in memory ------------------------------------------------------------------------------


class Tunnelled:
    def __init__(self) -> None:
        self.world = World()
        self.client = FakeWire(NOBODY, ("10.0.0.2", 1))  # type: ignore[arg-type]
        self.site = FakeWire(NOBODY, ("192.0.2.1", 1))  # type: ignore[arg-type]
        self.moved: list[tuple[int, int]] = []
        done = lambda up, down: self.moved.append((up, down))  # noqa: E731
        Tunnel(self.world, self.client, self.site, done, 60.0).start()  # type: ignore[arg-type]


def test_a_tunnel_carries_bytes_and_half_closes() -> None:
    tunnel = Tunnelled()
    tunnel.client.says(b"ask")
    tunnel.client.ends()
    assert (tunnel.site.take(), tunnel.site.finished) == (b"ask", True)
    tunnel.site.says(b"answer")
    tunnel.site.ends()
    assert tunnel.client.take() == b"answer"
    assert tunnel.client.closed
    assert tunnel.moved == [(3, 6)]


def test_a_tunnel_ends_both_sides_when_one_breaks() -> None:
    tunnel = Tunnelled()
    tunnel.site.breaks()
    assert tunnel.client.aborted
    assert tunnel.moved == [(0, 0)]


def test_a_tunnel_reads_no_more_than_the_other_side_takes() -> None:
    tunnel = Tunnelled()
    tunnel.site.unsent = 1 << 20
    tunnel.client.says(b"x")
    assert tunnel.client.paused
    tunnel.site.handler.drained()
    assert not tunnel.client.paused


def test_an_idle_tunnel_ends() -> None:
    tunnel = Tunnelled()
    tunnel.world.passes(50)
    tunnel.client.says(b"x")
    tunnel.world.passes(50)
    assert not tunnel.client.closed
    tunnel.world.passes(20)
    assert tunnel.client.closed


# --- the app's side -----------------------------------------------------------------------------------------


class Pod(World):
    """A world that knows our own connections to the app."""

    inbound_by_loopback = False
    claimed: dict[Address, InboundSession]

    def claim_source(self, source: Address, session: InboundSession) -> None:
        self.claimed[source] = session

    def release_source(self, source: Address) -> None:
        self.claimed.pop(source, None)


def inbound(pod: Pod) -> FakeWire:
    pod.claimed = {}
    client = FakeWire(NOBODY, ("10.0.0.9", 1))  # type: ignore[arg-type]
    session = InboundSession(pod, client, ("10.0.0.9", 1), ("10.0.0.2", 8000), logging=True)  # type: ignore[arg-type]
    client.handler = session.client
    session.begin()
    return client


def test_the_app_is_reached_where_the_client_meant() -> None:
    pod = Pod()
    client = inbound(pod)
    assert pod.upstream.remote == ("10.0.0.2", 8000)
    pod.upstream.connects()
    pod.passes(0)
    pod.passes(0)
    assert pod.relayed == [(client, pod.upstream)]
    assert not pod.claimed


def test_the_app_is_reached_by_loopback_when_the_rules_bring_us_back() -> None:
    pod = Pod()
    client = inbound(pod)
    pod.upstream.connects()
    (session,) = pod.claimed.values()
    session.looped()
    assert pod.upstreams[0].aborted
    pod.passes(0)
    assert pod.upstream.remote == ("127.0.0.1", 8000)
    pod.upstream.connects()
    assert pod.relayed == [(client, pod.upstream)]
    inbound(pod)
    assert pod.upstream.remote == ("127.0.0.1", 8000)


def test_an_app_that_does_not_listen_closes_its_client() -> None:
    pod = Pod()
    client = inbound(pod)
    pod.upstream.breaks(Failure.CONNECT)
    assert client.closed
    assert pod.records[0].flags == "UF"
