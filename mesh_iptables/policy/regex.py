"""RE2, the one kind of regular expression a policy may use: linear in its input, as in Envoy."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import re2  # type: ignore[import-untyped]  # the binding carries no types

_MAX_PROGRAM_BYTES = 8 << 20  # RE2's own default, stated because it is what bounds a hostile expression


@lru_cache(maxsize=4096)
def full_match(pattern: str, *, ignore_case: bool = False) -> Callable[[str], bool]:
    """A test whether `pattern` matches a whole Latin-1 decoded text. Raises ValueError for what RE2 refuses."""
    compiled = _compile(pattern, ignore_case=ignore_case)
    match = compiled.fullmatch
    # bytes, as Envoy sees them; it is also twice as fast as text, whose offsets the binding converts
    return lambda text: match(text.encode("latin-1", "replace")) is not None


@lru_cache(maxsize=4096)
def substitution(pattern: str, replacement: str) -> Callable[[str], str]:
    r"""A function that replaces every match in a Latin-1 decoded text; `\1` are groups, `\0` is the match.

    Raises ValueError for an expression or a group that RE2 does not have.
    """
    compiled = _compile(pattern)
    template = _pieces(replacement, groups=compiled.groups)

    def expand(match: re2._Match) -> bytes:
        return b"".join(piece if isinstance(piece, bytes) else (match[piece] or b"") for piece in template)

    def replace(text: str) -> str:
        replaced: bytes = compiled.sub(expand, text.encode("latin-1", "replace"))
        return replaced.decode("latin-1")

    return replace


def check(pattern: str) -> None:
    """Raise ValueError, with RE2's own words, if `pattern` is no valid expression."""
    full_match(pattern)


def check_substitution(pattern: str, replacement: str) -> None:
    """Raise ValueError if the two do not fit each other."""
    substitution(pattern, replacement)


def _compile(pattern: str, *, ignore_case: bool = False) -> re2._Regexp:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_PROGRAM_BYTES
    options.case_sensitive = not ignore_case
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise ValueError(_text(error)) from error
    except UnicodeEncodeError as error:  # a lone surrogate, which YAML can spell
        raise ValueError("not valid UTF-8") from error


def _text(error: Exception) -> str:
    detail = error.args[0] if error.args else error
    return detail.decode("utf-8", "replace") if isinstance(detail, bytes) else str(detail)


def _pieces(replacement: str, *, groups: int) -> list[bytes | int]:
    r"""RE2's rewrite syntax: `\0`-`\9` and `\\`, nothing else after a backslash."""
    pieces: list[bytes | int] = []
    characters = iter(replacement)
    for character in characters:
        if character != "\\":
            pieces.append(character.encode("utf-8", "replace"))
            continue
        escaped = next(characters, "")
        if escaped == "\\":
            pieces.append(b"\\")
        elif escaped in "0123456789" and escaped:
            pieces.append(_group(int(escaped), groups))
        else:
            raise ValueError(rf"'\{escaped}' in the substitution is neither a group nor '\\'")
    return pieces


def _group(number: int, groups: int) -> int:
    if number > groups:
        raise ValueError(f"the expression has {groups} groups, the substitution names group {number}")
    return number
