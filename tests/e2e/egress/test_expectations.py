"""Expectations complain about each difference, and about nothing else."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from .clients import Answer, Dialogue, Handshake, Piece
from .dns import Zone
from .expectations import check_answers, check_repeated, check_tcp, check_tls
from .schema import HttpExpect, TcpExpect, TlsExpect

ECHO = {"target": "/x", "headers": [["Host", "a"]], "body": "", "tls": False, "sni": None, "version": "HTTP/1.1"}


def answer(**changes: Any) -> Answer:
    headers = [("server", "envoy"), ("x-upstream", "a"), ("x-upstream-ip", "192.0.2.1")]
    return Answer(**{"status": 200, "headers": headers, "body": json.dumps(ECHO).encode(), **changes})


def complaints(expect: dict[str, Any], *answers: Answer) -> list[str]:
    return check_answers(msgspec.convert(expect, HttpExpect), list(answers))


@pytest.mark.parametrize(
    "expect",
    [
        {"status": 200, "upstream": "a", "upstream_ip": ["192.0.2.1", "192.0.2.2"]},
        {"headers": {"Server": "envoy"}, "headers_present": ["x-upstream"], "headers_absent": ["date"]},
        {"target": "/x", "request_headers": {"host": "a"}, "request_headers_absent": ["x-b"], "version": "1.1"},
        {"elapsed": [0, 1], "body_contains": "target"},
    ],
)
def test_what_holds_gives_no_complaint(expect: dict[str, Any]) -> None:
    assert complaints(expect, answer()) == []


@pytest.mark.parametrize(
    ("expect", "seen"),
    [
        ({"status": 404}, answer()),
        ({"body": ""}, answer()),
        ({"headers": {"server": "x"}}, answer()),
        ({"headers_absent": ["server"]}, answer()),
        ({"target": "/y"}, answer()),
        ({"target": "/x"}, answer(body=b"")),
        ({"request_headers_present": ["x-b"]}, answer()),
        ({"elapsed": [1, 2]}, answer()),
        ({"error": "closed"}, answer()),
        ({"status": 200}, answer(body_error=True)),
        ({}, answer(status=None, error="closed")),
        ({"then": "open"}, answer(then="closed")),
    ],
)
def test_each_difference_is_named(expect: dict[str, Any], seen: Answer) -> None:
    assert len(complaints(expect, seen)) == 1


def test_every_expected_answer_must_have_come() -> None:
    assert complaints({"responses": [{"status": 200}, {"status": 502}]}, answer()) != []
    assert complaints({"responses": [{"status": 200}, {"status": 502}]}, answer(), answer(status=502)) == []


def test_repetitions_are_counted() -> None:
    expect = msgspec.convert({"upstream_ips": {"192.0.2.1": [2, 3], "192.0.2.2": 0}}, HttpExpect)
    assert check_repeated(expect, [answer(), answer()]) == []
    assert len(check_repeated(expect, [answer()])) == 1


def test_tls_and_tcp_outcomes() -> None:
    assert check_tls(TlsExpect(handshake="ok", peer="a"), Handshake("ok", "a")) == []
    assert check_tls(TlsExpect(handshake="closed"), Handshake("ok", "a")) != []
    expect = msgspec.convert({"recv": [{"starts": "a"}, {"end": "closed"}]}, TcpExpect)
    assert check_tcp(expect, Dialogue("ok", [Piece(b"abc"), Piece(b"", "closed")])) == []
    assert len(check_tcp(expect, Dialogue("ok", [Piece(b"bc"), Piece(b"", "timeout")]))) == 2
    assert check_tcp(expect, Dialogue("refused")) == ["connect is 'refused', expected 'ok'"]


def query(name: str) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return b"\x00\x07\x01\x00\x00\x01" + bytes(6) + labels + b"\x00\x00\x01\x00\x01"


def test_name_server_answers_rotate_fail_and_keep_silent() -> None:
    zone = Zone({"a.b": ["192.0.2.1", "192.0.2.2"]}, {"*.bad.test": "SERVFAIL", "*.mute.test": "never answered"})
    first, second = zone.answer(query("A.b")), zone.answer(query("a.b"))
    assert first is not None
    assert second is not None
    assert (first[-4:], second[-4:]) == (bytes([192, 0, 2, 2]), bytes([192, 0, 2, 1]))
    assert [(zone.answer(query(name)) or b"0000")[3] & 15 for name in ("x.bad.test", "c.d")] == [2, 3]
    assert zone.answer(query("x.mute.test")) is None
    zone.set({"a.b": None})
    assert (zone.answer(query("a.b")) or b"")[3] & 15 == 3
