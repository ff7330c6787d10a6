"""What a fixture may say, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from .schema import FixtureError, Http, expand, read_fixture

HEAD = "schema: egress-fixture/1\nid: x\ncases:\n"


def fixture_with(folder: Path, case: str) -> Path:
    path = folder / "x.yaml"
    path.write_text(HEAD + f"  - {case}\n")
    return path


def test_case_becomes_a_typed_action(tmp_path: Path) -> None:
    path = fixture_with(tmp_path, "{id: a, do: {http: {host: h, path: '/{{uniq}}'}}, expect: {status: 200}}")
    [case] = read_fixture(path, "run").cases
    assert isinstance(case.action, Http)
    assert case.action.path == "/runx0"


@pytest.mark.parametrize(
    ("case", "complaint"),
    [
        ("{id: a, do: {http: {host: h, pth: /}}, expect: {}}", "pth"),
        ("{id: a, do: {http: {host: h}}, expect: {stauts: 200}}", "stauts"),
        ("{id: a, do: {http: {host: h}, tls: {host: h}}, expect: {}}", "exactly one"),
        ("{id: a, do: {ping: {host: h}}, expect: {}}", "ping"),
        ("{id: a, do: {http: {path: /}}, expect: {}}", "host is missing"),
        ("{id: a, do: {tcp: {host: h, port: 1, script: [{send: x, recv: 1}]}}, expect: {}}", "exactly one"),
        ("{id: a, do: {sleep: 1}, expect: {status: 200}}", "status"),
    ],
)
def test_unknown_or_half_made_cases_are_refused(tmp_path: Path, case: str, complaint: str) -> None:
    with pytest.raises(FixtureError, match=complaint):
        read_fixture(fixture_with(tmp_path, case), "run")


def test_macros_are_expanded_at_any_depth() -> None:
    assert expand([{"a": "{{repeat x= 3}}"}, "{{uniq}}-{{uniq}}"], "u") == [{"a": "x=x=x="}, "u-u"]
