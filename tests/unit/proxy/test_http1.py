from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_iptables.proxy.http1 import (
    CHUNKED,
    UNTIL_CLOSE,
    ChunkedBody,
    LengthBody,
    Malformed,
    body_reader,
    chunk,
    head_end,
    may_begin_request,
    parse_request_head,
    parse_response_head,
)

from .pieces import fed


def request(*lines: str, start: str = "POST / HTTP/1.1") -> bytes:
    return "\r\n".join([start, *lines, "", ""]).encode("latin-1")


def response(*lines: str, start: str = "HTTP/1.1 200 OK") -> bytes:
    return request(*lines, start=start)


def body(pieces: list[bytes], framing: int = CHUNKED) -> tuple[bytes, bool]:
    """The payload, and whether its end was seen."""
    reader, payload = body_reader(framing), b""
    for piece in pieces:
        payload += reader.feed(piece)
        if reader.rest is not None:
            return payload, True
    return payload, False


def test_a_request_head_is_taken_apart() -> None:
    head = parse_request_head(request("Host: example.com", "X-A:  b \t", "x-a:c", start="GET /a?b HTTP/1.1"))
    assert (head.method, head.target, head.minor, head.framing, head.keep_alive) == ("GET", "/a?b", 1, 0, True)
    assert head.fields == [("host", "example.com"), ("x-a", "b"), ("x-a", "c")]
    assert head.get("x-a") == "b,c"
    assert head.get("x-b") is None


@pytest.mark.parametrize(
    ("lines", "framing"),
    [([], 0), (["content-length: 0"], 0), (["content-length: 12"], 12), (["Transfer-Encoding: Chunked"], CHUNKED)],
)
def test_the_framing_of_a_request_follows_from_its_fields(lines: list[str], framing: int) -> None:
    assert parse_request_head(request("host: a", *lines)).framing == framing


@pytest.mark.parametrize(
    "lines",
    [
        ["content-length: 3", "transfer-encoding: chunked"],
        ["content-length: 3", "content-length: 3"],
        ["content-length: 3, 3"],
        ["content-length: +3"],
        ["content-length: -3"],
        ["content-length: 3 3"],
        ["content-length: 0x3"],
        ["content-length: "],
        ["content-length: 9999999999999999999"],
        ["x: a\x00b"],
        ["x: a\x01b"],
        ["x : y"],
        ["x\ty: z"],
        [": y"],
        ["no colon"],
        [" folded: first"],
    ],
)
def test_what_two_readers_could_read_in_two_ways_is_refused(lines: list[str]) -> None:
    with pytest.raises(Malformed) as refused:
        parse_request_head(request(*lines))
    assert (refused.value.status, refused.value.body) == (400, "Bad Request")


@pytest.mark.parametrize("coding", ["gzip", "gzip, chunked", "chunked, chunked", "identity", "xchunked"])
def test_other_codings_than_chunked_are_not_implemented(coding: str) -> None:
    with pytest.raises(Malformed) as refused:
        parse_request_head(request(f"transfer-encoding: {coding}"))
    assert (refused.value.status, refused.value.body) == (501, "Not Implemented")


@pytest.mark.parametrize(
    "start",
    [
        "GET get HTTP/1.1",
        "GET * HTTP/1.1",
        "GET ftp://a/ HTTP/1.1",
        "GET /\xe9 HTTP/1.1",
        " GET / HTTP/1.1",
        "GET / HTTP/1.10",
        "GET / HTTP/2",
        "FETCH / HTTP/1.1",
        "get / HTTP/1.1",
        "GET /\x7f HTTP/1.1",
    ],
)
def test_a_bad_request_line_is_refused(start: str) -> None:
    with pytest.raises(Malformed):
        parse_request_head(request("host: a", start=start))


def test_too_many_and_too_large_fields_are_refused() -> None:
    parse_request_head(request(*[f"x{i}: y" for i in range(100)]))
    parse_request_head(request("x: " + "a" * 61300))
    for lines in ([f"x{i}: y" for i in range(101)], ["x: " + "a" * 61420]):
        with pytest.raises(Malformed) as refused:
            parse_request_head(request(*lines))
        assert refused.value.status == 431


@pytest.mark.parametrize("line", ["GET  /  HTTP/1.1", "GET\t/\tHTTP/1.1", "GET / HTTP/1.1 \t"])
def test_blanks_in_a_request_line_are_read_as_envoy_does(line: str) -> None:
    head = parse_request_head(request("host: a", start=line))
    assert (head.method, head.target, head.minor) == ("GET", "/", 1)


@pytest.mark.parametrize("version", ["", " HTTP/1.0", " HTTP/1.2", " HTTP/2.0", " HTTP/0.9"])
def test_a_line_with_another_version_is_no_http_11(version: str) -> None:
    assert parse_request_head(request("host: a", start=f"GET /{version}")).minor == 0


def test_folded_lines_are_joined() -> None:
    head = parse_request_head(b"GET / HTTP/1.1\r\nx: a \r\n \t b\r\n\tc\r\nhost: d\r\n\r\n")
    assert head.fields == [("x", "a  \t b\tc"), ("host", "d")]


def test_a_lone_cr_does_not_travel_on() -> None:
    assert parse_request_head(request("x: a\rb")).fields == [("x", "ab")]


