"""Random things a client does: HTTP in good and bad shape, TLS with and without a server name, plain TCP, HTTP/2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from .vocabulary import ADDRESSES, HTTP_PORTS, NAMES, PAIR, PAIR_ADDRESSES, TENANTS, Fields, maybe, weighted

Do: TypeAlias = dict[str, Fields]

PATHS = [
    *("/", "/a", "/a/b", "/b?x=1", "/b/", "/A", "/c?y", "/a?x=2", "/b/c?x=1&x=3", "/a/?", "/new"),
    *("/a/../b", "/a%2fb", "//a", "/a//b", "/./a", "/a/%2e%2e/b", "/../../b", "/a/..%2Fb", "/%61", "/a;x=1/b"),
    *("/%zz", "/b%", "/a\\b", "/a#f", "/%2e/a", "/a/.", "/b/..", "/?a=/../b", "/%41?x=%31"),
    *("/status/404", "/status/500", "/status/503", "/status/418", "/status/204", "/status/304"),
]
_ODD_PATHS = [
    *("/close", "/reset", "/garbage", "/partial", "/http10", "/chunked", "/noserver", "/bighdr/9000"),
    *("/flaky/{{uniq}}/1/503", "/flaky/{{uniq}}/2/500", "/flaky/{{uniq}}/1/reset", "/flaky/{{uniq}}/2/429"),
    *("/delay/0.9", "/delay/0.05", "/a/delay/0.9"),
]
_METHODS = ["GET", "GET", "GET", "GET", "POST", "HEAD", "DELETE", "PUT", "OPTIONS", "PATCH"]
_REQUEST_HEADERS: list[Fields] = [
    {"x-rm": "1", "x-set": "0"},
    {"x-v": ["1", "2"]},
    {"connection": "close"},
    {"connection": "keep-alive, x-hop", "x-hop": "1", "keep-alive": "timeout=5"},
    {"te": "trailers"},
    {"te": "gzip"},
    {"x-forwarded-for": "10.0.0.1", "x-forwarded-proto": "https"},
    {"x-envoy-upstream-rq-timeout-ms": "1", "x-envoy-retry-on": "5xx", "x-envoy-max-retries": "3"},
    {"x-request-id": "mine"},
    {"x-envoy-attempt-count": "9"},
    {"x-empty": ""},
    {"cookie": "a=b; c=d", "user-agent": "till/1"},
    {"expect": "100-continue"},
    {"upgrade": "websocket", "connection": "upgrade"},
    {"upgrade": "h2c", "connection": "upgrade, http2-settings", "http2-settings": "AAMAAABkAAQAAP__"},
    {"upgrade": "other", "connection": "upgrade"},
    {"proxy-connection": "keep-alive", "proxy-authorization": "Basic eA=="},
    {"x-under_score": "1", "x_v": "1"},
]


@dataclass(frozen=True)
class Places:
    """Where requests go: mostly to what the policy names."""

    hosts: Sequence[str]
    ports: Sequence[int]
    websockets: bool  # what Envoy makes of one on the way to HTTP/2 is not what is compared here

    def host(self, random: Random) -> str:
        known = random.random() < 0.75 and self.hosts
        return random.choice(self.hosts if known else NAMES + TENANTS)

    def port(self, random: Random, usual: Sequence[int]) -> int:
        known = [port for port in self.ports if port in usual]
        return random.choice(known if known and random.random() < 0.6 else usual)

    def way(self, random: Random, host: str) -> Fields:
        """Where to connect, when not to the host's own address."""
        if host == PAIR:  # its addresses come in turns, which would be chance
            return {"connect": PAIR_ADDRESSES[0]}
        elsewhere = [*NAMES, *TENANTS, "closed.example.com"]
        return maybe(random, 0.25, lambda: {"connect": random.choice(elsewhere)})


def random_action(random: Random, places: Places) -> Do:
    makers: dict[Callable[[Random, Places], Do], int] = {
        _one_request: 50,
        _several_requests: 10,
        _raw_request: 9,
        _http2_request: 3,
        _tls: 16,
        _tcp: 8,
        _server_first: 4,
    }
    return weighted(random, makers)(random, places)


# --- HTTP ---------------------------------------------------------------------------------------------


def _one_request(random: Random, places: Places) -> Do:
    host = places.host(random)
    fields = {"host": host, "port": places.port(random, HTTP_PORTS), **_request(random, host, places)}
    if "body" in fields and random.random() < 0.15:
        fields["expect100"] = True
    return {"http": {**fields, **places.way(random, host)}}


def _several_requests(random: Random, places: Places) -> Do:
    host = places.host(random)
    hosts = [host, *(random.choice([host, places.host(random)]) for _ in range(random.choice([1, 1, 2])))]
    requests = [_request(random, each, places) for each in hosts]
    fields = {"host": host, "port": places.port(random, HTTP_PORTS), "requests": requests}
    return {"http": {**fields, **places.way(random, host)}}


