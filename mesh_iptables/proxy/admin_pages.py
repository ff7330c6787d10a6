"""What the admin endpoints say."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO, Protocol
from urllib.parse import parse_qs

from mesh_iptables import __version__
from mesh_iptables.policy.model import EgressPolicy
from mesh_iptables.proxy.apart import Work
from mesh_iptables.proxy.cluster import ClusterState
from mesh_iptables.proxy.connection import Active
from mesh_iptables.proxy.stats import Stats
from mesh_iptables.proxy.wire import Timer

if TYPE_CHECKING:
    from mesh_iptables.policy.envoy import Site

Page = tuple[int, str, str]


class Running(Protocol):
    """What the pages ask of the running proxy."""

    policy: EgressPolicy
    active: Active
    stats: Stats
    started: float
    max_connections: int
    draining: bool
    full: bool

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer: ...
    def stop(self) -> None:
        """As SIGTERM."""

    def site(self) -> Site:
        """Where it runs."""


_TEXT = "text/plain; charset=UTF-8"
_JSON = "application/json"


def page(running: Running, method: str, target: str) -> Page:
    """Status, content type and body for one request, unless it is for a long page."""
    path, _, query = target.partition("?")
    if path in _ORDERS:
        return _ORDERS[path](running) if method == "POST" else _NOT_ALLOWED
    if path == "/stats" and parse_qs(query).get("format") == ["prometheus"]:
        path = "/stats/prometheus"
    if path not in _PAGES and path not in _LONG_PAGES:
        return 404, _TEXT, f"invalid path. {_help(running)[2]}"
    return _PAGES[path](running) if method in _READING else _NOT_ALLOWED


def long_page(running: Running, method: str, target: str) -> Work | None:
    """What writes a page that takes long; None if it is none of those."""
    write = _LONG_PAGES.get(target.partition("?")[0])
    return (lambda pipe: write(running, pipe)) if write is not None and method in _READING else None


def _help(_running: Running) -> Page:
    return 200, _TEXT, "".join(["admin commands are:\n", *(f"  {name}\n" for name in _COMMANDS)])


def _quit(running: Running) -> Page:
    running.call_later(0.01, running.stop)
    return 200, _TEXT, "OK\n"


def _ready(running: Running) -> Page:
    return (503, _TEXT, "DRAINING\n") if running.draining else (200, _TEXT, "LIVE\n")


def _stats(running: Running) -> Page:
    return 200, _TEXT, "".join(f"{name}: {value}\n" for name, _, value, _ in _counters(running))


def _prometheus(running: Running) -> Page:
    lines: list[str] = []
    seen: set[str] = set()
    for name, kind, value, labels in _counters(running):
        family = "mesh_iptables_proxy_" + (labels[0] if labels else name).replace(".", "_")
        if family not in seen:
            seen.add(family)
            lines.append(f"# TYPE {family} {kind}\n")
        label = "{" + ",".join(f'{key}="{_escaped(text)}"' for key, text in labels[1]) + "}" if labels else ""
        lines.append(f"{family}{label} {value}\n")
    return 200, "text/plain; version=0.0.4", "".join(lines)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


_Labels = tuple[str, tuple[tuple[str, str], ...]] | None
_Counter = tuple[str, str, int, _Labels]


def _counters(running: Running) -> Iterator[_Counter]:
    """Name, kind, value; for families with labels also the family's name and the labels."""
    stats = running.stats
    yield "server.uptime_seconds", "gauge", int(time.time() - running.started), None
    yield "downstream_cx_total", "counter", stats.accepted, None
    yield "downstream_cx_active", "gauge", stats.active, None
    yield "downstream_cx_limit", "gauge", running.max_connections, None
    yield "downstream_cx_overload_active", "gauge", int(running.full), None
    yield "downstream_cx_overload_pauses", "counter", stats.pauses, None
    yield "loops_refused", "counter", stats.loops, None
    yield "internal_errors", "counter", stats.mistakes, None
    yield "policy_reloads", "counter", stats.reloads, None
    yield "policy_reload_failures", "counter", stats.reload_failures, None
    yield "upstream_cx_total", "counter", stats.upstream_connections, None
    yield "upstream_rq_total", "counter", stats.upstream_requests, None
    yield "upstream_rq_retry", "counter", stats.upstream_retries, None
    for status, count in sorted(stats.requests.items()):
        labels = ("downstream_rq", (("status", str(status)),))
        yield f"downstream_rq.{status}", "counter", count, labels
    for reason, count in sorted(stats.reasons.items()):
        yield f"connections.{reason}", "counter", count, ("connections", (("reason", reason),))
    for cluster in running.active.surroundings.clusters:
        yield from _cluster_counters(cluster)


