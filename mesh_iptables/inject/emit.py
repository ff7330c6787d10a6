"""New values as YAML text: block style for what a person reads, JSON inside of JSON. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mesh_iptables.inject.values import Data

_PLAIN = re.compile(r"[A-Za-z/](?:[A-Za-z0-9_./@-]|:(?=[A-Za-z0-9_./@-]))*")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})  # text that YAML 1.1 takes for others
_LETTERS = frozenset(map(chr, range(0x20, 0x7F))) - {'"', "\\"}


def block(value: Data, indent: int, offset: int) -> list[str]:
    """The lines of a value in block style. All but the first begin with `indent` blanks, for that one they are there.

    `offset` is by how much the dashes of a list stand further right than its key.
    """
    margin = " " * indent
    if isinstance(value, dict) and value:
        lines = [line for key, item in value.items() for line in _field(key, item, indent, offset)]
    elif isinstance(value, list) and _is_block(value):
        lines = [line for item in value for line in _item(item, indent, offset)]
    else:
        return [_inline(value)]
    return [lines[0].removeprefix(margin), *lines[1:]]


def _field(key: str, value: Data, indent: int, offset: int) -> Iterator[str]:
    margin, name = " " * indent, scalar(key)
    if isinstance(value, dict) and value:
        inner = indent + 2
    elif isinstance(value, list) and _is_block(value):
        inner = indent + offset
    else:
        yield f"{margin}{name}: {_inline(value)}"
        return
    yield f"{margin}{name}:"
    first, *rest = block(value, inner, offset)
    yield " " * inner + first
    yield from rest


def _item(value: Data, indent: int, offset: int) -> Iterator[str]:
    first, *rest = block(value, indent + 2, offset)
    yield " " * indent + f"- {first}"
    yield from rest


def _is_block(value: list[Data]) -> bool:
    return any(isinstance(item, (dict, list)) for item in value)


def _inline(value: Data) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        words = [str(item) for item in value]
        simple = all(scalar(word) == word for word in words)
        return f"[{', '.join(words if simple else map(quoted, words))}]"
    return json(value) if isinstance(value, (list, dict)) else scalar(value)


def scalar(value: Data) -> str:
    """Text with as few quotes as it needs, or a number, boolean or null."""
    if not isinstance(value, str):
        return json(value)
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    printable = all(" " <= letter <= "~" for letter in value)
    return f"'{value}'" if '"' in value and "'" not in value and printable else quoted(value)


def quoted(text: str) -> str:
    """Text in double quotes, in ASCII; the same in JSON as in YAML within the basic plane."""
    return '"' + "".join(letter if letter in _LETTERS else _escaped(letter) for letter in text) + '"'


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    return f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else f"\\U{ord(letter):08x}"


def json(value: Data) -> str:
    """A value in one line, as inside of JSON."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(key)}: {json(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(json, value))}]"
    if isinstance(value, str):
        return quoted(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