def _request(random: Random, host: str, places: Places) -> Fields:
    method = random.choice(_METHODS)
    path = random.choice(_ODD_PATHS if random.random() < 0.2 else PATHS)
    headers = maybe(random, 0.3, lambda: {"x-v": random.choice(["1", "17", "x", ""])})
    headers |= maybe(random, 0.25, lambda: dict(random.choice(_REQUEST_HEADERS)))
    if headers.get("upgrade") == "websocket" and not places.websockets:
        headers["upgrade"] = "other"
    if "upgrade" in headers and random.random() < 0.7:
        method, path = "GET", "/ws"
    fields = {"method": method, "path": path, "headers": {"host": _spelled(random, host), **headers}}
    return fields | (_body(random) if method in ("POST", "PUT", "PATCH") else {})


def _body(random: Random) -> Fields:
    bodies: list[Fields] = [
        {"body": "abc"},
        {"body": ""},
        {"chunked": ["ab", "c"]},
        {"chunked": ["abc"], "trailers": {"x-end": "1"}},
    ]
    return random.choice(bodies)


def _spelled(random: Random, host: str) -> str:
    ways: dict[str, int] = {
        host: 70,
        f"{host}:{random.choice([80, 8080, 81, 443])}": 8,
        host.title(): 4,
        f"{host}.": 4,
        f"{host}.:80": 1,
        f"{host}:": 1,
        f"{host}:x": 1,
        f"x.{host}": 3,
        host.partition(".")[2]: 2,
        ADDRESSES.get(host, "192.0.2.10"): 3,
        "": 1,
        "unknown.example.com": 2,
        f"{host},{host}": 1,
    }
    return weighted(random, ways)


_RAW = [
    "GET /a HTTP/1.0\r\nhost: HOST\r\n\r\n",
    "GET /a HTTP/1.0\r\n\r\n",
    "GET /a HTTP/1.0\r\nhost: HOST\r\nconnection: keep-alive\r\n\r\n",
    "GET /a HTTP/1.1\r\n\r\n",
    "GET /a HTTP/1.1\r\nhost: HOST\r\nhost: HOST\r\n\r\n",
    "GET http://HOST/a HTTP/1.1\r\nhost: other.example.com\r\n\r\n",
    "GET http://HOST HTTP/1.1\r\nhost: HOST\r\n\r\n",
    "GET https://HOST:8080/b?x=1 HTTP/1.1\r\nhost: HOST\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nhost: HOST\r\n\r\n",
    "CONNECT HOST:443 HTTP/1.1\r\nhost: HOST:443\r\n\r\n",
    "GET /a HTTP/1.1\nhost: HOST\n\n",
    "GET  /a HTTP/1.1\r\nhost: HOST\r\n\r\n",
    "\r\nGET /a HTTP/1.1\r\nhost: HOST\r\n\r\n",
    "GET /a HTTP/1.2\r\nhost: HOST\r\n\r\n",
    "GET /a HTTP/2.0\r\nhost: HOST\r\n\r\n",
    "GET /a\r\n\r\n",
    "get /a HTTP/1.1\r\nhost: HOST\r\n\r\n",
    "FOO /a HTTP/1.1\r\nhost: HOST\r\n\r\n",
    "GET a HTTP/1.1\r\nhost: HOST\r\n\r\n",
    "GET /a HTTP/1.1\r\nhost : HOST\r\n\r\n",
    "GET /a HTTP/1.1\r\nhost: HOST\r\nx-v: a\r\n b\r\n\r\n",
    "GET /a HTTP/1.1\r\nhost: HOST\r\n x-v: a\r\n\r\n",
    "GET /a HTTP/1.1\r\nhost: HOST\r\nx-v\r\n\r\n",
    "GET /a HTTP/1.1\r\nhost: HOST\r\n: 1\r\n\r\n",
    "GET /a HTTP/1.1\r\nhost: HOST\r\nx-v:\t1 \t\r\n\r\n",
    "GET /a HTTP/1.1\r\nhost: HOST\r\nx-v: a\x00b\r\n\r\n",
    "GET /a HTTP/1.1\r\nhost: HOST\r\nx-v: \xe9\r\n\r\n",
    "GET /\xe9 HTTP/1.1\r\nhost: HOST\r\n\r\n",
    "GET /a HTTP/1.1\r\nhost: HOST/x\r\n\r\n",
    "GET /a HTTP/1.1\r\nhost: ho st\r\n\r\n",
    "GET /a HTTP/1.1\r\nhost: user@HOST\r\n\r\n",
    "POST /a HTTP/1.1\r\nhost: HOST\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nhost: HOST\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc",
    "POST /a HTTP/1.1\r\nhost: HOST\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    "POST /a HTTP/1.1\r\nhost: HOST\r\ncontent-length: 3, 3\r\n\r\nabc",
    "POST /a HTTP/1.1\r\nhost: HOST\r\ncontent-length: +3\r\n\r\nabc",
    "POST /a HTTP/1.1\r\nhost: HOST\r\ncontent-length: -1\r\n\r\n",
    "POST /a HTTP/1.1\r\nhost: HOST\r\ncontent-length: \r\n\r\n",
    "POST /a HTTP/1.1\r\nhost: HOST\r\ntransfer-encoding: gzip\r\n\r\n",
    "POST /a HTTP/1.1\r\nhost: HOST\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nhost: HOST\r\ntransfer-encoding: identity\r\n\r\n",
    "POST /a HTTP/1.1\r\nhost: HOST\r\ntransfer-encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nhost: HOST\r\ntransfer-encoding: chunked\r\n\r\nx\r\nabc\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nhost: HOST\r\ntransfer-encoding: chunked\r\n\r\n3;e=1\r\nabc\r\n0\r\nx-t: 1\r\n\r\n",
    "POST /a HTTP/1.1\r\nhost: HOST\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
    "GET /a HTTP/1.1\r\nhost: HOST\r\ncontent-length: 3\r\n\r\nabc",
    "GET /a HTTP/1.1\r\nhost: HOST\r\nX-V: 1\r\nx-v: 2\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\n",
    "DELETE /b HTTP/1.1\r\nhost: HOST\r\nexpect: 200-maybe\r\n\r\n",
]


