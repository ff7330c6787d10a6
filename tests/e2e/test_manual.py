"""`scripts/manual` writes a man page that man can read, and completions."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.netns.namespace import ROOT

pytestmark = pytest.mark.e2e


def test_manual_and_completions_name_the_commands(tmp_path: Path) -> None:
    subprocess.run([ROOT / "scripts/manual", tmp_path], check=True)
    page = (tmp_path / "mesh-iptables.1").read_text()
    assert ".SS mesh\\-iptables apply\n" in page
    assert ".SS mesh\\-iptables golden check\n" in page
    assert {path.suffix for path in tmp_path.iterdir()} == {".1", ".bash", ".zsh", ".fish"}
    assert all("mesh-iptables" in path.read_text() for path in tmp_path.iterdir() if path.suffix != ".1")
    if shutil.which("man"):
        words = ["man", "--warnings", "--local-file", str(tmp_path / "mesh-iptables.1")]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert done.stderr == ""
