"""Compare what clients saw with what a fixture expects: each function gives the complaints, none if all is well."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from .clients import Answer, CurlRun, Dialogue, Handshake, Piece
from .schema import (
    CurlExpect,
    HttpExpect,
    ParallelExpect,
    Range,
    Received,
    Scalar,
    TcpExpect,
    TlsExpect,
)

Seen = Mapping[str, Any]  # what the site says it received: its echo


def short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 160 else text[:150] + f"...({len(text)})"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _many(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _differs(what: str, seen: object, expected: object) -> list[str]:
    return [] if seen == expected else [f"{what} is {short(seen)}, expected {short(expected)}"]


def _not_among(what: str, seen: object, allowed: object) -> list[str]:
    return [] if seen in _many(allowed) else [f"{what} is {short(seen)}, expected {short(allowed)}"]


def within(value: float, limits: Range) -> bool:
    low, high = limits if isinstance(limits, tuple) else (limits, limits)
    return low <= value <= high


def _outside(what: str, value: float, limits: Range | None) -> list[str]:
    if limits is None or within(value, limits):
        return []
    return [f"{what} is {value:.3g}, expected {limits}"]


# --- HTTP ---------------------------------------------------------------------------------------------


def check_answers(expect: HttpExpect, answers: list[Answer], last: Seen | None = None) -> list[str]:
    """The answers on one connection; `last` is what a site saw if the answer does not say it."""
    if expect.responses is None:
        return [each for answer in answers for each in check_answer(expect, answer, last)]
    complaints = _differs("number of answers", len(answers), len(expect.responses))
    for number, (wanted, answer) in enumerate(zip(expect.responses, answers, strict=False), start=1):
        complaints += [f"answer {number}: {each}" for each in check_answer(wanted, answer, last)]
    if expect.then is not None and answers:
        complaints += _differs("then", answers[-1].then, expect.then)
    return complaints


def check_answer(expect: HttpExpect, answer: Answer, last: Seen | None = None) -> list[str]:
    if answer.error and expect.error is None and expect.statuses is None:
        return [f"no answer: {answer.error} after {answer.elapsed:.2f} s"]
    complaints: list[str] = []
    if expect.error is not None:
        seen = answer.error or f"answer {answer.status}"
        complaints += _differs("error", seen, expect.error)
    if expect.status is not None:
        complaints += _not_among("status", answer.status, expect.status)
    complaints += _check_body(expect, answer)
    complaints += _check_headers(expect, answer)
    complaints += _check_connection(expect, answer)
    complaints += _check_seen(expect, answer, last)
    return complaints


def _check_body(expect: HttpExpect, answer: Answer) -> list[str]:
    complaints: list[str] = []
    body = answer.body.decode("latin-1")
    if expect.body is not None:
        complaints += _differs("body", body, expect.body)
    for piece in _many(expect.body_contains) if expect.body_contains is not None else []:
        if _text(piece) not in body:
            complaints.append(f"body {short(body)} does not contain {piece!r}")
    if expect.body_error is not None:
        complaints += _differs("body_error", answer.body_error, expect.body_error)
    elif answer.body_error:
        complaints.append(f"the body broke off after {len(answer.body)} bytes")
    return complaints


def _check_headers(expect: HttpExpect, answer: Answer) -> list[str]:
    complaints: list[str] = []
    for name, value in expect.headers.items():
        complaints += _differs(f"header {name}", answer.header(name), _text(value))
    for name in expect.headers_present:
        if answer.header(name) is None:
            complaints.append(f"header {name} is missing")
    for name in expect.headers_absent:
        if answer.header(name) is not None:
            complaints.append(f"header {name} is there: {short(answer.header(name))}")
    for name, allowed in (("x-upstream", expect.upstream), ("x-upstream-ip", expect.upstream_ip)):
        if allowed is not None:
            complaints += _not_among(name, answer.header(name), allowed)
    return complaints


def _check_connection(expect: HttpExpect, answer: Answer) -> list[str]:
    complaints = _outside("elapsed", answer.elapsed, expect.elapsed)
    if expect.interim is not None:
        complaints += _differs("interim answers", answer.interim, expect.interim)
    if expect.tunnel is not None:
        complaints += _differs("tunnel", answer.tunnel, expect.tunnel)
    if expect.then is not None and answer.then is not None:
        complaints += _differs("then", answer.then, expect.then)
    return complaints


def _check_seen(expect: HttpExpect, answer: Answer, last: Seen | None) -> list[str]:
    """What the site received, from its echo or else from the outside's own notes."""
    wanted: list[tuple[str, object]] = [
        (name, getattr(expect, name))
        for name in ("target", "tls", "sni", "client_cn")
        if getattr(expect, name) is not None
    ]
    if expect.request_body is not None:
        wanted.append(("body", expect.request_body))
    headers = (expect.request_headers, expect.request_headers_present, expect.request_headers_absent)
    if not wanted and not any(headers) and expect.version is None:
        return []
    seen = _echo(answer) or last
    if seen is None:
        return ["no site has seen the request"]
    complaints = [c for name, value in wanted for c in _differs(f"the site saw {name}", seen[name], value)]
    if expect.version is not None:
        complaints += _differs("the site saw version", _version(seen["version"]), _version(expect.version))
    return complaints + _check_request_headers(expect, seen)


def _echo(answer: Answer) -> Seen | None:
    try:
        echo = json.loads(answer.body)
    except ValueError:
        return None
    return echo if isinstance(echo, dict) and "headers" in echo and "target" in echo else None


