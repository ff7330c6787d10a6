"""Durations as policies write them: `1m30s`, `500ms`, `2.5h`. Pure."""

from __future__ import annotations

import re

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h)")
_LONGEST = 10 * 365 * 24 * 3600.0  # Envoy and the event loop take no more


class Duration(float):
    """Seconds."""


def parse_duration(text: object) -> Duration:
    """Seconds of a text such as `1m30s`. Raises ValueError, also for what is no text."""
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is not a duration; write it as text with a unit, such as 30s")
    position, seconds = 0, 0.0
    while part := _PART.match(text, position):
        seconds += float(part[1]) * _SECONDS[part[2]]
        position = part.end()
    if position != len(text) or not text:
        raise ValueError(f"'{text}' is not a duration; expected a number and a unit (ms, s, m, h) such as 1m30s")
    if seconds > _LONGEST:
        raise ValueError(f"'{text}' is longer than ten years")
    return Duration(round(seconds, 9))


def render_seconds(seconds: float) -> str:
    """`3s`, `0.500s`: the spelling of protobuf's JSON, which Envoy and istioctl print."""
    return f"{int(seconds)}s" if seconds == int(seconds) else f"{seconds:.9f}".rstrip("0") + "s"
