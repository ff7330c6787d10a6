"""Feed a parser the same bytes in every way a network may deliver them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

Result = TypeVar("Result")


def splits(data: bytes) -> Iterator[list[bytes]]:
    """Whole, byte by byte, and in two parts at every place."""
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]


def fed(parse: Callable[[list[bytes]], Result], data: bytes, trailing: bytes = b"") -> Result:
    """What `parse` makes of the pieces, which must be the same however they are cut, and with `trailing` behind."""
    expected = parse([data])
    for pieces in splits(data):
        assert parse(pieces) == expected, pieces
        if trailing:
            assert parse([*pieces[:-1], pieces[-1] + trailing]) == expected, pieces
    return expected
