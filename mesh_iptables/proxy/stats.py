"""Counters of the running proxy. Plain numbers: whoever counts adds one, whoever asks reads them."""

from __future__ import annotations


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
        self.requests: dict[int, int] = {}  # by status; 0 for those without an answer
        self.reasons: dict[str, int] = {}  # of connections

    def count_request(self, status: int) -> None:
        requests = self.requests
        requests[status] = requests.get(status, 0) + 1

    def count_connection(self, reason: str) -> None:
        reasons = self.reasons
        reasons[reason] = reasons.get(reason, 0) + 1
