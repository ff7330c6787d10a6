"""What the admin port answers, and to what it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from mesh_iptables.policy.envoy import Site
from mesh_iptables.policy.model import EgressPolicy
from mesh_iptables.proxy.admin import AdminConnection, Writers
from mesh_iptables.proxy.connection import Active
from mesh_iptables.proxy.loop import Loop, LoopTimer
from mesh_iptables.proxy.stats import Stats

from .world import PEER, FakeWire, World, http_policy

PATHS = ["/help", "/ready", "/server_info", "/stats", "/stats/prometheus", "/listeners", "/clusters", "/config_dump"]


@dataclass
class Proxy:
    """See `admin_pages.Running`."""

    loop: Loop = field(default_factory=Loop)
    policy: EgressPolicy = field(default_factory=http_policy)
    stats: Stats = field(default_factory=Stats)
    started: float = 0.0
    max_connections: int = 7
    draining: bool = False
    full: bool = False
    stopped: bool = False

    def __post_init__(self) -> None:
        self.active: Active = World().activate(self.policy)
        self.writers = Writers(self.loop)

    def call_later(self, seconds: float, call: Callable[[], None]) -> LoopTimer:
        return self.loop.call_later(seconds, call)

    def stop(self) -> None:
        self.stopped = True

    def site(self) -> Site:
        return Site(pod_name="curl-7f9c")

    def accept(self) -> FakeWire:
        wire = FakeWire(None, PEER)  # type: ignore[arg-type]
        wire.handler = AdminConnection(self, self.writers, wire)
        return wire

    def ask(self, request: str) -> tuple[int, str, str]:
        """Status, head and body of the answer."""
        wire = self.accept()
        wire.says(f"{request} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        self.run_until(lambda: wire.closed)
        head, _, body = wire.sent.decode().partition("\r\n\r\n")
        return int(head.split()[1]), head, body

    def run_until(self, done: Callable[[], bool]) -> None:
        def look() -> None:
            if done():
                self.loop.stop()
            else:
                self.loop.call_later(0.001, look)

        look()
        if not done():
            self.loop.run()


@pytest.mark.parametrize("path", PATHS)
def test_every_page_is_read_with_get_and_its_size_with_head_and_nothing_is_written(path: str) -> None:
    proxy = Proxy()
    status, head, body = proxy.ask(f"GET {path}")
    assert status == 200
    assert f"content-length: {len(body)}" in head
    if path != "/server_info":  # time passes
        assert proxy.ask(f"HEAD {path}") == (200, head, "")
    assert proxy.ask(f"POST {path}")[0] == 405


def test_an_unknown_path_is_answered_with_the_known_ones() -> None:
    status, _, body = Proxy().ask("GET /")
    assert status == 404
    assert all(path in body for path in [*PATHS, "/quitquitquit"])


def test_only_a_post_ends_the_proxy() -> None:
    proxy = Proxy()
    assert proxy.ask("GET /quitquitquit")[0] == 405
    assert not proxy.stopped
    assert proxy.ask("POST /quitquitquit")[0] == 200
    proxy.run_until(lambda: proxy.stopped)


def test_a_proxy_that_drains_is_not_ready() -> None:
    assert Proxy().ask("GET /ready")[::2] == (200, "LIVE\n")
    assert Proxy(draining=True).ask("GET /ready")[::2] == (503, "DRAINING\n")
    assert json.loads(Proxy(draining=True).ask("GET /server_info")[2])["state"] == "DRAINING"


def test_statistics_come_in_both_of_their_forms_under_both_of_their_names() -> None:
    proxy = Proxy()
    assert "downstream_cx_limit: 7\n" in proxy.ask("GET /stats")[2]
    assert "mesh_iptables_proxy_downstream_cx_limit 7\n" in proxy.ask("GET /stats/prometheus")[2]
    assert proxy.ask("GET /stats?format=prometheus") == proxy.ask("GET /stats/prometheus")


def test_the_dump_has_the_parts_that_envoys_has() -> None:
    configs = json.loads(Proxy().ask("GET /config_dump")[2])["configs"]
    bootstrap, clusters, listeners, routes = configs
    assert [each["@type"].rpartition(".")[2] for each in configs] == [
        *("BootstrapConfigDump", "ClustersConfigDump", "ListenersConfigDump", "RoutesConfigDump")
    ]
    assert "curl-7f9c" in bootstrap["bootstrap"]["node"]["id"]
    assert "site" in [each["cluster"]["name"] for each in clusters["static_clusters"]]
    assert "0.0.0.0_80" in [each["listener"]["name"] for each in listeners["static_listeners"]]
    [route] = routes["static_route_configs"]
    assert route["route_config"]["name"] == "80"
    assert route["route_config"]["@type"] == "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"


def test_one_long_page_is_written_at_a_time_and_none_for_nobody() -> None:
    proxy = Proxy()
    first, second, third = proxy.accept(), proxy.accept(), proxy.accept()
    request = b"GET /config_dump HTTP/1.1\r\nhost: localhost\r\n\r\n"
    first.says(request)
    second.says(request)
    assert not first.closed
    assert second.sent.startswith(b"HTTP/1.1 503 ")
    first.breaks()
    third.says(request)
    proxy.run_until(lambda: third.closed)
    assert third.sent.startswith(b"HTTP/1.1 200 ")
    assert not first.sent


def test_a_request_comes_byte_by_byte() -> None:
    wire = Proxy().accept()
    for byte in b"GET /ready HTTP/1.1\r\nhost: localhost\r\n\r\n":
        assert not wire.closed
        wire.says(bytes([byte]))
    assert wire.sent.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("data", "status"), [(b"\x16\x03\x01\r\n\r\n", 400), (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 4000, 431)]
)
def test_what_is_no_request_or_too_large_is_refused(data: bytes, status: int) -> None:
    wire = Proxy().accept()
    wire.says(data)
    assert wire.sent.startswith(f"HTTP/1.1 {status} ".encode())
    assert wire.closed
