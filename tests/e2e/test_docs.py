r"""The commands that README.md, docs/ and the examples' pages show do what is shown.

Run is every `$` line of a block that is fenced as `console`, from the top of the repository; what it prints, standard
error included, is compared with the lines below it, of which one that is `...` stands for any others, and `…` for
anything in its line; where none is shown, any will do of a command that succeeds. A command goes on behind a `\` at
the end of its line, and to the end of its here-document. All blocks of a file run one after the other in one shell. A
comment in the line above a block changes that:

    <!-- in a namespace -->     the file's commands run as root in network, process and mount namespaces made for them,
                                with a /run of their own; what still runs at the end is ended
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
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from ruamel.yaml import YAML

from mesh_iptables.policy.compile import compile_sources
from mesh_iptables.policy.settings import Settings
from tests.netns.namespace import ROOT

pytestmark = pytest.mark.e2e

BLOCK = re.compile(
    r"^(?:(?P<above>[^\n]*)\n)?(?P<indent> *)```(?P<language>\w*)\n(?P<body>.*?)^ *```$", re.MULTILINE | re.DOTALL
)
IN_NAMESPACE, NOT_RUN = "<!-- in a namespace -->", re.compile(r"<!-- not run: .+ -->")
HERE_DOCUMENT = re.compile(r"<<'?(\w+)'?")
LINK = re.compile(r"\]\((?!\w+:)(?P<path>[^)#]*)(?:#(?P<heading>[^)]*))?\)")
END = "--- end of the output ---"
# /run is where names of network namespaces are kept, which must be seen by nobody else.
PRIVATE = (
    *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"),
    'mount -t tmpfs -o mode=755 tmpfs /run && ip link set lo up && exec sh -c "$0"',
)


@dataclass(frozen=True)
class Shown:
    """A command as a page shows it, and what it is to print."""

    command: str
    output: str


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language, but those that are marked as not run."""
    found = (block for block in BLOCK.finditer(text) if block["language"] == language)
    return [textwrap.dedent(block["body"]) for block in found if not NOT_RUN.search(block["above"] or "")]


def shown(text: str) -> list[Shown]:
    """The commands of a page that are to be run."""
    parts = [part for body in blocks(text, "console") for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]]
    return [_shown(part) for part in parts]


def _shown(part: str) -> Shown:
    lines = part.splitlines()
    last = next(number for number, line in enumerate(lines) if not line.endswith("\\"))
    if document := HERE_DOCUMENT.search(lines[last]):
        last = lines.index(document[1], last)
    return Shown("\n".join(lines[: last + 1]), "\n".join(lines[last + 1 :]).strip("\n"))


def matches(expected: str, printed: str) -> bool:
    """Whether the output is as shown; `...` in a line of its own stands for any lines, `…` for any part of a line."""
    lines = [".*" if line.strip() == "..." else _pattern(line.rstrip()) for line in expected.splitlines()]
    said = "\n".join(line.rstrip() for line in printed.strip("\n").splitlines())
    return re.fullmatch("\n".join(lines), said, flags=re.DOTALL) is not None


def _pattern(line: str) -> str:
    return r"[^\n]*".join(re.escape(part) for part in line.split("…"))


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


def _pages() -> list[Path]:
    return [
        ROOT / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "examples").glob("*/README.md")),
    ]


def _case(page: Path) -> object:
    marks = [pytest.mark.netns] if IN_NAMESPACE in page.read_text() else []
    return pytest.param(page, marks=marks, id=str(page.relative_to(ROOT)))


@pytest.mark.parametrize("page", [_case(page) for page in _pages() if shown(page.read_text())])
def test_page_shows_what_its_commands_print(page: Path) -> None:
    text = page.read_text()
    commands = shown(text)
    results = printed_by(commands, private=IN_NAMESPACE in text)
    for each, (printed, status) in zip(commands, results, strict=False):
        right = matches(each.output, printed) if each.output else status == "0"
        assert right, f"$ {each.command}\nprints\n{printed}\nand not\n{each.output}"
    assert len(results) == len(commands), f"the shell ended behind $ {commands[len(results) - 1].command}"


@pytest.mark.parametrize("page", _pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.finditer(page.read_text()):
        target = page.parent / unquote(link["path"]) if link["path"] else page
        assert target.exists(), link[0]
        if link["heading"]:
            assert link["heading"] in _headings(target), link[0]


def _headings(page: Path) -> set[str]:
    """The anchors that a viewer of Markdown makes of a page's headings."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", _pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_yaml_can_be_read(page: Path) -> None:
    for block in blocks(page.read_text(), "yaml"):
        assert [*YAML(typ="safe", pure=True).load_all(block)]


@pytest.mark.parametrize("page", _pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_stand_where_they_are_run(page: Path) -> None:
    """No command hides in an indented block, which nothing would run; those of `text` show what is no command."""
    outside = BLOCK.sub("", page.read_text())
    hidden = re.findall(r"\n\n {4,}(?:\$ )?((?:scripts/|mesh-iptables |docker |pip |ip |ln ).*)", outside)
    assert not hidden


def test_commands_in_the_ci_snippets_run() -> None:
    page = (ROOT / "docs/how-to/ci-golden-files.md").read_text()
    github, gitlab = (YAML(typ="safe", pure=True).load(block) for block in blocks(page, "yaml"))
    steps = [step["run"] for job in github["jobs"].values() for step in job["steps"] if "run" in step]
    lines = [*steps, *(line for job in gitlab.values() for line in job["script"])]
    commands = [Shown(line, "") for line in lines if not line.startswith("pip install ")]  # which needs a network
    assert len(commands) == 4
    assert {status for _, status in printed_by(commands, private=False)} == {"0"}


@pytest.mark.parametrize("name", ["pod.yaml", "web.yaml"])
def test_example_manifest_is_one_with_a_policy(name: str) -> None:
    """Kubernetes takes it, names the images of Dockerfile.init where it names ours, and its policy has no mistake."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    documents = [*YAML(typ="safe", pure=True).load_all(ROOT / "examples" / name)]
    for document in documents:
        kubernetes_validate.validate(document, "1.37", strict=True)
    policies = [(key, text) for each in documents if "data" in each for key, text in each["data"].items()]
    assert policies
    assert not compile_sources(policies, (), Settings()).complaints
    images = re.findall(r"image: (mesh-iptables-\w+)", (ROOT / "examples" / name).read_text())
    assert all(f" -t {image} ." in (ROOT / "Dockerfile.init").read_text() for image in images)


@pytest.mark.parametrize("picture", sorted((ROOT / "docs").rglob("*.svg")), ids=lambda path: path.name)
def test_picture_is_whole_and_shown(picture: Path) -> None:
    assert ElementTree.parse(picture).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert any(f"]({picture.name})" in page.read_text() for page in picture.parent.glob("*.md"))


def test_blocks_are_read_as_described() -> None:
    page = "<!-- not run: no such host -->\n```console\n$ no\n```\n"
    page += "text\n  ```console\n  $ a \\\n    b\n  1\n  $ c\n  ```\n```yaml\na: 1\n```\n"
    page += "```console\n$ cat >f <<'END'\nx\n\nEND\n2\n```\n"
    assert shown(page) == [Shown("a \\\n  b", "1"), Shown("c", ""), Shown("cat >f <<'END'\nx\n\nEND", "2")]
    assert blocks(page, "yaml") == ["a: 1\n"]
    assert matches("1\n...\n4", "1\n2\n3\n4\n")
    assert not matches("1\n4", "1\n2\n4")
    assert matches("a…c", "abbc")
    assert not matches("a…c", "ab\nbc")