@pytest.mark.parametrize("host", ["a b", "a/b", "a?b", "a#b", "a\\b", 'a"b', "a\xe9b"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(Malformed):
        parse_request_head(request(f"host: {host}"))


def test_reading_a_head_takes_time_in_proportion_to_its_length() -> None:
    with pytest.raises(Malformed):
        parse_request_head(b"GET / HTTP/1.1\r\nx: " + b" " * 60000 + b"\x01\r\n y\r\n\r\n")


def test_lines_may_end_with_a_bare_lf() -> None:
    data = b"GET / HTTP/1.1\nhost: a\n\n"
    assert head_end(data) == len(data)
    assert parse_request_head(data).fields == [("host", "a")]


def test_the_end_of_a_head_is_the_first_empty_line() -> None:
    assert head_end(b"a\r\nb\r\n") == -1
    assert head_end(b"a\r\n\r\nb\n\n") == 5
    assert head_end(b"a\n\nb\r\n\r\n") == 3
    assert head_end(b"a\n\r\nb") == 4


@pytest.mark.parametrize(
    ("minor", "connection", "kept"),
    [(1, "", True), (1, "close", False), (1, "X, Close", False), (0, "", False), (0, "keep-alive", True)],
)
def test_connections_are_kept_unless_said_otherwise(minor: int, connection: str, kept: bool) -> None:
    lines = [f"connection: {connection}"] if connection else []
    assert parse_request_head(request(*lines, start=f"GET / HTTP/1.{minor}")).keep_alive is kept


def test_an_upgrade_must_be_named_by_connection() -> None:
    assert parse_request_head(request("upgrade: WebSocket", "connection: keep-alive, Upgrade")).upgrade == "websocket"
    assert parse_request_head(request("upgrade: websocket")).upgrade == ""


@pytest.mark.parametrize(
    ("start", "lines", "framing"),
    [
        ("HTTP/1.1 200 OK", ["content-length: 5"], 5),
        ("HTTP/1.1 200 OK", ["transfer-encoding: chunked"], CHUNKED),
        ("HTTP/1.0 200 OK", [], UNTIL_CLOSE),
        ("HTTP/1.1 200", [], UNTIL_CLOSE),
        ("HTTP/1.1 204 No Content", [], 0),
        ("HTTP/1.1 304 Not Modified", ["content-length: 5"], 0),
        ("HTTP/1.1 101 Switching", [], 0),
    ],
)
def test_the_framing_of_an_answer_follows_from_status_and_fields(start: str, lines: list[str], framing: int) -> None:
    assert parse_response_head(response(*lines, start=start)).framing == framing


@pytest.mark.parametrize("start", ["HTTP/2 200 OK", "200 OK", "HTTP/1.1 20 OK", "HTTP/1.1 099 X", "ICY 200 OK"])
def test_a_bad_status_line_is_refused(start: str) -> None:
    with pytest.raises(Malformed):
        parse_response_head(response(start=start))


def test_an_answer_with_both_framings_is_refused() -> None:
    with pytest.raises(Malformed):
        parse_response_head(response("content-length: 3", "transfer-encoding: chunked"))


def test_a_chunked_body_is_decoded_and_its_trailers_dropped() -> None:
    data = b"3\r\nabc\r\n0a;ext=1\r\n0123456789\r\n0\r\nx-sum: 7\r\n\r\n"
    assert fed(body, data, b"GET / HTTP/1.1\r\n") == (b"abc0123456789", True)


def test_what_follows_a_chunked_body_is_left() -> None:
    reader = ChunkedBody()
    reader.feed(b"0\r\n\r\nnext")
    assert reader.rest == b"next"


@pytest.mark.parametrize(
    "data",
    [
        b"x\r\n",
        b"\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b"1 1\r\n",
        b"1\nab",
        b"1000000000000000\r\n",
        b"0\r\nbad trailer\r\n\r\n",
        b"0\r\nx: y\n\r\n",
        b"1" * 5000,
    ],
)
def test_a_bad_chunk_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        body([data])


def test_what_stands_between_a_chunk_and_the_end_of_its_line_is_skipped() -> None:
    assert fed(body, b"1\r\nab c\r\n0\r\n\r\n", b"GET / HTTP/1.1\r\n") == (b"a", True)


def test_a_body_of_known_length_ends_with_it() -> None:
    assert fed(lambda pieces: body(pieces, 5), b"hello", b"GET /") == (b"hello", True)
    reader = LengthBody(5)
    assert reader.feed(b"hello, world") == b"hello"
    assert reader.rest == b", world"


def test_a_chunk_is_read_as_it_was_written() -> None:
    assert body([chunk(b"a" * 300) + b"0\r\n\r\n"]) == (b"a" * 300, True)


@pytest.mark.parametrize(
    "data", [b"G", b"get", b"GET /a HT", b"GET /a HTTP/1.1\r", b"GET /a HTTP/1.1\r\nhost", b"GET / HTTP/1.0\n"]
)
def test_a_beginning_of_a_request_is_seen_as_such(data: bytes) -> None:
    assert may_begin_request(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01",
        b" GET",
        b"get / HTTP/1.1\n",
        b"GET a HTTP/1.1\n",
        b"GET /a HTTP/2\r\n",
        b"GET /a X\r\n",
        b"hello\r\n",
    ],
)
def test_what_is_no_request_is_seen_early(data: bytes) -> None:
    assert not may_begin_request(data)


@given(st.binary(max_size=400))
def test_no_head_crashes_the_parsers(data: bytes) -> None:
    for parse in (parse_request_head, parse_response_head):
        for start in (b"", b"GET / HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n"):
            try:
                parse(start + data)
            except Malformed:
                continue


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=10), st.data())
def test_chunks_survive_any_cut(payload: list[bytes], draw: st.DataObject) -> None:
    data = b"".join(map(chunk, payload)) + b"0\r\n\r\n"
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=8)))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert body([piece for piece in pieces if piece]) == (b"".join(payload), True)


@given(st.binary(max_size=200))
def test_no_chunked_body_crashes_the_reader(data: bytes) -> None:
    with suppress(Malformed):
        body([data[at : at + 1] for at in range(len(data))])
