"""A name server whose records can be changed while it runs: addresses, no answer, failure, silence."""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections import Counter
from collections.abc import Mapping
from typing import Literal, TypeAlias, cast

Special: TypeAlias = Literal["SERVFAIL", "silence"]

_A, _AAAA, _IN = 1, 28, 1
_NOERROR, _SERVFAIL, _NXDOMAIN = 0, 2, 3
_ANSWER_BITS = 0x8580  # response, authoritative, recursion desired and available


class Zone:
    """Names and what is said about them; `answer` turns one query into one reply or into silence."""

    def __init__(self, hosts: Mapping[str, list[str]], special: Mapping[str, str], ttl: int = 2) -> None:
        self.ttl = ttl  # seconds
        self.delay = 0.0  # seconds before every reply
        self.asked: Counter[str] = Counter()
        self._records: dict[str, list[str] | None] = {name.lower(): list(ips) for name, ips in hosts.items()}
        self._special = {name.lower(): _special(text) for name, text in special.items() if "*" in name}
        self._turn: Counter[str] = Counter()

    def set(self, records: Mapping[str, list[str] | None]) -> None:
        """Replace records from now on; None is a name that does not exist."""
        self._records.update({name.lower(): ips for name, ips in records.items()})

    def answer(self, query: bytes) -> bytes | None:
        name, question, kind = _question(query)
        self.asked[name] += 1
        if name in self._records:
            addresses = self._records[name]
            code = _NXDOMAIN if addresses is None else _NOERROR
            return self._reply(query, question, code, self._rotated(name, addresses or [], kind))
        for pattern, special in self._special.items():
            if name.endswith(pattern.removeprefix("*")):
                return None if special == "silence" else self._reply(query, question, _SERVFAIL, [])
        return self._reply(query, question, _NXDOMAIN, [])

    def _rotated(self, name: str, addresses: list[str], kind: int) -> list[bytes]:
        """Packed addresses of the asked family, starting one further at every query."""
        version = {_A: 4, _AAAA: 6}.get(kind)
        packed = [ip.packed for text in addresses if (ip := ipaddress.ip_address(text)).version == version]
        if not packed:
            return []
        first = self._turn[name] % len(packed)
        self._turn[name] += 1
        return packed[first:] + packed[:first]

    def _reply(self, query: bytes, question: bytes, code: int, packed: list[bytes]) -> bytes:
        head = query[:2] + struct.pack("!HHHHH", _ANSWER_BITS | code, 1, len(packed), 0, 0)
        records = [
            struct.pack("!HHHIH", 0xC00C, _A if len(ip) == 4 else _AAAA, _IN, self.ttl, len(ip)) + ip for ip in packed
        ]
        return head + question + b"".join(records)


def _special(text: str) -> Special:
    return "SERVFAIL" if text.strip().upper() == "SERVFAIL" else "silence"


def _question(query: bytes) -> tuple[str, bytes, int]:
    """Lower-cased name, the question's bytes as they were sent, and the record type asked for."""
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("latin-1").lower())
        at += 1 + length
    (kind,) = struct.unpack_from("!H", query, at + 1)
    return ".".join(labels), query[12 : at + 5], kind


class Server(asyncio.DatagramProtocol):
    """The zone on a UDP port."""

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # a cast: before 3.12 asyncio's own datagram transport is not an asyncio.DatagramTransport
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        try:
            reply = self._zone.answer(data)
        except (IndexError, struct.error):  # not a query: a name server says nothing
            return
        if reply is not None:
            asyncio.get_running_loop().call_later(self._zone.delay, self._send, reply, addr)

    def _send(self, reply: bytes, address: tuple[str, int]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(reply, address)
