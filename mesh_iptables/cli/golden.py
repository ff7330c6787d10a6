"""`golden`: compare what a dry run prints with files that were looked at once and are right."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from mesh_iptables.cli.rules import rendered
from mesh_iptables.errors import Difference, MeshIptablesError, UsageError, shown
from mesh_iptables.golden import Case, difference, parse_case

PATHS = click.argument("paths", nargs=-1, required=True, metavar="PATH…")


@click.group()
def golden() -> None:
    """Compare the rules of given arguments with golden files, for CI.

    Each file holds the words behind `mesh-iptables render` in lines that begin with `# args:` (settings of the
    environment first), and below its head the output they must give. A folder means every *.txt in it.
    """


@golden.command()
@PATHS
def check(paths: tuple[str, ...]) -> int:
    """Print a unified diff for each file whose output is another now; exit status 10 if there is one."""
    cases = list(_cases(paths))
    differences = [found for case in cases if (found := difference(case, actual(case)))]
    print("".join(differences), end="")
    print(f"{len(cases) - len(differences)} of {len(cases)} golden files agree", file=sys.stderr)
    return Difference.exit_status if differences else 0


@golden.command()
@PATHS
def update(paths: tuple[str, ...]) -> int:
    """Rewrite the expected output of each file, and name those that changed."""
    for case in _cases(paths):
        now = actual(case)
        if now != case.expected:
            Path(case.path).write_text(case.head + now, encoding="utf-8", errors="surrogateescape")
            print(case.path)
    return 0


def actual(case: Case) -> str:
    """What `render` prints for a case now; for arguments that are refused, the complaint."""
    try:
        return rendered(case.words, case.environment)
    except MeshIptablesError as error:
        return f"mesh-iptables: {error}\n"


def _cases(paths: tuple[str, ...]) -> Iterator[Case]:
    for path in paths:
        for file in sorted(Path(path).rglob("*.txt")) if Path(path).is_dir() else [Path(path)]:
            try:
                text = file.read_text(encoding="utf-8", errors="surrogateescape")
            except OSError as error:
                raise UsageError(f"{shown(str(file))}: cannot be read: {error.strerror}") from None
            yield parse_case(str(file), text)
