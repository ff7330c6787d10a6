"""Counters of the running proxy. Plain numbers: whoever counts adds one, whoever asks reads them."""

from __future__ import annotations

from collections import Counter


class Stats:
    """Totals since the start, and what is open now."""

    __slots__ = (
        "accepted",
        "active",
        "loops",
        "mistakes",
        "pauses",
        "reasons",
        "reload_failures",
        "reloads",
        "requests",
        "upstream_connections",
        "upstream_requests",
        "upstream_retries",
    )

    def __init__(self) -> None:
        self.accepted = 0
        self.active = 0
        self.pauses = 0  # times when no more connections were accepted for a while
        self.loops = 0
        self.mistakes = 0  # exceptions nobody expected
        self.reloads = 0
        self.reload_failures = 0
        self.upstream_connections = 0
        self.upstream_requests = 0
        self.upstream_retries = 0
        self.requests: Counter[int] = Counter()  # by status; 0 for those without an answer
        self.reasons: Counter[str] = Counter()  # of connections
