"""One line per request, and per connection that carried none: Envoy's default text, or JSON. Pure."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from enum import Enum

_BLANK = "\\x20"


class LogFormat(Enum):
    TEXT = "text"
    JSON = "json"


@dataclass(slots=True)
class Record:
    """What happened. `seconds` is how long it took; `started` is the time of day as seconds since 1970.

    `status` 0: no HTTP answer. `flags` are Envoy's response flags, `detail` says the same in words, `reason` is the
    policy's. `received` and `sent` count bytes from and to the client.
    """

    peer: tuple[str, int]
    original: tuple[str, int]
    seconds: float
    started: float = 0.0
    method: str = ""
    path: str = ""
    host: str = ""
    protocol: str = ""
    status: int = 0
    flags: str = ""
    detail: str = ""
    reason: str = ""
    received: int = 0
    sent: int = 0
    service_ms: int | None = None
    forwarded_for: str = ""
    user_agent: str = ""
    request_id: str = ""
    sni: str = ""
    cluster: str = ""
    upstream: str = ""
    failure: str = ""


class Formatter:
    """Turns records into lines; remembers the text of the current second."""

    def __init__(self, form: LogFormat, identity: str) -> None:
        self._json = form is LogFormat.JSON
        self._identity = identity
        self._second = -1
        self._text = ""

    def line(self, record: Record) -> str:
        """One line with its end."""
        return self._as_json(record) if self._json else self._as_text(record)

    def _time(self, seconds: float) -> str:
        second = int(seconds)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._text}.{int((seconds - second) * 1000):03d}Z"

    def _as_text(self, r: Record) -> str:
        """Envoy's default format, and behind it what the reason of a refusal is."""
        service = "-" if r.service_ms is None else r.service_ms
        return (
            f'[{self._time(r.started)}] "{_shown(r.method)} {_shown(r.path)} {_shown(r.protocol)}" {r.status} '
            f"{r.flags or '-'} {r.received} {r.sent} {int(r.seconds * 1000)} {service} "
            f'"{_shown(r.forwarded_for)}" "{_shown(r.user_agent)}" "{_shown(r.request_id)}" "{_shown(r.host)}" '
            f'"{r.upstream or "-"}" {r.detail.replace(" ", "_") or "-"} {r.reason or "-"} {r.cluster or "-"} '
            f'{_joined(r.original)} {_joined(r.peer)} {_shown(r.sni).replace(" ", _BLANK)} "{self._identity}" '
            f'"{_shown(r.failure)}"\n'
        )

    def _as_json(self, r: Record) -> str:
        fields = {
            "start_time": self._time(r.started),
            "identity": self._identity,
            "method": r.method or None,
            "path": r.path or None,
            "protocol": r.protocol or None,
            "response_code": r.status,
            "response_flags": r.flags or None,
            "response_code_details": r.detail or None,
            "reason": r.reason or None,
            "bytes_received": r.received,
            "bytes_sent": r.sent,
            "duration": int(r.seconds * 1000),
            "upstream_service_time": r.service_ms,
            "x_forwarded_for": r.forwarded_for or None,
            "user_agent": r.user_agent or None,
            "request_id": r.request_id or None,
            "authority": r.host or None,
            "upstream_host": r.upstream or None,
            "upstream_cluster": r.cluster or None,
            "upstream_transport_failure_reason": r.failure or None,
            "downstream_local_address": _joined(r.original),
            "downstream_remote_address": _joined(r.peer),
            "requested_server_name": r.sni or None,
        }
        return json.dumps(fields, separators=(",", ":")) + "\n"


def _joined(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _shown(text: str) -> str:
    """Client text that can not break out of its place in the line, nor out of a terminal."""
    if not text:
        return "-"
    if text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return "".join(c if c.isprintable() and c not in '"\\' else f"\\x{ord(c):02x}" for c in text)
