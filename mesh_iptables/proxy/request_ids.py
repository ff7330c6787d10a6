"""The ids of requests that came without one."""

from __future__ import annotations

import os


class RequestIds:
    """Random UUIDs (RFC 9562, version 4), made many at a time from one read of the system's random numbers."""

    __slots__ = ("_ready",)

    _BATCH = 64

    def __init__(self) -> None:
        self._ready: list[str] = []

    def next(self) -> str:
        """One that was not given before."""
        if not self._ready:
            text = os.urandom(16 * self._BATCH).hex()
            self._ready = [_uuid(text[start : start + 32]) for start in range(0, len(text), 32)]
        return self._ready.pop()


def _uuid(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"
