"""The commands that README.md and docs/ show do what is shown.

Run is every `$` line of a block that is fenced as `console`, from the top of the repository; what it prints, standard
error included, is compared with the lines below it, of which one that is `...` stands for any others; where none is
shown, any will do of a command that succeeds. All blocks of a file run one after the other in one shell. A comment in
the line above a block changes that:

    <!-- in a namespace -->     the file's commands run as root in a network namespace made for them
    <!-- not run: REASON -->    this block is not run
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.netns.namespace import ROOT

pytestmark = pytest.mark.e2e

BLOCK = re.compile(r"^(?P<above>[^\n]*)\n(?P<indent> *)```console\n(?P<body>.*?)^ *```$", re.MULTILINE | re.DOTALL)
IN_NAMESPACE, NOT_RUN = "<!-- in a namespace -->", re.compile(r"<!-- not run: .+ -->")
END = "--- end of the output ---"
# Where names of network namespaces are kept must be seen by nobody else.
PRIVATE = (
    "unshare",
    "--net",
    "--mount",
    "sh",
    "-c",
    'mount -t tmpfs tmpfs /run && ip link set lo up && exec sh -c "$0"',
)


@dataclass(frozen=True)
class Shown:
    """A command as a page shows it, and what it is to print."""

    command: str
    output: str


def shown(text: str) -> list[Shown]:
    """The commands of a page that are to be run."""
    bodies = [textwrap.dedent(found["body"]) for found in BLOCK.finditer(text) if not NOT_RUN.search(found["above"])]
    parts = [part for body in bodies for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]]
    return [_shown(part) for part in parts]


def _shown(part: str) -> Shown:
    command = re.match(r"(?:.*\\\n)*.*", part)
    assert command
    return Shown(command[0], part[command.end() :].strip("\n"))


def matches(expected: str, printed: str) -> bool:
    """Whether the output is as shown; `...` in a line of its own stands for any lines."""
    lines = [".*" if line.strip() == "..." else re.escape(line.rstrip()) for line in expected.splitlines()]
    said = "\n".join(line.rstrip() for line in printed.strip("\n").splitlines())
    return re.fullmatch("\n".join(lines), said, flags=re.DOTALL) is not None


def printed_by(commands: list[Shown], *, private: bool) -> list[tuple[str, str]]:
    """What each command prints, run in one shell, and its exit status."""
    script = "\n".join(f"{each.command}\necho '{END}' $?" for each in commands)
    words = [*PRIVATE, script] if private else ["sh", "-c", script]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": os.environ.get("HOME", "/"), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        words,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    return re.findall(rf"(.*?){END} (\d+)\n", done.stdout, flags=re.DOTALL)


def _pages() -> list[object]:
    pages: list[object] = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = path.read_text()
        if shown(text):
            marks = [pytest.mark.netns] if IN_NAMESPACE in text else []
            pages.append(pytest.param(path, marks=marks, id=str(path.relative_to(ROOT))))
    return pages


@pytest.mark.parametrize("page", _pages())
def test_page_shows_what_its_commands_print(page: Path) -> None:
    text = page.read_text()
    commands = shown(text)
    for each, (printed, status) in zip(commands, printed_by(commands, private=IN_NAMESPACE in text), strict=True):
        right = matches(each.output, printed) if each.output else status == "0"
        assert right, f"$ {each.command}\nprints\n{printed}\nand not\n{each.output}"


def test_blocks_are_read_as_described() -> None:
    page = "<!-- not run: no such host -->\n```console\n$ no\n```\n"
    page += "text\n  ```console\n  $ a \\\n    b\n  1\n  $ c\n  ```\n"
    assert shown(page) == [Shown("a \\\n  b", "1"), Shown("c", "")]
    assert matches("1\n...\n4", "1\n2\n3\n4\n")
    assert not matches("1\n4", "1\n2\n4")
