"""The command line of the rules: one line for a wrong request, and no traceback ever."""

from __future__ import annotations

import pytest

from mesh_iptables.__main__ import is_plain_run
from mesh_iptables.cli import main, rules

from .bad_input import BAD, Bad


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("ENVOY_PORT", "ENVOY_USER", "MESH_IPTABLES_DIALECT"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_wrong_request_gets_one_line_and_status_1(
    bad: Bad, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in bad.environment.items():
        monkeypatch.setenv(name, value)
    # This is the machine's first network namespace, where `apply` stops before the kernel in any case.
    status = rules.run(["apply", *bad.words])
    out, err = capsys.readouterr()
    assert (status, out) == (1, "")
    assert err.startswith(f"mesh-iptables: {bad.begins}")
    assert err.count("\n") == 1
    assert len(err) < 300
    assert err.isascii()


def test_there_are_at_least_60_kinds_of_wrong_requests() -> None:
    assert len(BAD) >= 60


def test_the_program_without_a_command_is_the_script() -> None:
    for words in ([], ["-u", "1337"], ["clean"], ["apply", "-u", "1337"], ["render"]):
        assert is_plain_run(words)
    for words in (["-h"], ["-u", "1337", "--help"], ["render", "-h"], ["golden", "check"], ["--version"], ["nonsense"]):
        assert not is_plain_run(words)


def test_a_dry_run_of_apply_is_render(capsys: pytest.CaptureFixture[str]) -> None:
    assert rules.run(["-n", "-u", "1337", "-i", "*"]) == 0
    dry_run = capsys.readouterr().out
    assert rules.run(["render", "-u", "1337", "-i", "*"]) == 0
    assert capsys.readouterr().out == dry_run


def test_quiet_silences_warnings_and_not_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["render", "-u", "1337", "-d", "80"]
    assert rules.run(words) == 0
    loud = capsys.readouterr()
    assert rules.run([*words, "--quiet"]) == 0
    quiet = capsys.readouterr()
    assert loud.err.startswith("mesh-iptables: -d: ports are excluded only from")
    assert (quiet.out, quiet.err) == (loud.out, "")


def test_under_the_newer_name_a_call_for_help_shows_its_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/istio-iptables", "--help"])
    assert main.run(["--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: mesh-iptables istio-iptables [OPTIONS]")
