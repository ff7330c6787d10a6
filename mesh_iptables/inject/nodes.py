"""YAML text into nodes that know their place in it, and nodes into plain values. Pure.

The text may be hostile: aliases that multiply, nesting without end and repeated keys are refused, never a crash.
Scalars mean what YAML 1.1 makes of them (`yes` is true, `0644` octal), as for Kubernetes.
"""

from __future__ import annotations

import re

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from mesh_iptables.inject.values import Data, Path

MAX_CHARACTERS = 4 << 20
MAX_DEPTH = 100
MAX_VALUES = 300_000  # after aliases are written out

_BRACKET = re.compile(r"[\[\]{}]")
_MAX_OPEN_BRACKETS = 4 * MAX_DEPTH  # some may stand in text
_TAG = "tag:yaml.org,2002:"
_TRUE = frozenset({"y", "yes", "true", "on"})


class Unreadable(Exception):
    """The text is not YAML, or holds more than anybody would write; with its line, from 1."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


def compose(text: str) -> list[Node]:
    """The root nodes of all documents that hold something. Raises Unreadable."""
    if len(text) > MAX_CHARACTERS:
        raise Unreadable(1, f"is larger than {MAX_CHARACTERS >> 20} MiB")
    _check_brackets(text)
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 1)
    yaml.composer.warn_double_anchors = False  # YAML allows them; the warning would go to standard error
    try:
        return [node for node in yaml.compose_all(text) if node is not None]
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        detail = " ".join(part for part in (error.context, error.problem) if part)
        raise Unreadable(mark.line + 1 if mark else 1, f"is not YAML: {detail}") from error
    except RecursionError as error:
        raise Unreadable(1, "is nested too deeply") from error
    except (YAMLError, ValueError, TypeError, AttributeError, IndexError, KeyError, AssertionError) as error:
        # the parser reports some malformed input by whatever exception its own code happens to hit
        raise Unreadable(1, f"is not YAML: {str(error).partition(chr(10))[0]}") from error


def _check_brackets(text: str) -> None:
    """Refuse text that opens brackets by the hundred, on which the parser would spend seconds."""
    depth = 0
    for bracket in _BRACKET.finditer(text):
        depth = depth + 1 if bracket[0] in "[{" else max(depth - 1, 0)
        if depth > _MAX_OPEN_BRACKETS:
            raise Unreadable(text.count("\n", 0, bracket.start()) + 1, "is nested too deeply")


def plain(node: Node) -> Data:
    """The value of a node, aliases and merge keys written out. Raises Unreadable."""
    return _Conversion().value(node, 0)


class _Conversion:
    """One document into a value, counting."""

    def __init__(self) -> None:
        self._count = 0

    def value(self, node: Node, depth: int) -> Data:
        self._count += 1
        if self._count > MAX_VALUES:
            raise Unreadable(_line(node), f"holds more than {MAX_VALUES} values")
        if depth > MAX_DEPTH:  # an alias to its own parent ends here too
            raise Unreadable(_line(node), f"is nested more than {MAX_DEPTH} levels deep")
        if isinstance(node, MappingNode):
            return self._mapping(node, depth)
        if isinstance(node, SequenceNode):
            return [self.value(item, depth + 1) for item in node.value]
        return _scalar(node)

    def _mapping(self, node: MappingNode, depth: int) -> dict[str, Data]:
        found: dict[str, Data] = {}
        merged: dict[str, Data] = {}
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                for source in self._merged(value_node, depth):
                    merged = source | merged
                continue
            key = key_of(key_node)
            if key in found:
                raise Unreadable(_line(key_node), f"has the key {key!r} twice")
            found[key] = self.value(value_node, depth + 1)
        return merged | found

    def _merged(self, node: Node, depth: int) -> list[dict[str, Data]]:
        value = self.value(node, depth + 1)
        sources = value if isinstance(value, list) else [value]
        if not all(isinstance(source, dict) for source in sources):
            raise Unreadable(_line(node), "merges what is not a mapping")
        return [source for source in sources if isinstance(source, dict)]


def key_of(node: Node) -> str:
    """The key that a node is: its text. Raises Unreadable where it is a collection."""
    if not isinstance(node, ScalarNode):
        raise Unreadable(_line(node), "has a key that is not text")
    return str(node.value)


def _scalar(node: Node) -> Data:
    text, tag = str(node.value), str(node.tag).removeprefix(_TAG)
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() in _TRUE
    try:
        if tag == "int":
            return _integer(text)
        if tag == "float" and (number := float(text)) == number:
            return number
    except (ValueError, OverflowError):  # 1:30 and the like, which nothing that is read here may be
        pass
    return text


def _integer(text: str) -> int:
    digits = text.replace("_", "")
    sign, digits = (-1, digits[1:]) if digits[:1] == "-" else (1, digits.removeprefix("+"))
    if digits[:1] == "0" and digits.isdigit():
        return sign * int(digits, 8)
    return sign * int(digits, 0)


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def line_of(node: Node, path: Path) -> int:
    """The line, from 1, of the value at `path`, or of the innermost one above it that is there."""
    line = _line(node)
    for part in path:
        child = _child(node, part)
        if child is None:
            break
        line, node = child
    return line


def _child(node: Node, part: str | int) -> tuple[int, Node] | None:
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if isinstance(key, ScalarNode) and key.value == part:
                return _line(key), value
    elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
        return _line(node.value[part]), node.value[part]
    return None


def text_at(node: Node, key: str) -> str:
    """The text of a scalar field of a mapping; "" where there is none."""
    child = _child(node, key)
    return str(child[1].value) if child and isinstance(child[1], ScalarNode) else ""
