"""Golden files: read, compared, and our own all right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mesh_iptables.cli.golden import actual
from mesh_iptables.errors import UsageError
from mesh_iptables.golden import difference, parse_case

CASES = sorted((Path(__file__).parents[1] / "golden").rglob("*"))
FILES = [path for path in CASES if path.is_file()]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_golden_file_of_ours_agrees(path: Path) -> None:
    assert path.suffix == ".txt", "no test reads this file"
    case = parse_case(path.name, path.read_text())
    assert difference(case, actual(case)) == ""


def test_there_are_golden_files() -> None:
    assert len(FILES) >= 20


def test_the_head_holds_environment_words_and_comments() -> None:
    case = parse_case("x", "# A=1 is not read\n# args: A=1 B='x y' mesh-iptables render -i '*'\n# args: -x ''\n# out\n")
    assert case.environment == {"A": "1", "B": "x y"}
    assert case.words == ("-i", "*", "-x", "")
    assert case.expected == "# out\n"


@pytest.mark.parametrize("text", ["", "# nothing\nout\n", "# args: 'open\n"])
def test_a_file_without_arguments_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^x: "):
        parse_case("x", text)


def test_a_difference_is_a_unified_diff() -> None:
    case = parse_case("x.txt", "# args: -i '*'\na\nb\n")
    assert difference(case, "a\nb\n") == ""
    assert difference(case, "a\nc").splitlines()[:2] == ["--- x.txt", "+++ rendered now"]
    assert "\\ no newline at the end" in difference(case, "a\nc")


def test_refused_arguments_have_their_complaint_as_output() -> None:
    assert actual(parse_case("x", "# args: -p x\n")).startswith("mesh-iptables: -p: 'x' is not a port")


def golden(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mesh_iptables", "golden", *words], capture_output=True, text=True)


def test_check_ends_with_10_on_a_difference_and_update_mends_it(tmp_path: Path) -> None:
    case = tmp_path / "case.txt"
    case.write_text("# args: --format restore -u 1337 -i '*'\nwrong\n")
    found = golden("check", str(tmp_path))
    assert found.returncode == 10
    assert "-wrong" in found.stdout
    assert "0 of 1 golden files agree" in found.stderr
    assert golden("update", str(case)).stdout == f"{case}\n"
    assert golden("check", str(case)).returncode == 0
    assert golden("update", str(case)).stdout == ""
    assert golden("check", str(tmp_path / "gone.txt")).returncode == 1
