"""What a running proxy tells: admin pages, counters, the access log with its fields, reasons and flags."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import cast

from mesh_iptables.cli.reference.tables import cell, code, table
from mesh_iptables.policy.routing import Reason
from mesh_iptables.proxy import access_log, admin_pages, connection, exchange, http_connection, inbound, router
from mesh_iptables.proxy.runtime import Runtime
from mesh_iptables.proxy.stats import Stats

# What there is to say about each name. The names are the code's: one that is missing here is a KeyError.
PAGES = {
    "/help": "this list",
    "/server_info": "version, state, uptime and node id",
    "/ready": "200 `LIVE`; 503 `DRAINING` behind a SIGTERM",
    "/stats": "the counters below, a line each",
    "/stats/prometheus": "the same for Prometheus",
    "/config_dump": "the policy as Envoy shows its configuration: bootstrap, clusters, listeners, routes",
    "/listeners": "name, address and port of each listener of the policy",
    "/clusters": "limits, hosts and their health, as Envoy's",
    "/quitquitquit": "`POST` only: as SIGTERM",
}
COUNTERS = {
    "server.uptime_seconds": "",
    "downstream_cx_total": "connections taken",
    "downstream_cx_active": "of these, open now",
    "downstream_cx_limit": "how many may be open at a time",
    "downstream_cx_overload_active": "1 while so many are open that new ones wait",
    "downstream_cx_overload_pauses": "times that new ones had to wait",
    "loops_refused": "connections to the redirect port itself",
    "internal_errors": "mistakes of this program",
    "policy_reloads": "policies taken on SIGHUP",
    "policy_reload_failures": "and refused",
    "upstream_cx_total": "connections made",
    "upstream_rq_total": "requests sent on, retries included",
    "upstream_rq_retry": "retries",
    "downstream_rq.STATUS": "requests by the status of their answer; 0: none",
    "connections.REASON": "connections by the reason of their decision",
    "cluster.NAME.upstream_cx_active": "open connections to the cluster",
    "cluster.NAME.upstream_rq_active": "requests without a whole answer yet",
    "cluster.NAME.upstream_rq_pending_active": "requests that wait for a connection",
    "cluster.NAME.membership_total": "known hosts",
    "cluster.NAME.outlier_detection_ejections_active": "hosts that are left out for their errors",
}
FIELDS = {
    "start_time": "when the request or connection began, UTC",
    "identity": "namespace and service account of the workload",
    "method": "",
    "path": "path and query, as sent upstream",
    "protocol": "`HTTP/1.1`, `HTTP/2`, …",
    "response_code": "status; 0: no HTTP answer",
    "response_flags": "see below",
    "response_code_details": "the same in words",
    "reason": "the policy's, see below",
    "bytes_received": "of the body, or the connection, from the client",
    "bytes_sent": "to the client",
    "duration": "milliseconds",
    "upstream_service_time": "milliseconds until the upstream's answer began",
    "x_forwarded_for": "",
    "user_agent": "",
    "request_id": "",
    "authority": "the host asked for",
    "upstream_host": "address and port the proxy connected to",
    "upstream_cluster": "",
    "upstream_transport_failure_reason": "why that failed",
    "downstream_local_address": "the original destination: where the client wanted to go",
    "downstream_remote_address": "the client",
    "requested_server_name": "of the TLS hello",
}
FLAGS = {
    "DC": "the client went away",
    "DI": "a delay was injected",
    "DPE": "the client's bytes are no HTTP that the proxy takes",
    "DT": "the client's request did not come in time",
    "FI": "an abort was injected",
    "NC": "the cluster does not exist",
    "NR": "nothing in the policy takes it",
    "UC": "the upstream closed the connection",
    "UF": "the upstream cannot be reached",
    "UH": "the cluster has no usable host",
    "UO": "a limit of the cluster is reached",
    "UPE": "the upstream's bytes are no HTTP",
    "UR": "the upstream reset the stream",
    "URX": "no further try is allowed",
    "UT": "the answer did not come in time",
}
_MODULES = (connection, exchange, http_connection, inbound, router)
_FLAG = re.compile(r'"((?:[A-Z]{2,3},)?[A-Z]{2,3})"')


def pages() -> list[str]:
    """The admin pages."""
    return table(("path", "says"), ((code(path), PAGES[path]) for path in admin_pages._COMMANDS))


def counters() -> list[str]:
    """The counters of a proxy that has seen one of everything."""
    rows = []
    for name, kind, _, labels in admin_pages._counters(_runtime()):
        name = name.replace(".200", ".STATUS").replace(".allowed", ".REASON")
        family = "mesh_iptables_proxy_" + (labels[0] if labels else name).replace(".", "_")
        shown = "{" + ",".join(key for key, _ in labels[1]) + "}" if labels else ""
        rows.append((code(name), kind, code(family + shown), COUNTERS[name]))
    return table(("name", "kind", "for Prometheus", "counts"), rows)


def _runtime() -> Runtime:
    stats = Stats()
    stats.requests[200] += 1
    stats.reasons[Reason.ALLOWED.value] += 1
    config = SimpleNamespace(name="NAME")
    cluster = SimpleNamespace(config=config, connections=0, requests=0, pending=0, hosts=(), ejected=0)
    active = SimpleNamespace(surroundings=SimpleNamespace(clusters=[cluster]))
    return cast(Runtime, _Idle(stats=stats, started=0.0, active=active))


class _Idle(SimpleNamespace):
    """Whatever else a counter asks is 0."""

    def __getattr__(self, name: str) -> int:
        return 0


def log_fields() -> list[str]:
    """The fields of the access log: the names are those of its JSON form."""
    return table(("field", "is"), ((code(name), FIELDS[name]) for name in _as_json(_distinct_record())))


def log_text() -> list[str]:
    """The text form: which field stands where."""
    record = _distinct_record()
    text = access_log.Formatter(access_log.LogFormat.TEXT, "namespace/account").line(record)
    for name, value in _as_json(record).items():
        text = text.replace(str(value), name)
    return ["```text", text.rstrip("\n"), "```"]


def _distinct_record() -> access_log.Record:
    """A record in which no two fields look alike."""
    record = access_log.Record(("192.0.2.2", 40000), ("192.0.2.1", 80), 0.904, 3.5)
    record.status, record.received, record.sent, record.service_ms = 901, 902, 903, 905
    for name in access_log.Record.__slots__:
        if getattr(record, name) == "":
            setattr(record, name, f"<{name}>")
    return record


def _as_json(record: access_log.Record) -> dict[str, object]:
    line = access_log.Formatter(access_log.LogFormat.JSON, "namespace/account").line(record)
    fields: dict[str, object] = json.loads(line)
    return fields


def reasons() -> list[str]:
    """Why a connection or request was decided as it was."""
    comments = dict(re.findall(r'= "(\w+)"(?:  # (.+))?', inspect.getsource(Reason)))
    rows = [(code(reason.value), cell(comments[reason.value]) or "a document names it") for reason in Reason]
    return table(("reason", "means"), [*rows, (code("inbound"), "a connection to the Pod itself, which is passed on")])


def flags() -> list[str]:
    """The response flags that the proxy sets."""
    sources = "".join(inspect.getsource(module) for module in _MODULES)
    used = {flag for text in _FLAG.findall(sources) for flag in text.split(",")}
    known = sorted(used - {"GET", "POST", "PUT", "ALL", "HEAD"})
    return table(("flag", "means"), ((code(flag), FLAGS[flag]) for flag in known))


SECTIONS: Mapping[str, Callable[[], list[str]]] = {
    "admin pages": pages,
    "counters": counters,
    "access log fields": log_fields,
    "access log text": log_text,
    "reasons": reasons,
    "response flags": flags,
}
