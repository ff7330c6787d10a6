"""What the admin endpoints say."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from mesh_iptables.proxy.cluster import ClusterState

if TYPE_CHECKING:
    from mesh_iptables.proxy.runtime import Runtime

Page = tuple[int, str, str]

_TEXT = "text/plain; charset=UTF-8"
_JSON = "application/json"


def page(runtime: Runtime, method: str, target: str) -> Page:
    """Status, content type and body for one request."""
    path = target.partition("?")[0]
    if path == "/quitquitquit":
        return _quit(runtime) if method == "POST" else (405, _TEXT, "Method Not Allowed\n")
    make = _PAGES.get(path)
    if make is None:
        return 404, _TEXT, "".join(["invalid path. admin commands are:\n", *(f"  {name}\n" for name in _COMMANDS)])
    return make(runtime)


def _quit(runtime: Runtime) -> Page:
    runtime.loop.call_later(0.01, runtime.stop)
    return 200, _TEXT, "OK\n"


def _ready(runtime: Runtime) -> Page:
    return (503, _TEXT, "DRAINING\n") if runtime.draining else (200, _TEXT, "LIVE\n")


def _stats(runtime: Runtime) -> Page:
    return 200, _TEXT, "".join(f"{name}: {value}\n" for name, _, value, _ in _counters(runtime))


def _prometheus(runtime: Runtime) -> Page:
    lines: list[str] = []
    seen: set[str] = set()
    for name, kind, value, labels in _counters(runtime):
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


def _counters(runtime: Runtime) -> Iterator[_Counter]:
    """Name, kind, value; for families with labels also the family's name and the labels."""
    stats = runtime.stats
    yield "server.uptime_seconds", "gauge", int(time.time() - runtime.started), None
    yield "downstream_cx_total", "counter", stats.accepted, None
    yield "downstream_cx_active", "gauge", stats.active, None
    yield "downstream_cx_limit", "gauge", runtime.max_connections, None
    yield "downstream_cx_overload_active", "gauge", int(runtime.full), None
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
    for cluster in runtime.active.surroundings.clusters:
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


def _clusters(runtime: Runtime) -> Page:
    lines: list[str] = []
    for cluster in runtime.active.surroundings.clusters:
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


def _listeners(runtime: Runtime) -> Page:
    lines = [f"{item.name}::{item.address}:{item.port}\n" for item in runtime.policy.listeners.values()]
    return 200, _TEXT, "".join(lines)


def _config_dump(runtime: Runtime) -> Page:
    from mesh_iptables.policy.envoy import Site, bootstrap

    dump = {"@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump"}
    configs = [{**dump, "bootstrap": bootstrap(runtime.policy, Site())}]
    return 200, _JSON, json.dumps({"configs": configs}, indent=1) + "\n"


_PAGES: dict[str, Callable[[Runtime], Page]] = {
    "/ready": _ready,
    "/stats": _stats,
    "/stats/prometheus": _prometheus,
    "/config_dump": _config_dump,
    "/listeners": _listeners,
    "/clusters": _clusters,
}
_COMMANDS = [*_PAGES, "/quitquitquit"]