def _cluster_counters(cluster: ClusterState) -> Iterator[_Counter]:
    name = cluster.config.name
    values = {
        "upstream_cx_active": cluster.connections,
        "upstream_rq_active": cluster.requests,
        "upstream_rq_pending_active": cluster.pending,
        "membership_total": len(cluster.hosts),
        "outlier_detection_ejections_active": cluster.ejected,
    }
    for key, value in values.items():
        yield f"cluster.{name}.{key}", "gauge", value, (f"cluster_{key}", (("cluster", name),))


def _clusters(running: Running) -> Page:
    lines: list[str] = []
    for cluster in running.active.surroundings.clusters:
        name, limits = cluster.config.name, cluster.config.limits
        lines.append(f"{name}::default_priority::max_connections::{limits.max_connections}\n")
        lines.append(f"{name}::default_priority::max_pending_requests::{limits.max_pending_requests}\n")
        lines.append(f"{name}::default_priority::max_requests::{limits.max_requests}\n")
        lines.append(f"{name}::default_priority::max_retries::{limits.max_retries}\n")
        for host in cluster.hosts:
            health = "/failed_outlier_check" if host.ejected_until else "healthy"
            lines.append(f"{name}::{host.key}::cx_active::{host.connections}\n")
            lines.append(f"{name}::{host.key}::rq_active::{host.active}\n")
            lines.append(f"{name}::{host.key}::health_flags::{health}\n")
    return 200, _TEXT, "".join(lines)


def _listeners(running: Running) -> Page:
    lines = [f"{item.name}::{item.address}:{item.port}\n" for item in running.policy.listeners.values()]
    return 200, _TEXT, "".join(lines)


def _server_info(running: Running) -> Page:
    from mesh_iptables.policy.envoy import node

    uptime = f"{int(time.time() - running.started)}s"
    info = {
        "version": f"mesh-iptables/{__version__}",
        "state": "DRAINING" if running.draining else "LIVE",
        "hot_restart_version": "disabled",
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "node": node(running.policy, running.site()),
    }
    return 200, _JSON, json.dumps(info, indent=1) + "\n"


def _config_dump(running: Running, pipe: BinaryIO) -> None:
    from mesh_iptables.policy.dump import config_dump

    pipe.write(json.dumps(config_dump(running.policy, running.site()), indent=1).encode() + b"\n")


_NOT_ALLOWED: Page = (405, _TEXT, "Method Not Allowed\n")
_READING = ("GET", "HEAD")
_PAGES: dict[str, Callable[[Running], Page]] = {
    "/help": _help,
    "/ready": _ready,
    "/server_info": _server_info,
    "/stats": _stats,
    "/stats/prometheus": _prometheus,
    "/listeners": _listeners,
    "/clusters": _clusters,
}
_LONG_PAGES: dict[str, Callable[[Running, BinaryIO], None]] = {"/config_dump": _config_dump}
_ORDERS: dict[str, Callable[[Running], Page]] = {"/quitquitquit": _quit}
_COMMANDS = [*_PAGES, *_LONG_PAGES, *_ORDERS]
