"""Golden files: the arguments of a dry run and the output it must have, in one file. Pure.

Lines that begin with `# args:` hold, as a shell would read them, first settings of the environment (`NAME=value`),
then the words behind `mesh-iptables render`; several such lines are one. Other `#` lines above them are comments. What
follows the last of them, to the byte, is the expected output, which may begin with `#` itself.
"""

from __future__ import annotations

import difflib
import shlex
from itertools import takewhile

from mesh_iptables.errors import UsageError
from mesh_iptables.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

ARGUMENTS = "# args:"
PROGRAMS = ("mesh-iptables", "istio-iptables", "istio-iptables.sh", "render")  # may stand before the options


class Case(Value):
    """One golden file: its head as it stands, what that says, and the expected output."""

    path: str
    head: str
    environment: Mapping[str, str]
    words: tuple[str, ...]
    expected: str


def parse_case(path: str, text: str) -> Case:
    """Read a golden file; raises UsageError where it holds no arguments."""
    lines = text.splitlines(keepends=True)
    top = takewhile(lambda line: line.startswith("#"), lines)
    count = max((number for number, line in enumerate(top, 1) if line.startswith(ARGUMENTS)), default=0)
    arguments = [line.removeprefix(ARGUMENTS) for line in lines[:count] if line.startswith(ARGUMENTS)]
    if not arguments:
        raise UsageError(f"{path}: has no '{ARGUMENTS}' line at its top; expected the words behind `render`")
    try:
        words = shlex.split(" ".join(arguments))
    except ValueError as error:
        raise UsageError(f"{path}: '{ARGUMENTS}' cannot be split into words: {error}") from None
    environment: dict[str, str] = {}
    while words and words[0].partition("=")[0].isidentifier() and "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    while words and words[0] in PROGRAMS:
        words.pop(0)
    return Case(path, "".join(lines[:count]), environment, tuple(words), "".join(lines[count:]))


def difference(case: Case, actual: str) -> str:
    """A unified diff from the expected output to the actual one; "" where they are equal."""
    lines = difflib.unified_diff(
        case.expected.splitlines(keepends=True), actual.splitlines(keepends=True), case.path, "rendered now"
    )
    return "".join(line if line.endswith("\n") else f"{line}\n\\ no newline at the end\n" for line in lines)
