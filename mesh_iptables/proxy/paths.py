"""Request targets as Envoy sees them: absolute form taken apart, dot segments removed. Pure."""

from __future__ import annotations

import re

_ABSOLUTE = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://([^/?#]*)(.*)")
_DOT = re.compile(r"%2[eE]")


def split_absolute(target: str) -> tuple[str, str] | None:
    """Authority and origin-form of an absolute-form target; None for any other form."""
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        return None
    rest = match[3]
    return match[2].rpartition("@")[2], rest if rest.startswith("/") else f"/{rest}"


def normalised(target: str) -> str:
    """`target` with its dot segments resolved, also percent-encoded ones; the query is left alone.

    Empty segments (`//`) and escaped slashes stay. A path can not climb above its root.
    """
    path, mark, query = target.partition("?")
    if "\\" in path:
        path = path.replace("\\", "/")
    if "/." not in path and "%2" not in path:
        return path + mark + query
    return _resolved(path) + mark + query


def _resolved(path: str) -> str:
    segments = path.split("/")[1:]
    kept: list[str] = []
    for number, segment in enumerate(segments):
        name = _DOT.sub(".", segment)
        if name not in (".", ".."):
            kept.append(segment)
            continue
        if name == ".." and kept:
            kept.pop()
        if number == len(segments) - 1:
            kept.append("")  # "/a/." is the directory "/a/"
    return "/" + "/".join(kept)
