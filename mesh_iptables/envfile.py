"""Read env files: `NAME=value` lines as a shell would take them, without a shell.

istio-iptables.sh sourced these files, so that whoever could write them could run anything as root. Pure.
"""

from __future__ import annotations

from mesh_iptables.errors import UsageError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def parse_env_file(content: bytes, path: str) -> Iterator[tuple[str, str, str]]:
    """Name, value and place (`path:line`) of each assignment; any other line raises UsageError."""
    for number, line in enumerate(content.decode(errors="surrogateescape").split("\n"), 1):
        place = f"{path}:{number}"
        if assignment := parse_assignment(line, place):
            yield *assignment, place


def parse_assignment(line: str, place: str) -> tuple[str, str] | None:
    """`[export] NAME=value`, or None for an empty line or a comment. Never executed, so anything else is refused."""
    text = line.strip(" \t")
    if not text or text.startswith("#"):
        return None
    name, equals, value = text.removeprefix("export ").lstrip(" \t").partition("=")
    if not equals or not name.isascii() or not name.isidentifier():
        raise UsageError(f"{place}: {shown(text)} is not a NAME=value line; no other is read, and none is executed")
    return name, _unquote(value, place)


_SHELL_SYNTAX = frozenset("$`\\;|&<>()\r")


def _unquote(value: str, place: str) -> str:
    """What a shell would make of the right side of an assignment, as long as that needs no shell."""
    words: list[str] = []
    quote = ""
    for position, letter in enumerate(value):
        if quote == "" and letter in " \t":
            if value[position:].strip(" \t") and not value[position:].lstrip(" \t").startswith("#"):
                raise UsageError(f"{place}: {shown(value)} has a blank outside quotes; expected one value, quoted")
            break
        if letter in "'\"" and quote in ("", letter):
            quote = "" if quote else letter
        elif quote != "'" and letter in (_SHELL_SYNTAX if quote == "" else "$`\\"):
            raise UsageError(
                f"{place}: {shown(value)} has {letter!r}, which only a shell could read; expected plain text"
            )
        else:
            words.append(letter)
    if quote:
        raise UsageError(f"{place}: {shown(value)} has a quote that does not end")
    return "".join(words)
