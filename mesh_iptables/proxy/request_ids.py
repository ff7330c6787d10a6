"""The ids of requests that came without one."""

from __future__ import annotations

import os

_COUNTED = 1 << 32


class RequestIds:
    """UUIDs in the form of version 4 (RFC 9562). The first eight digits are counted from a random start, so that who
    samples by them samples evenly; the others are random, and drawn anew when the count is at its end.
    """

    __slots__ = ("_count", "_tail")

    def __init__(self) -> None:
        self._count = int.from_bytes(os.urandom(4), "big")
        self._tail = _random_tail()

    def next(self) -> str:
        """One that was not given before."""
        self._count += 1
        if self._count >= _COUNTED:
            self._count, self._tail = 0, _random_tail()
        return f"{self._count:08x}{self._tail}"


def _random_tail() -> str:
    digits = os.urandom(12).hex()
    return f"-{digits[:4]}-4{digits[5:8]}-a{digits[9:12]}-{digits[12:]}"