def _raw_request(random: Random, places: Places) -> Do:
    """Bytes as they are; a good request after them shows whether the connection still serves."""
    host = places.host(random)
    raw: Fields = {"raw": random.choice(_RAW).replace("HOST", host)}
    requests = [raw, *([{"path": "/after"}] if random.random() < 0.3 else [])]
    fields = {"host": host, "port": places.port(random, HTTP_PORTS), "requests": requests}
    return {"http": {**fields, **places.way(random, host)}}


def _http2_request(random: Random, places: Places) -> Do:
    """HTTP/2 without TLS, with prior knowledge or asked for in an upgrade."""
    host, port = places.host(random), places.port(random, [80, 8080, 9080])
    address = PAIR_ADDRESSES[0] if host == PAIR else ADDRESSES.get(host)
    start = random.choice(["--http2-prior-knowledge", "--http2-prior-knowledge", "--http2"])
    words = [start, "--connect-timeout", "2", "-X", random.choice(["GET", "DELETE"])]
    words += ["--connect-to", f"::{address}:"] if address else []
    return {"curl": {"args": [*words, f"http://{host}:{port}{random.choice(['/a', '/b?x=1', '/status/404'])}"]}}


# --- TLS and TCP --------------------------------------------------------------------------------------


def _tls(random: Random, places: Places) -> Do:
    host = places.host(random)
    names = ["", host.upper(), f"x.{host}", host.partition(".")[2], "unknown.example.com", f"{host}."]
    fields: Fields = {"host": host, "port": places.port(random, [443, 443, 8443, 9443, 80, 9000])}
    fields |= maybe(random, 0.7, lambda: {"alpn": random.choice([["http/1.1"], ["h2", "http/1.1"], ["foo"]])})
    fields |= maybe(random, 0.3, lambda: {"sni": random.choice(names)})
    fields |= maybe(random, 0.5, lambda: {"request": {"path": random.choice(PATHS[:8])}})
    return {"tls": {**fields, **places.way(random, host)}}


_SCRIPTS: list[list[Fields]] = [
    [{"send": "a\r\n"}, {"recv": 1.2}],
    [{"send": "a"}, {"recv": 0.7}, {"send": "b\r\n"}, {"recv": 1.2}],
    [{"send": "abc"}, {"recv": 1.2}, {"shutdown": 1}, {"recv": 1.2}],
    [{"send": "\x00\x01\x02"}, {"recv": 1.2}],
    [{"send": "\x16\x03\x01\x00\x05hello"}, {"recv": 1.2}],
    [{"send": "SSH-2.0-x\r\n"}, {"recv": 1.2}],
    [{"send": "GE"}, {"sleep": 0.1}, {"send": "T /a HTTP/1.1\r\nhost: HOST\r\n\r\n"}, {"recv": 1.2}],
    [{"shutdown": 1}, {"recv": 1.2}],
]


def _tcp(random: Random, places: Places) -> Do:
    host = places.host(random)
    script = [
        {key: str(value).replace("HOST", host) if key == "send" else value for key, value in step.items()}
        for step in random.choice(_SCRIPTS)
    ]
    port = places.port(random, [9000, 9000, 9001, 9003, 3306, 80, 443, 27018])
    return {"tcp": {"host": host, "port": port, "script": script, **places.way(random, host)}}


def _server_first(random: Random, places: Places) -> Do:
    """A client that waits; what is said later shows that the connection still lives."""
    host, port = places.host(random), places.port(random, [3306, 5432, 9000, 80, 443, 27018])
    script = [{"recv": 0.8}, *([{"send": "x\r\n"}, {"recv": 0.8}] if random.random() < 0.5 else [])]
    return {"tcp": {"host": host, "port": port, "script": script, **places.way(random, host)}}
