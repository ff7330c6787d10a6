"""YAML or JSON text into plain values that remember their lines. Pure.

The text may be hostile: aliases that multiply, nesting without end, repeated keys and tags that ask for objects
are complaints, never a crash or a long wait. Nothing but null, booleans, numbers, text, lists and mappings with
text keys comes out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from mesh_iptables.policy.complaint import Complaint, Severity
from mesh_iptables.policy.model import Origin

Value = None | bool | int | float | str | list["Value"] | dict[str, "Value"]

MAX_BYTES = 4 << 20
MAX_DEPTH = 100
MAX_VALUES = 300_000  # after aliases are written out

_MAX_OPEN_BRACKETS = 4 * MAX_DEPTH  # some may stand in text
_BRACKET = re.compile(r"[\[\]{}]")
_CORE = "tag:yaml.org,2002:"
_KEPT_AS_TEXT = frozenset({"str", "timestamp", "value"})


@dataclass(frozen=True, slots=True)
class RawDocument:
    """One document: its value, and the line (from 1) of each field by path; the path of the whole is empty."""

    file: str
    value: Value
    lines: Mapping[str, int]


class _Refused(Exception):
    """A document cannot be taken; carries the id, the line and the words of the complaint."""

    def __init__(self, identifier: str, line: int, text: str) -> None:
        super().__init__(text)
        self.identifier = identifier
        self.line = line


def read(file: str, data: bytes | str) -> tuple[list[RawDocument], list[Complaint]]:
    """All documents of one file, members of `kind: List` one by one. A complaint means: the file is unusable."""
    documents: list[RawDocument] = []
    try:
        for document in _documents(file, _text(data)):
            documents.extend(_members(document))
    except _Refused as refusal:
        origin = Origin(file, refusal.line, "")
        return documents, [Complaint(Severity.FATAL, refusal.identifier, origin, str(refusal))]
    return documents, []


def _text(data: bytes | str) -> str:
    if len(data) > MAX_BYTES:
        raise _Refused("yaml-too-large", 1, f"the file is larger than {MAX_BYTES >> 20} MiB")
    text = data if isinstance(data, str) else _decoded(data)
    _check_brackets(text)
    # JSON may be indented by tabs, YAML may not; inside JSON text a bare tab cannot occur
    return text.replace("\t", " ") if text.lstrip()[:1] in ("{", "[") else text


def _check_brackets(text: str) -> None:
    """Refuse text that opens brackets by the hundred, on which the parser would spend seconds."""
    depth = 0
    for bracket in _BRACKET.finditer(text):
        depth = depth + 1 if bracket[0] in "[{" else max(depth - 1, 0)
        if depth > _MAX_OPEN_BRACKETS:
            line = text.count("\n", 0, bracket.start()) + 1
            raise _Refused("yaml-too-deep", line, f"opens more than {_MAX_OPEN_BRACKETS} brackets")


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _Refused("yaml-not-utf8", line, f"byte {error.start} is not UTF-8") from error


def _documents(file: str, text: str) -> Iterator[RawDocument]:
    parser = YAML(typ="safe", pure=True)
    parser.composer.warn_double_anchors = False  # YAML allows them; the warning would go to standard error
    try:
        for node in parser.compose_all(text):
            if node is not None:
                conversion = _Conversion()
                value = conversion.value(node, "", 0)
                yield RawDocument(file, value, conversion.lines)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        detail = " ".join(part for part in (error.context, error.problem) if part)
        raise _Refused("yaml-syntax", mark.line + 1 if mark else 1, f"not YAML: {detail}") from error
    except RecursionError as error:
        raise _Refused("yaml-too-deep", 1, "is nested too deeply") from error
    except (YAMLError, ValueError, TypeError, AttributeError, IndexError, KeyError, AssertionError) as error:
        # the parser reports some malformed input by whatever exception its own code happens to hit
        detail = str(error).partition("\n")[0]
        raise _Refused("yaml-syntax", _line_in(error), f"not YAML: {detail}") from error


def _line_in(error: Exception) -> int:
    position = getattr(error, "line", None)
    return position + 1 if isinstance(position, int) else 1


class _Conversion:
    """One document's nodes into a value, noting lines on the way."""

    def __init__(self) -> None:
        self.lines: dict[str, int] = {}
        self._count = 0

    def value(self, node: Node, path: str, depth: int) -> Value:
        line = node.start_mark.line + 1
        self.lines[path] = line
        self._count += 1
        if self._count > MAX_VALUES:
            raise _Refused("yaml-too-large", line, f"holds more than {MAX_VALUES} values")
        if depth > MAX_DEPTH:  # an alias to its own parent ends here too
            raise _Refused("yaml-too-deep", line, f"is nested more than {MAX_DEPTH} levels deep")
        if isinstance(node, MappingNode):
            _check_tag(node, "map")
            return self._mapping(node, path, depth)
        if isinstance(node, SequenceNode):
            _check_tag(node, "seq")
            return [self.value(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(node.value)]
        return _scalar(node)

    def _mapping(self, node: MappingNode, path: str, depth: int) -> Value:
        mapping: dict[str, Value] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = _key(key_node)
            if key in mapping:
                raise _Refused("yaml-duplicate-key", line, f"the key '{key}' is there twice")
            below = f"{path}.{key}" if path else key
            mapping[key] = self.value(value_node, below, depth + 1)
            self.lines[below] = line
        return mapping


def _key(node: Node) -> str:
    line = node.start_mark.line + 1
    if not isinstance(node, ScalarNode):
        raise _Refused("yaml-key", line, "a key must be text")
    if _short_tag(node) == "merge":
        raise _Refused("yaml-merge", line, "merge keys ('<<') are not supported: write the fields out")
    return _checked_text(node)


def _scalar(node: Node) -> Value:
    tag, text = _short_tag(node), node.value
    line = node.start_mark.line + 1
    if tag in _KEPT_AS_TEXT:
        return _checked_text(node)
    try:
        match tag:
            case "null":
                return None
            case "bool":
                return str(text).lower() in ("true", "yes", "on", "y")  # the last three: %YAML 1.1
            case "int":
                return _integer(text)
            case "float":
                return _number(text)
    except ValueError as error:
        raise _Refused("yaml-syntax", line, f"'{text[:80]}' is not a number") from error
    raise _Refused("yaml-tag", line, f"the tag '{node.tag}' is not supported")


def _integer(text: str) -> int:
    digits = text.replace("_", "")
    if len(digits) > 40:
        raise ValueError(digits)
    lower = digits.lower().lstrip("+-")
    base = {"0x": 16, "0o": 8, "0b": 2}.get(lower[:2], 10)
    return int(digits, base)


def _number(text: str) -> float:
    text = text.replace("_", "").lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _checked_text(node: Node) -> str:
    text = str(node.value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise _Refused("yaml-not-utf8", node.start_mark.line + 1, "text holds half a surrogate pair")
    return text


def _check_tag(node: Node, expected: str) -> None:
    if _short_tag(node) != expected:
        raise _Refused("yaml-tag", node.start_mark.line + 1, f"the tag '{node.tag}' is not supported")


def _short_tag(node: Node) -> str:
    return str(node.tag).removeprefix(_CORE)


def _members(document: RawDocument) -> Iterator[RawDocument]:
    """The items of a `kind: List` (or `SomethingList` with items), else the document itself."""
    value = document.value
    if not isinstance(value, dict) or not str(value.get("kind", "")).endswith("List"):
        yield document
        return
    items = value.get("items")
    lines = _lines_of_items(document.lines)
    for number, item in enumerate(items if isinstance(items, list) else []):
        yield RawDocument(document.file, item, lines[number])


_ITEM = re.compile(r"items\[(\d+)\]\.?")


def _lines_of_items(lines: Mapping[str, int]) -> Mapping[int, Mapping[str, int]]:
    """The lines of each item, by paths that begin in the item."""
    found: dict[int, dict[str, int]] = defaultdict(dict)
    for path, line in lines.items():
        item = _ITEM.match(path)
        if item:
            found[int(item[1])][path[item.end() :]] = line
    return found
