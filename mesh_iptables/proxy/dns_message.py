"""DNS messages: a question out, addresses with their time to live in (RFC 1035, 3596). Pure."""

from __future__ import annotations

import re
import socket
import struct
from dataclasses import dataclass

A, CNAME, AAAA = 1, 5, 28
NOERROR, NXDOMAIN = 0, 3

_HEADER = struct.Struct("!6H")
_RECORD = struct.Struct("!HHIH")
_RECURSE = 0x0100
_ANSWER, _TRUNCATED = 0x8000, 0x0200
_IN = 1
_MAX_RECORDS = 512
_LABEL = re.compile(rb"[A-Za-z0-9_-]{1,63}")  # whatever else a client calls a host is not asked for


class BadMessage(ValueError):
    """Bytes that are no DNS answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`ttl` is the smallest of the records on the way to `addresses`, in seconds."""

    ident: int
    question: tuple[str, int]
    code: int
    truncated: bool
    addresses: tuple[str, ...]
    ttl: int


def encode_question(ident: int, name: str, kind: int) -> bytes:
    """A query for the records `kind` of `name`; BadMessage for what is no host name."""
    labels = name.rstrip(".").encode("idna" if not name.isascii() else "ascii").split(b".")
    if not all(_LABEL.fullmatch(label) for label in labels) or sum(map(len, labels)) + len(labels) > 254:
        raise BadMessage(f"not a host name: {name!r}")
    encoded = b"".join(bytes([len(label)]) + label for label in labels)
    return _HEADER.pack(ident, _RECURSE, 1, 0, 0, 0) + encoded + b"\0" + struct.pack("!HH", kind, _IN)


def parse_answer(data: bytes) -> Answer:
    """An answer to one question; raises BadMessage."""
    try:
        return _parse(data)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise BadMessage("cut short") from error


def _parse(data: bytes) -> Answer:
    ident, flags, questions, answers, _, _ = _HEADER.unpack_from(data)
    if not flags & _ANSWER or questions != 1:
        raise BadMessage("not an answer to one question")
    name, at = _name(data, _HEADER.size)
    (kind,) = struct.unpack_from("!H", data, at)
    at += 4
    addresses: list[str] = []
    ttls: list[int] = []
    truncated = bool(flags & _TRUNCATED)
    for _ in range(min(answers, _MAX_RECORDS)):
        _, at = _name(data, at)
        record, _, ttl, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        value = data[at : at + length]
        at += length
        if record == kind and len(value) == (4 if kind == A else 16):
            addresses.append(socket.inet_ntop(socket.AF_INET if kind == A else socket.AF_INET6, value))
        if record in (kind, CNAME):
            ttls.append(ttl if ttl < 1 << 31 else 0)
    return Answer(ident, (name, kind), flags & 15, truncated, tuple(addresses), min(ttls, default=0))


def _name(data: bytes, at: int) -> tuple[str, int]:
    """The name at `at`, lower case, and where the message goes on; pointers only lead backwards."""
    labels: list[str] = []
    after = 0
    limit = len(data)
    while True:
        length = data[at]
        if length >= 0xC0:
            target = (length & 0x3F) << 8 | data[at + 1]
            after = after or at + 2
            if target >= min(limit, at):
                raise BadMessage("pointer that does not lead back")
            limit = at = target
            continue
        if length > 63:
            raise BadMessage("unknown label")
        at += 1
        if not length:
            return ".".join(labels), after or at
        labels.append(data[at : at + length].decode("latin-1").lower())
        at += length
        if len(labels) > 128:
            raise BadMessage("name too long")
