"""Fixture and world files as typed values; a key the schema does not know is an error, never ignored.

The schema of a fixture is `egress-fixture/1`, of a world `egress-world/1`; both are YAML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

Scalar: TypeAlias = str | int | float | bool
Range: TypeAlias = float | tuple[float, float]  # an exact number, or [least, most]
OneOrMany: TypeAlias = Scalar | list[Scalar]
Data: TypeAlias = Any  # what YAML gives: msgspec turns it into one of the types below


class FixtureError(Exception):
    """The file is not a fixture, or asks for something the schema does not have."""


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename={}):
    """A mapping whose keys are exactly the fields."""


class Identity(Strict, frozen=True, rename={"service_account": "serviceAccount"}):
    """Whose proxy it is: documents may be visible to some workloads only."""

    namespace: str = "default"
    service_account: str = "default"
    labels: dict[str, Scalar] = {}


# --- what a case does ---------------------------------------------------------------------------------


class Request(Strict, frozen=True):
    """One HTTP request; `raw` replaces everything else by bytes."""

    path: str = "/"
    method: str = "GET"
    headers: dict[str, OneOrMany] = {}
    body: str | None = None
    chunked: list[str] | None = None
    trailers: dict[str, Scalar] = {}
    expect100: bool = False
    host: str | None = None
    raw: str | None = None


class Http(Request, frozen=True):
    """One connection, and one request or several on it."""

    port: int = 80
    connect: str | None = None
    connect_port: int | None = None
    requests: list[Request] | None = None
    fast: bool = False


class Tls(Strict, frozen=True):
    """A TLS handshake through the proxy, and perhaps a request inside."""

    host: str
    port: int = 443
    sni: str | None = None
    connect: str | None = None
    connect_port: int | None = None
    alpn: list[str] | None = None
    request: Request | None = None


class Step(Strict, frozen=True):
    """One step of a TCP dialogue; exactly one field is set."""

    send: str | None = None
    recv: float | None = None
    shutdown: int | None = None
    sleep: float | None = None


class Tcp(Strict, frozen=True):
    host: str
    port: int
    script: list[Step] = []
    connect: str | None = None


class Curl(Strict, frozen=True):
    args: list[Scalar]


class Parallel(Strict, frozen=True):
    count: int
    http: Http


class Dns(Strict, frozen=True):
    """Records replaced from now on: null is NXDOMAIN, [] an answer without addresses."""

    set: dict[str, list[str] | None] = {}
    wait: float = 0.0


class Validate(Strict, frozen=True):
    documents: list[dict[str, Data]]


Action: TypeAlias = Http | Tls | Tcp | Curl | Parallel | Dns | Validate | float


# --- what a case expects ------------------------------------------------------------------------------


class HttpExpect(Strict, frozen=True):
    status: int | list[int] | None = None
    body: str | None = None
    body_contains: OneOrMany | None = None
    headers: dict[str, Scalar] = {}
    headers_present: list[str] = []
    headers_absent: list[str] = []
    upstream: OneOrMany | None = None
    upstream_ip: OneOrMany | None = None
    target: str | None = None
    request_headers: dict[str, Scalar] = {}
    request_headers_present: list[str] = []
    request_headers_absent: list[str] = []
    request_body: str | None = None
    tls: bool | None = None
    sni: str | None = None
    client_cn: str | None = None
    version: Scalar | None = None
    elapsed: Range | None = None
    error: Literal["closed", "refused", "timeout"] | None = None
    body_error: bool | None = None
    then: Literal["open", "closed"] | None = None
    interim: list[int] | None = None
    tunnel: str | None = None
    responses: list[HttpExpect] | None = None
    # over all repetitions
    upstreams: dict[str, Range] | None = None
    upstream_ips: dict[str, Range] | None = None
    upstream_ips_one_of: list[str | dict[str, Range]] | None = None
    statuses: dict[str | int, Range] | None = None


class TlsExpect(Strict, frozen=True):
    handshake: Literal["ok", "closed", "timeout", "refused"] | None = None
    peer: str | None = None
    response: HttpExpect | None = None
    elapsed: Range | None = None


class Received(Strict, frozen=True):
    data: str | None = None
    starts: str | None = None
    end: Literal["closed", "timeout"] | None = None
    elapsed: Range | None = None


class TcpExpect(Strict, frozen=True):
    connect: Literal["ok", "refused", "timeout"] | None = None
    recv: list[Received] | None = None


class CurlExpect(Strict, frozen=True):
    exit: int | list[int] | None = None
    out_contains: OneOrMany | None = None
    err_contains: OneOrMany | None = None
    elapsed: Range | None = None


class ParallelExpect(Strict, frozen=True):
    counts: dict[str | int, Range] = {}
    each: dict[str | int, HttpExpect] = {}
    elapsed: Range | None = None


class ValidateExpect(Strict, frozen=True):
    valid: bool | None = None
    error: OneOrMany | None = None


class NothingExpected(Strict, frozen=True):
    """`dns` and `sleep` only do."""


Expect: TypeAlias = HttpExpect | TlsExpect | TcpExpect | CurlExpect | ParallelExpect | ValidateExpect | NothingExpected

KINDS: dict[str, tuple[Any, type[Strict]]] = {
    "http": (Http, HttpExpect),
    "tls": (Tls, TlsExpect),
    "tcp": (Tcp, TcpExpect),
    "curl": (Curl, CurlExpect),
    "parallel": (Parallel, ParallelExpect),
    "dns": (Dns, NothingExpected),
    "sleep": (float, NothingExpected),
    "validate": (Validate, ValidateExpect),
}


# --- files --------------------------------------------------------------------------------------------


class RawCase(Strict, frozen=True, kw_only=True):
    id: Scalar  # a bare 163 is a number to YAML
    do: dict[str, Data]
    expect: dict[str, Data] = {}
    basis: Literal["observed", "seed", "both"] | None = None
    client: Identity | None = None
    repeat: int = 1
    note: str | None = None


class RawFixture(Strict, frozen=True, kw_only=True):
    schema: Literal["egress-fixture/1"]
    id: Scalar
    title: str = ""
    seeds: list[Scalar] = []
    profile: Literal["istio", "osm"] = "istio"
    compat: Scalar | None = None
    options: dict[str, Scalar] = {}
    world: str = "world.yaml"
    client: Identity = Identity()
    warmup: float | None = None
    policies: list[dict[str, Data]] = []
    allow: list[str] = []  # --allow, in place of policies
    cases: list[RawCase]
    note: str | None = None


class Case(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    action: Action
    expect: Expect
    client: Identity
    repeat: int


class Fixture(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    path: Path
    profile: str
    compat: str | None
    options: dict[str, Scalar]
    world: Path
    warmup: float | None  # seconds after the proxy is ready
    policies: list[dict[str, Data]]
    allow: list[str]
    cases: list[Case]


class WorldPki(Strict, frozen=True):
    lab_root: str = ""
    files: dict[str, str] = {}


class WorldFile(Strict, frozen=True, kw_only=True):
    """The outside as the file describes it; world.py and sites.py give the sentences their meaning."""

    schema: Literal["egress-world/1"]
    networks: dict[str, dict[str, Scalar]]
    interception: list[dict[str, str] | str]
    hosts: dict[str, list[str]]
    dns_special: dict[str, str] = {}
    addresses_outside: str = ""
    ports: dict[int, str]
    http_server: dict[str, Data] = {}
    pki: WorldPki = WorldPki()


def read_yaml(path: Path) -> Data:
    """The one document in the file, as plain Python values."""
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, YAMLError, UnicodeDecodeError) as error:
        raise FixtureError(f"{path}: {error}") from error


def read_stream(path: Path) -> list[dict[str, Data]]:
    """All documents in the file."""
    return [each for each in YAML(typ="safe", pure=True).load_all(path.read_text(encoding="utf-8")) if each]


def _as(data: Data, kind: Any, where: str) -> Any:
    try:
        return msgspec.convert(data, type=kind)
    except msgspec.ValidationError as error:
        raise FixtureError(f"{where}: {error}") from error


def read_world(path: Path) -> WorldFile:
    return cast(WorldFile, _as(read_yaml(path), WorldFile, str(path)))


def read_fixture(path: Path, run: str) -> Fixture:
    """The fixture in a file; `run` makes `{{uniq}}` unique to this run."""
    raw = cast(RawFixture, _as(read_yaml(path), RawFixture, str(path)))
    if raw.allow and raw.policies:
        raise FixtureError(f"{path}: allow stands in place of policies")
    cases = [_case(each, raw, number, f"{path}: {each.id}", run) for number, each in enumerate(raw.cases)]
    return Fixture(
        id=str(raw.id),
        path=path,
        profile=raw.profile,
        compat=None if raw.compat is None else str(raw.compat),
        options=raw.options,
        world=path.parent / raw.world,
        warmup=raw.warmup,
        policies=raw.policies,
        allow=raw.allow,
        cases=cases,
    )


def _case(raw: RawCase, fixture: RawFixture, number: int, where: str, run: str) -> Case:
    if len(raw.do) != 1:
        raise FixtureError(f"{where}: do: expected exactly one of {', '.join(KINDS)}, got {list(raw.do)}")
    [(kind, fields)] = raw.do.items()
    if kind not in KINDS:
        raise FixtureError(f"{where}: do: {kind!r} is not one of {', '.join(KINDS)}")
    action, expect = KINDS[kind]
    uniq = f"{run}x{number}"
    done = _as(expand(fields, uniq), action, f"{where}: do.{kind}")
    _refuse_half_made(done, where)
    return Case(
        id=str(raw.id),
        action=done,
        expect=_as(expand(raw.expect, uniq), expect, f"{where}: expect"),
        client=raw.client or fixture.client,
        repeat=raw.repeat,
    )


def _refuse_half_made(action: Action, where: str) -> None:
    if isinstance(action, Http | Parallel):
        http = action.http if isinstance(action, Parallel) else action
        if http.host is None:
            raise FixtureError(f"{where}: do.http: host is missing")
    if isinstance(action, Tcp):
        for step in action.script:
            if sum(value is not None for value in msgspec.structs.astuple(step)) != 1:
                raise FixtureError(f"{where}: do.tcp.script: a step has exactly one of send, recv, ...")


_MACRO = re.compile(r"\{\{(uniq|repeat (?P<text>.*?) (?P<times>\d+))\}\}", re.DOTALL)


def expand(value: Data, uniq: str) -> Data:
    """The same value with `{{uniq}}` and `{{repeat TEXT N}}` replaced in every text."""
    if isinstance(value, str):
        return _MACRO.sub(lambda m: uniq if m["text"] is None else m["text"] * int(m["times"]), value)
    if isinstance(value, list):
        return [expand(item, uniq) for item in value]
    if isinstance(value, Mapping):
        return {expand(key, uniq): expand(item, uniq) for key, item in value.items()}
    if isinstance(value, date):  # YAML reads a bare 2018-12-21 as a date
        return value.isoformat()
    return value
