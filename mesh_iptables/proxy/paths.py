"""Request targets as Envoy sees them: absolute form taken apart, dot segments removed. Pure."""

from __future__ import annotations

import re

_ABSOLUTE = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE)
_PLAIN = re.compile(r"(?:/(?!\.)[A-Za-z0-9!$&'()*+,\-:;=@\[\]_~.]*)+")  # nothing to be done
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~.")
_ESCAPED = {ord(character): f"%{ord(character):02X}" for character in '"<>^`{|}'}
# A dot segment may carry parameters (`..;x`), but not when its dots are escaped
_DOTS = re.compile(r"(?:(\.\.?)(?:;.*)?|((?:\.|%2[eE]){1,2}))")


def split_absolute(target: str) -> tuple[str, str] | None:
    """Authority and origin-form of an absolute-form target; None for any other form."""
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        return None
    return match[1].rpartition("@")[2], match[2] or "/"


def normalised(target: str) -> str:
    """`target` as Envoy's `normalize_path` leaves it; the query is not touched.

    Dot segments are resolved (a path cannot climb above its root), backslashes become slashes, escapes of unreserved
    characters are undone, characters that no path may hold are escaped. Empty segments and escaped slashes stay.
    """
    path, mark, query = target.partition("?")
    if _PLAIN.fullmatch(path):
        return target
    return _resolved(path.replace("\\", "/")) + mark + query


def _resolved(path: str) -> str:
    segments = path.split("/")[1:]
    kept: list[str] = []
    for number, segment in enumerate(segments):
        dots = _dots(segment)
        if not dots:
            kept.append(_ESCAPE.sub(_unescaped, segment).translate(_ESCAPED))
            continue
        if dots == 2 and kept:
            kept.pop()
        if number == len(segments) - 1:
            kept.append("")  # "/a/." is the directory "/a/"
    return "/" + "/".join(kept)


def _dots(segment: str) -> int:
    """1 or 2 for a dot segment, 0 for any other."""
    match = _DOTS.fullmatch(segment)
    if match is None:
        return 0
    return len(match[1]) if match[1] else len(match[2].lower().replace("%2e", "."))


def _unescaped(match: re.Match[str]) -> str:
    character = chr(int(match[1], 16))
    return character if character in _UNRESERVED else match[0]
