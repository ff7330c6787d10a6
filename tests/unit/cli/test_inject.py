"""`inject`: files in, one stream out, one line for whatever is wrong."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from mesh_iptables.cli.main import run

POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n    - name: a\n      image: a\n"
WRONG_OPTIONS = [
    (["--order", "first", "--sidecar", "classic"], "--order: "),
    (["--mode", "TPROXY"], "--mode: "),
    (["--init-image", ""], "--init-image: "),
    (["--proxy-image", "a b"], "--proxy-image: "),
    (["--config-map", "A"], "--config-map: "),
    (["--config-map", ""], "--config-map: "),
    (["--config-map", "a..b"], "--config-map: "),
    (["--dialect", "istio-9"], "Invalid value for '--dialect'"),
    (["-f", "/nowhere"], "-f: '/nowhere': "),
]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MESH_IPTABLES_DIALECT", raising=False)
    path = tmp_path / "pod.yaml"
    path.write_text(POD)
    return path


@pytest.mark.parametrize(("words", "begins"), WRONG_OPTIONS)
def test_a_wrong_option_is_refused(
    words: list[str], begins: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inject", "-f", str(file), *words]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"mesh-iptables: {begins}")
    assert err.count("\n") == 1


def test_several_files_and_standard_input_become_one_stream(
    file: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"a: b\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert run(["inject", "-f", "-", "-f", str(file)]) == 0
    out = capsysbinary.readouterr().out
    assert out.startswith(b"a: b\n---\napiVersion: v1\n")
    assert b"- name: mesh-iptables-init\n" in out


def test_nothing_comes_out_where_one_file_is_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = file.with_name("host.yaml")
    other.write_text(POD + "  hostNetwork: yes\n")
    assert run(["inject", "-f", str(file), "-f", str(other)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"mesh-iptables: {other}:8: Pod/a: hostNetwork: ")


def test_a_file_that_is_not_text_is_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_bytes(b"a: \xff\n")
    assert run(["inject", "-f", str(file)]) == 1
    assert "byte 3 is not UTF-8" in capsys.readouterr().err


def test_quiet_silences_warnings(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(POD.replace("{name: a}", "{name: a, annotations: {linkerd.io/inject: enabled}}"))
    assert run(["inject", "-f", str(file)]) == 0
    assert capsys.readouterr().err == (
        f"mesh-iptables: {file}:3: Pod/a: annotation linkerd.io/inject: has no effect here\n"
    )
    assert run(["inject", "-f", str(file), "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_the_dialect_may_come_from_the_environment(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESH_IPTABLES_DIALECT", "istio-1.2x")
    assert run(["inject", "-f", str(file)]) == 0
    assert '"--dialect", "istio-1.2x", "-z", "15006"' in capsys.readouterr().out


def test_a_missing_library_is_named_with_its_remedy(file: Path) -> None:
    code = (
        "import sys; sys.modules['ruamel.yaml'] = None\n"
        "from mesh_iptables.cli.main import run\n"
        f"raise SystemExit(run(['inject', '-f', {str(file)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    expected = "mesh-iptables: inject needs ruamel.yaml: pip install 'mesh-iptables[proxy]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (11, "", expected)
