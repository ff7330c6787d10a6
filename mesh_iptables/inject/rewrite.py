"""Change some values inside of YAML text and leave all of its other bytes alone. Pure.

A document is compared with what it shall hold, and only where the two differ text is inserted, taken out or replaced,
at the places that the parser noted. Comments stay with the lines they stand on or above. What cannot be done in this
way (a part that an anchor shares with another, a field that comes by a merge key) shows when the result is read again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from mesh_iptables.inject.emit import block, json
from mesh_iptables.inject.nodes import compose, key_of, plain
from mesh_iptables.inject.values import Data

_ALIAS = re.compile(r"\s*:\s*\*[^\s,\[\]{}]+")
_DASH = re.compile(r"\n *-")
_BLOCK_SCALAR = ("|", ">")


@dataclass(frozen=True, slots=True)
class _Edit:
    """`text` instead of what stands from `start` to `end`."""

    start: int
    end: int
    text: str


class Unwritable(Exception):
    """The text cannot be changed in place."""


def rewrite(text: str, changes: list[tuple[int, Data]]) -> str:
    """The text in which each of these documents, by its number, holds that value. Raises Unwritable, Unreadable."""
    nodes = compose(text)
    writer = _Writer(text)
    wanted = dict(changes)
    edits = [edit for number, new in changes for edit in writer.value(nodes[number], plain(nodes[number]), new)]
    text = _applied(text, edits)
    found = compose(text)
    if len(found) != len(nodes) or any(plain(found[number]) != new for number, new in wanted.items()):
        raise Unwritable
    return text


def _applied(text: str, edits: list[_Edit]) -> str:
    """The text after all edits; those of one place in their order. Raises Unwritable where two overlap."""
    parts: list[str] = []
    place = 0
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
        if edit.start < place:
            raise Unwritable
        parts += [text[place : edit.start], edit.text]
        place = edit.end
    return "".join([*parts, text[place:]])


class _Writer:
    """Finds the edits; `text` is that of all documents, as the places count from its beginning."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._newline = "\r\n" if "\r\n" in text else "\n"

    def value(self, node: Node, old: Data, new: Data) -> Iterator[_Edit]:
        """Edits that make `new` of a node."""
        if old == new:
            return
        start, end = int(node.start_mark.index), self._end(node)
        if isinstance(node, MappingNode) and isinstance(old, dict) and isinstance(new, dict) and new:
            yield from self._flow_mapping(node, old, new) if node.flow_style else self._mapping(node, old, new)
        elif isinstance(node, SequenceNode) and isinstance(old, list) and isinstance(new, list) and new:
            yield from self._flow_sequence(node, old, new) if node.flow_style else self._sequence(node, old, new)
        else:
            yield _Edit(start, end, json(new))

    # --- block style ---------------------------------------------------------------------------------------

    def _mapping(self, node: MappingNode, old: dict[str, Data], new: dict[str, Data]) -> Iterator[_Edit]:
        indent = int(node.start_mark.column) if node.anchor is None else int(node.value[0][0].start_mark.column)
        fields = {key_of(key): (key, value) for key, value in node.value}
        offset = self._offset(node)
        before: str | None = None
        for key, item in new.items():
            if key in fields and key in old:
                yield from self._field(*fields[key], old[key], item)
                before = key
            elif key not in old:
                lines = self._block({key: item}, indent, offset)
                yield self._added(lines, indent, self._field_end(*fields[before]) if before else None, node)
        for number, (key_node, value_node) in enumerate(node.value):
            if key_of(key_node) not in new:
                following = node.value[number + 1][0].start_mark.index if number + 1 < len(node.value) else None
                yield self._removed(key_node.start_mark.index, self._field_end(key_node, value_node), following)

    def _field(self, key: Node, value: Node, old: Data, new: Data) -> Iterator[_Edit]:
        """A field's new value; also where nothing stands behind the key, which the parser sees behind comments."""
        if not _is_nothing(value) or old == new:
            yield from self.value(value, old, new)
            return
        indent = int(key.start_mark.column) + 2
        place = self._line_end(key.end_mark.index)
        yield _Edit(place, place, self._newline + " " * indent + self._block(new, indent, 2))

    def _sequence(self, node: SequenceNode, old: list[Data], new: list[Data]) -> Iterator[_Edit]:
        indent = self._dash(node, 0) - self._line_start(self._dash(node, 0))
        head, tail = _common(old, new)
        olds, news = range(head, len(old) - tail), new[head : len(new) - tail]
        if len(olds) == len(news):
            for number, item in zip(olds, news, strict=True):
                yield from self.value(node.value[number], old[number], item)
            return
        for number in olds:
            following = self._dash(node, number + 1) if number + 1 < len(old) else None
            yield self._removed(self._dash(node, number), self._end(node.value[number]), following)
        if news:
            offset = self._offset(node.value[0])
            lines = (self._newline + " " * indent).join(self._item(item, indent, offset) for item in news)
            yield self._added(lines, indent, self._end(node.value[head - 1]) if head else None, node)

    def _added(self, lines: str, indent: int, behind: int | None, node: Node) -> _Edit:
        """Lines behind the line in which a sibling ends; without one, in front of all."""
        margin = " " * indent
        if behind is not None:
            place = self._line_end(behind)
            return _Edit(place, place, self._newline + margin + lines)
        start = self._dash(node, 0) if isinstance(node, SequenceNode) else int(node.value[0][0].start_mark.index)
        place = self._line_start(start)
        if self._text[place:start].strip(" "):  # something else stands in front, like the dash of an outer list
            return _Edit(start, start, lines + self._newline + margin)
        while place and (above := self._text[self._line_start(place - 1) : place]).lstrip(" ").startswith("#"):
            place -= len(above)  # what is commented on is the sibling
        return _Edit(place, place, margin + lines + self._newline)

    def _removed(self, start: int, end: int, following: int | None) -> _Edit:
        """Whole lines; where something else stands in front on the first, everything up to the next sibling."""
        line_start = self._line_start(start)
        if not self._text[line_start:start].strip(" "):
            line_end = self._text.find("\n", end)
            return _Edit(line_start, line_end + 1 if line_end >= 0 else len(self._text), "")
        return _Edit(start, following if following is not None else end, "")

    def _block(self, value: Data, indent: int, offset: int) -> str:
        return self._newline.join(block(value, indent, offset))

    def _item(self, value: Data, indent: int, offset: int) -> str:
        return "- " + self._block(value, indent + 2, offset)

    def _offset(self, node: Node) -> int:
        """How far the user indents a list below its key: that of the first one here; 2 where there is none."""
        if isinstance(node, MappingNode):
            for key, value in node.value:
                if isinstance(value, SequenceNode) and not value.flow_style:
                    return max(int(value.start_mark.column) - int(key.start_mark.column), 0)
        return 2

    def _dash(self, node: SequenceNode, number: int) -> int:
        """Where the dash of an item stands: in front of it, in the column of the first."""
        first = int(node.start_mark.index)
        if self._text[first] != "-":  # an anchor or a tag, then the list on lines of its own
            found = _DASH.search(self._text, first)
            first = found.end() - 1 if found else first
        if number == 0:
            return first
        column = first - self._line_start(first)
        place = int(node.value[number].start_mark.index)
        while (place := self._text.rfind("-", 0, place)) > first:
            if place - self._line_start(place) == column:
                return place
        raise Unwritable

    # --- flow style ----------------------------------------------------------------------------------------

    def _flow_mapping(self, node: MappingNode, old: dict[str, Data], new: dict[str, Data]) -> Iterator[_Edit]:
        fields = {key_of(key): value for key, value in node.value}
        if old.keys() - new.keys():
            yield _Edit(node.start_mark.index, node.end_mark.index, json(new))
            return
        before: str | None = None
        for key, item in new.items():
            if key in fields:
                yield from self.value(fields[key], old[key], item)
                before = key
            else:
                field = json({key: item})[1:-1]
                yield self._flow_added(field, "{", node, self._end(fields[before]) if before else None)

    def _flow_sequence(self, node: SequenceNode, old: list[Data], new: list[Data]) -> Iterator[_Edit]:
        head, tail = _common(old, new)
        if len(old) == len(new):
            for item, before, after in zip(node.value, old, new, strict=True):
                yield from self.value(item, before, after)
            return
        if head + tail < len(old):
            yield _Edit(node.start_mark.index, node.end_mark.index, json(new))
            return
        items = json(new[head : len(new) - tail])[1:-1]
        yield self._flow_added(items, "[", node, self._end(node.value[head - 1]) if head else None)

    def _flow_added(self, text: str, bracket: str, node: Node, behind: int | None) -> _Edit:
        if behind is not None:
            return _Edit(behind, behind, f", {text}")
        start = self._text.index(bracket, node.start_mark.index) + 1
        return _Edit(start, start, f"{text}, " if node.value else text)

    # --- places --------------------------------------------------------------------------------------------

    def _field_end(self, key: Node, value: Node) -> int:
        if _is_nothing(value):
            return int(key.end_mark.index) + 1
        if value.start_mark.index < key.end_mark.index:  # an alias: the node is elsewhere
            alias = _ALIAS.match(self._text, key.end_mark.index)
            if alias is None:
                raise Unwritable
            return alias.end()
        return self._end(value)

    def _end(self, node: Node) -> int:
        """Where the last letter of a value stands; the parser's own mark is behind the comments that follow."""
        if isinstance(node, ScalarNode):
            return self._block_scalar_end(node) if node.style in _BLOCK_SCALAR else int(node.end_mark.index)
        if not isinstance(node, (MappingNode, SequenceNode)) or node.flow_style or not node.value:
            return int(node.end_mark.index)
        last = node.value[-1]
        return self._field_end(*last) if isinstance(node, MappingNode) else self._end(last)

    def _block_scalar_end(self, node: ScalarNode) -> int:
        """The end of the last line of the text; with `|+` of the last empty line behind it."""
        start = int(node.start_mark.index)
        end = self._line_end(start)
        header = self._text[start:end].partition("#")[0]
        keeps, says_indent = "+" in header, any(letter.isdigit() for letter in header)
        place, indent = self._text.find("\n", end) + 1, 0 if says_indent else -1
        while 0 < place < len(self._text):
            line_end = self._line_end(place)
            line = self._text[place:line_end]
            width = len(line) - len(line.lstrip(" "))
            if line.strip(" \t\r"):
                indent = width if indent < 0 else indent
                if width < indent or self._outside(node, width):
                    break
                end = line_end
            elif keeps:
                end = line_end
            place = self._text.find("\n", line_end) + 1
        return end

    def _outside(self, node: ScalarNode, width: int) -> bool:
        """Whether a line so indented can only be behind a text, also where the text has no line."""
        first = self._text[self._line_start(node.start_mark.index) :]
        return width <= len(first) - len(first.lstrip(" "))

    def _line_start(self, place: int) -> int:
        return self._text.rfind("\n", 0, place) + 1

    def _line_end(self, place: int) -> int:
        end = self._text.find("\n", place)
        if end < 0:
            return len(self._text)
        return end - 1 if end > place and self._text[end - 1] == "\r" else end


def _is_nothing(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.value == "" and node.style is None and node.anchor is None


def _common(old: list[Data], new: list[Data]) -> tuple[int, int]:
    """How many items at the head, and then at the tail, are the same."""
    shorter = min(len(old), len(new))
    head = next((number for number in range(shorter) if old[number] != new[number]), shorter)
    rest = shorter - head
    tail = next((number for number in range(rest) if old[-1 - number] != new[-1 - number]), rest)
    return head, tail
