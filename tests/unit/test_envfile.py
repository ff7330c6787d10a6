"""Env files: what a shell would assign, and nothing that needs a shell."""

from __future__ import annotations

import pytest

from mesh_iptables.envfile import parse_env_file
from mesh_iptables.errors import UsageError


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("A=1", ("A", "1")),
        ("export A=1", ("A", "1")),
        ("  export  A=1  ", ("A", "1")),
        ("A=", ("A", "")),
        ("A='x y'", ("A", "x y")),
        ('A="x y"', ("A", "x y")),
        ("A='a'\"b\"c", ("A", "abc")),
        ("A=1 # comment", ("A", "1")),
        ("A=1#2", ("A", "1#2")),
        ("A='$x'", ("A", "$x")),
        ("A='\"'", ("A", '"')),
        ('A="\'"', ("A", "'")),
        ("A=*", ("A", "*")),
        ("A=b=c", ("A", "b=c")),
        ("A=10.0.0.0/8,11.0.0.0/8", ("A", "10.0.0.0/8,11.0.0.0/8")),
    ],
)
def test_assignments_are_read_as_a_shell_reads_them(line: str, expected: tuple[str, str]) -> None:
    assert [(name, value) for name, value, _ in parse_env_file(line.encode(), "f")] == [expected]


def test_empty_lines_and_comments_are_passed_over_and_lines_counted() -> None:
    assert list(parse_env_file(b"\n# A=0\n\nA=1\n", "f")) == [("A", "1", "f:4")]


@pytest.mark.parametrize(
    "line",
    [
        "A=$(id)",
        "A=`id`",
        "A=${B}",
        'A="$B"',
        "A=1;id",
        "A=1|id",
        "A=1&",
        "A=1>f",
        "A=1 id",
        "A= id",
        "A=\\",
        "A='open",
        'A="open',
        "id",
        "export A",
        "1A=2",
        "A-B=2",
        "if true; then",
        "A=1\r",
        "=1",
        "é=1",
    ],
)
def test_any_other_line_is_refused_by_file_and_line(line: str) -> None:
    with pytest.raises(UsageError, match=r"^/etc/x\.env:2: "):
        list(parse_env_file(f"OK=1\n{line}\n".encode(), "/etc/x.env"))


def test_bytes_that_are_no_text_are_kept_until_somebody_reads_them() -> None:
    assert next(parse_env_file(b"A=\xff", "f"))[1] == "\udcff"