def _version(value: object) -> str:
    return {"2.0": "2", "h2c": "2", "h2": "2"}.get(text := str(value).removeprefix("HTTP/"), text)


def _check_request_headers(expect: HttpExpect, seen: Seen) -> list[str]:
    got: dict[str, str] = {}
    for name, value in seen["headers"]:
        key = name.lower()
        got[key] = f"{got[key]}, {value}" if key in got else value
    complaints: list[str] = []
    for name, value in expect.request_headers.items():
        complaints += _differs(f"the site saw header {name}", got.get(name.lower()), _text(value))
    for name in expect.request_headers_present:
        if name.lower() not in got:
            complaints.append(f"the site saw no header {name}")
    for name in expect.request_headers_absent:
        if name.lower() in got:
            complaints.append(f"the site saw header {name}: {short(got[name.lower()])}")
    return complaints


def check_repeated(expect: HttpExpect, answers: list[Answer]) -> list[str]:
    """What holds over all repetitions together."""
    statuses = [str(answer.status or answer.error) for answer in answers]
    ips = [answer.header("x-upstream-ip") for answer in answers]
    complaints = _check_counts("status", statuses, expect.statuses)
    complaints += _check_counts("upstream", [a.header("x-upstream") for a in answers], expect.upstreams)
    complaints += _check_counts("upstream_ip", ips, expect.upstream_ips)
    if expect.upstream_ips_one_of is not None:
        complaints += _check_one_of(ips, expect.upstream_ips_one_of)
    return complaints


def _check_counts(what: str, seen: Iterable[object], limits: Mapping[Any, Range] | None) -> list[str]:
    if limits is None:
        return []
    counts = Counter(str(value) for value in seen)
    return [
        f"{what} {key} came {counts[str(key)]} times, expected {limit} ({dict(counts)})"
        for key, limit in limits.items()
        if not within(counts[str(key)], limit)
    ]


def _check_one_of(ips: list[str | None], alternatives: list[Any]) -> list[str]:
    """Either the addresses that answers may come from, or alternatives of counts."""
    addresses = [each for each in alternatives if isinstance(each, str)]
    if addresses and set(ips) <= set(addresses):
        return []
    counts = [each for each in alternatives if isinstance(each, dict)]
    if any(not _check_counts("upstream_ip", ips, each) for each in counts):
        return []
    return [f"upstream_ips are {short(dict(Counter(ips)))}, expected one of {short(alternatives)}"]


def check_parallel(expect: ParallelExpect, answers: list[Answer]) -> list[str]:
    statuses = [str(answer.status or answer.error) for answer in answers]
    complaints = _check_counts("status", statuses, expect.counts or None)
    each = {str(key): wanted for key, wanted in expect.each.items()}
    for status, answer in zip(statuses, answers, strict=True):
        if status in each:
            complaints += [f"a {status} answer: {c}" for c in check_answer(each[status], answer)]
    return complaints + _outside("elapsed", max(a.elapsed for a in answers), expect.elapsed)


# --- the others ---------------------------------------------------------------------------------------


def check_tls(expect: TlsExpect, seen: Handshake) -> list[str]:
    complaints: list[str] = []
    if expect.handshake is not None:
        complaints += _differs("handshake", seen.result, expect.handshake)
        if complaints and seen.detail:
            complaints.append(seen.detail)
    if expect.peer is not None:
        complaints += _differs("peer", seen.peer, expect.peer)
    complaints += _outside("elapsed", seen.elapsed, expect.elapsed)
    if expect.response is not None:
        if seen.answer is None:
            complaints.append("no request was answered inside")
        else:
            complaints += check_answers(expect.response, [seen.answer])
    return complaints


def check_tcp(expect: TcpExpect, seen: Dialogue) -> list[str]:
    if (complaints := _differs("connect", seen.connect, expect.connect or "ok")) or expect.recv is None:
        return complaints
    complaints = _differs("number of recv", len(seen.pieces), len(expect.recv))
    for number, (wanted, piece) in enumerate(zip(expect.recv, seen.pieces, strict=False), start=1):
        complaints += [f"recv {number}: {each}" for each in _check_piece(wanted, piece)]
    return complaints


def _check_piece(expect: Received, piece: Piece) -> list[str]:
    data = piece.data.decode("latin-1")
    complaints = _outside("elapsed", piece.elapsed, expect.elapsed)
    if expect.data is not None:
        complaints += _differs("data", data or piece.end, expect.data)
    if expect.starts is not None and not data.startswith(expect.starts):
        complaints.append(f"data is {short(data or piece.end)}, expected {short(expect.starts)} first")
    if expect.end is not None:
        complaints += _differs("end", piece.end or f"data {short(data)}", expect.end)
    return complaints


def check_curl(expect: CurlExpect, seen: CurlRun) -> list[str]:
    complaints: list[str] = []
    if expect.exit is not None:
        complaints += _not_among("exit", seen.exit, expect.exit)
    for what, text, pieces in (
        ("output", seen.out, expect.out_contains),
        ("error output", seen.err, expect.err_contains),
    ):
        wanted: list[Scalar] = _many(pieces) if pieces is not None else []
        complaints += [
            f"{what} {short(text)} does not contain {piece!r}" for piece in wanted if _text(piece) not in text
        ]
    complaints += _outside("elapsed", seen.elapsed, expect.elapsed)
    if complaints and seen.err:
        complaints.append(f"curl says {short(seen.err.strip())}")
    return complaints
