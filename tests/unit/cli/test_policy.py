"""`mesh-iptables policy`: what is printed where, and with which status."""

from __future__ import annotations

import json
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mesh_iptables.cli.policy import policy
from mesh_iptables.cli.policy_options import read_sources
from mesh_iptables.errors import PolicyError, UsageError

_GOOD = """\
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
spec: {meshConfig: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a, namespace: ns1}
spec: {hosts: [a.example.com], exportTo: [.], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
"""
_BAD = _GOOD.replace("a.example.com", "a b")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.yaml").write_text(_GOOD)
    (tmp_path / "notes.txt").write_text("[")
    return tmp_path


def _run(*words: object, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(policy, [str(word) for word in words], env=env, standalone_mode=False)


def test_standard_input_is_still_known_when_it_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(_GOOD.encode())))
    pipes: dict[str, bytes] = {}
    first = read_sources(["-"], pipes)
    assert first == [("standard input", _GOOD.encode())]
    assert read_sources(["-"], pipes) == first  # and not an empty policy, which allows more


def test_check_is_silent_about_a_good_directory(folder: Path) -> None:
    result = _run("check", "--policy", folder)
    assert (result.return_value, result.output) == (0, "")


def test_check_prints_one_line_per_problem_with_its_severity_and_id(folder: Path) -> None:
    (folder / "bad.yml").write_text(_BAD)
    result = _run("check", "--policy", folder)
    assert result.return_value == 1
    assert result.stdout == (
        f"{folder}/bad.yml:8: ServiceEntry/ns1/a: spec.hosts[0] 'a b' is neither a DNS name nor '*.' and a DNS name"
        " (error se-host-syntax)\n"
    )


def test_check_answers_in_json(folder: Path) -> None:
    (folder / "bad.yaml").write_text(_BAD)
    result = _run("check", "--policy", folder / "bad.yaml", "--json")
    found = json.loads(result.stdout)
    assert found["valid"] is False
    assert found["complaints"][0]["id"] == "se-host-syntax"
    assert (found["complaints"][0]["line"], found["complaints"][0]["field"]) == (8, "spec.hosts[0]")


def test_the_identity_comes_from_options_or_the_environment(folder: Path) -> None:
    words = ("clusters", "--policy", folder, "--fqdn", "a.example.com", "-o", "json")
    assert json.loads(_run(*words).stdout) == []
    assert len(json.loads(_run(*words, "--namespace", "ns1").stdout)) == 1
    assert len(json.loads(_run(*words, env={"POD_NAMESPACE": "ns1"}).stdout)) == 1


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        (("http://a.example.com/x?y",), "allowed (route, allowed)"),
        (("http://b.example.com/",), "refused (answer, blocked_host)"),
        (("192.0.2.1:80", "--host", "a.example.com", "--header", "x: y"), "allowed (route, allowed)"),
        (("https://a.example.com/",), "refused (close, no_listener)"),
        (("http://a.example.com:8080/", "--to", "192.0.2.1"), "refused (close, no_listener)"),
        (("tcp://[2001:db8::1]:22",), "refused (close, no_listener)"),
    ],
)
def test_explain_tells_the_verdict_first(folder: Path, words: tuple[str, ...], verdict: str) -> None:
    result = _run("explain", *words, "--policy", folder, "--namespace", "ns1")
    assert result.stdout.splitlines()[0] == verdict


def test_explain_names_the_document(folder: Path) -> None:
    words = ("explain", "http://a.example.com/", "--policy", folder, "--namespace", "ns1")
    assert f"by {folder}/good.yaml:8: ServiceEntry/ns1/a: spec.ports[0]" in _run(*words).stdout
    found = json.loads(_run(*words, "--json").stdout)
    assert found["documents"][0]["resource"] == "ServiceEntry/ns1/a"
    assert found["clusters"][0]["endpoints"] == ["a.example.com:80"]


@pytest.mark.parametrize("destination", ["x", "192.0.2.1", "ftp://a.x/", "http://a:b/", ":80"])
def test_explain_refuses_what_is_no_destination(destination: str) -> None:
    assert isinstance(_run("explain", destination).exception, UsageError)


@pytest.mark.parametrize("command", ["listeners", "routes", "clusters"])
def test_tables_are_printed_as_lines_or_json(folder: Path, command: str) -> None:
    words = (command, "--policy", folder, "--namespace", "ns1")
    assert "NAME" in _run(*words).stdout.splitlines()[0]
    assert isinstance(json.loads(_run(*words, "-o", "json").stdout), list)


def test_an_allow_list_needs_no_file() -> None:
    result = _run("explain", "https://a.example.com/", "--allow", "*.example.com")
    assert result.stdout.startswith("allowed (tcp, allowed)")
    assert isinstance(_run("check", "--allow", "a b").exception, UsageError)


def test_envoy_prints_a_bootstrap(folder: Path) -> None:
    found = json.loads(_run("envoy", "--policy", folder, "--admin", "127.0.0.1:9901").stdout)
    assert found["admin"]["address"]["socket_address"]["port_value"] == 9901


def test_a_set_that_does_not_compile_gives_nothing(folder: Path) -> None:
    (folder / "broken.yaml").write_text("a: [")
    result = _run("envoy", "--policy", folder)
    assert isinstance(result.exception, PolicyError)
    assert result.stdout == ""
    assert "yaml-syntax" in result.stderr


@pytest.mark.parametrize("path", ["", "/nowhere/at/all.yaml", "\0"])
def test_a_file_that_cannot_be_read_is_named(path: str) -> None:
    assert isinstance(_run("check", "--policy", path).exception, UsageError)
