"""What must hold for any bytes that a peer or a policy file can hold; one function for each parser."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise

from mesh_iptables.policy.compile import compile_sources
from mesh_iptables.policy.model import Profile
from mesh_iptables.policy.settings import Settings
from mesh_iptables.proxy.http1 import ChunkedBody, Malformed, parse_request_head, parse_response_head
from mesh_iptables.proxy.sniff import Sniffed, Sniffer, SniffLimit


def hello(data: bytes) -> None:
    """The first bytes of a connection mean the same however they are cut, and nothing but the limit is raised."""
    assert _sniffed([data]) == _sniffed([data[:1], data[1:7], data[7:]])
    for tls, http in ((True, False), (False, True)):
        _sniffed([data], tls=tls, http=http)


def _sniffed(pieces: list[bytes], *, tls: bool = True, http: bool = True) -> Sniffed | None:
    sniffer = Sniffer(tls=tls, http=http)
    try:
        for piece in pieces:
            if (found := sniffer.feed(piece)) is not None:
                return found
    except SniffLimit:
        pass
    return None


def request(data: bytes) -> None:
    """A request head is read or refused with an answer, and a chunked body behind it is the same in any pieces."""
    head, _, body = data.partition(b"\r\n\r\n")
    with suppress(Malformed):
        parse_request_head(head + b"\r\n\r\n")
    assert _unchunked([body]) == _unchunked([body[start:end] for start, end in pairwise(range(len(body) + 1))])


def _unchunked(pieces: list[bytes]) -> tuple[bytes, bool]:
    """What a chunked body holds up to its end, or to where it is broken, and whether it is."""
    body, found = ChunkedBody(), b""
    try:
        for piece in pieces:
            if body.rest is None:
                found += body.feed(piece)
    except Malformed:
        return b"", False  # how much came through before the break depends on the pieces
    return found, True


def response(data: bytes) -> None:
    """A response head is read, or refused as no HTTP."""
    with suppress(Malformed):
        parse_response_head(data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")


def documents(data: bytes) -> None:
    """Documents are compiled or complained about, for each profile."""
    for profile in (Profile.ISTIO, Profile.ISTIO_1_0, Profile.OSM):
        compile_sources([("fuzz.yaml", data)], (), Settings(profile=profile))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "hello": hello,
    "request": request,
    "response": response,
    "documents": documents,
}
