from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_iptables.proxy.sniff import H2_PREFACE, LIMIT, NOTHING, Sniffed, Sniffer, SniffLimit, parse_client_hello

from .pieces import fed


def client_hello(name: str | None, alpn: list[str]) -> bytes:
    """What Python's own TLS sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if alpn:
        context.set_alpn_protocols(alpn)
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def sniffed(pieces: list[bytes], *, tls: bool = True, http: bool = True) -> Sniffed | None:
    sniffer = Sniffer(tls=tls, http=http)
    for piece in pieces:
        found = sniffer.feed(piece)
        if found is not None:
            return found
    return None


def hello_body(*extensions: tuple[int, bytes]) -> bytes:
    """The body of a ClientHello with these extensions."""
    block = b"".join(kind.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data for kind, data in extensions)
    return b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0" + len(block).to_bytes(2, "big") + block


def server_name(name: bytes) -> tuple[int, bytes]:
    return 0, (len(name) + 3).to_bytes(2, "big") + b"\0" + len(name).to_bytes(2, "big") + name


@pytest.mark.parametrize("behind", [b"\x17\x03\x03\x00\x05early", b"\x14\x03\x03\x00\x01\x01", b"\x16junk", b"\0"])
def test_what_comes_behind_a_hello_does_not_matter(behind: bytes) -> None:
    found = sniffed([client_hello("a.example", []) + behind])
    assert found is not None
    assert found.server_name == "a.example"


def test_an_extension_given_twice_means_nothing() -> None:
    assert parse_client_hello(hello_body(server_name(b"a.example"))).server_name == "a.example"
    assert parse_client_hello(hello_body(server_name(b"a.example"), server_name(b"b.example"))) == Sniffed("tls")


def test_a_client_hello_tells_its_server_name_and_protocols() -> None:
    hello = client_hello("WWW.Example.com", ["h2", "http/1.1"])
    assert fed(sniffed, hello, b"more") == Sniffed("tls", "www.example.com", ("h2", "http/1.1"))


def test_a_client_hello_without_extensions_of_interest_is_tls() -> None:
    assert sniffed([client_hello(None, [])]) == Sniffed("tls")


def test_a_client_hello_may_be_spread_over_many_records() -> None:
    message = client_hello("example.com", [])[5:]
    records = b"".join(b"\x16\x03\x01\x00\x01" + message[at : at + 1] for at in range(len(message)))
    assert sniffed([records]) == Sniffed("tls", "example.com")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_request_line_is_http(version: str) -> None:
    line = f"GET /index.html HTTP/{version}\r\n".encode()
    assert fed(sniffed, line, b"host: a\r\n\r\n") == Sniffed(protocols=(f"http/{version}",))


def test_a_request_line_may_end_with_a_bare_lf() -> None:
    assert sniffed([b"GET / HTTP/1.1\n"]) == Sniffed(protocols=("http/1.1",))


def test_the_preface_of_http2_is_h2c() -> None:
    assert fed(sniffed, H2_PREFACE, b"\x00\x00\x00\x04") == Sniffed(protocols=("h2c",))


@pytest.mark.parametrize(
    "data", [b"G\xe9T / HTTP/1.1\r\n", b"\x00\x01234", b"hello\r\n", b"GET / http/1.1\r\n", b"GET a\r\n"]
)
def test_what_is_not_http_is_known_to_be_nothing(data: bytes) -> None:
    assert sniffed([data]) == NOTHING


@pytest.mark.parametrize("line", [b"GET / HTTP/1.2\r\n", b"GET / HTTP/2.0\r\n", b"GET /\r\n", b"GET  / HTTP/1.0 \r\n"])
def test_other_versions_than_11_are_called_10(line: bytes) -> None:
    assert sniffed([line]) == Sniffed(protocols=("http/1.0",))


def test_tls_inspection_waits_for_a_records_header() -> None:
    assert sniffed([b"a\r\n"]) is None
    assert sniffed([b"a\r\n"], tls=False) == NOTHING


@pytest.mark.parametrize("data", [b"G", b"GET /a HTTP/1.", b"hi there all", b"PRI * HTTP/2.0\r\n"])
def test_what_may_become_a_request_line_is_waited_for(data: bytes) -> None:
    assert sniffed([data]) is None


def test_tls_without_tls_inspection_is_nothing() -> None:
    assert sniffed([client_hello("example.com", [])], tls=False) == NOTHING


def test_plain_bytes_with_tls_inspection_alone_are_nothing() -> None:
    assert sniffed([b"GET / HTTP/1.1\r\n"], http=False) == NOTHING


def test_a_request_line_without_end_is_given_up() -> None:
    with pytest.raises(SniffLimit):
        sniffed([b"GET /", *[b"a" * 1024] * (LIMIT // 1024)])


def test_records_without_end_are_given_up() -> None:
    record = b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + b"\x00" * (0x4000 - 4)
    with pytest.raises(SniffLimit):
        sniffed([record] * 20)


@given(st.binary(max_size=300))
def test_no_hello_body_is_too_odd(body: bytes) -> None:
    assert parse_client_hello(body).transport == "tls"


@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_no_first_bytes_are_too_odd(data: bytes, tls: bool, http: bool) -> None:
    once = sniffed([data], tls=tls, http=http)
    assert once is None or sniffed([data[:1], data[1:]], tls=tls, http=http) in (once, NOTHING)


@given(st.data())
def test_a_damaged_hello_is_never_fatal(draw: st.DataObject) -> None:
    hello = bytearray(client_hello("example.com", ["h2"]))
    for _ in range(draw.draw(st.integers(1, 4))):
        hello[draw.draw(st.integers(0, len(hello) - 1))] = draw.draw(st.integers(0, 255))
    sniffed([bytes(hello)])
