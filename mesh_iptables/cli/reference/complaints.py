"""Everything that `policy check` can say, read from the source of the checks.

An id, a severity and a text stand together in a call there: `(at / "hosts").error("se-no-host", "must name …")`. The
field is the last name behind `at`; where a function is handed the field, it is the one that its callers hand it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import mesh_iptables.policy.compile as compile_any
from mesh_iptables.cli.reference.tables import cell, code, table
from mesh_iptables.policy import (
    compile_fence,
    compile_istio,
    compile_osm,
    documents,
    istio_checks,
    istio_services,
    osm_checks,
    reader,
)

MODULES = (
    reader,
    documents,
    istio_checks,
    osm_checks,
    compile_any,
    compile_fence,
    compile_istio,
    compile_osm,
    istio_services,
)
SEVERITIES = ("note", "warning", "error", "fatal")


@dataclass(frozen=True)
class Complaint:
    """One complaint as the source has it, with `…` in its text for what is put in."""

    identifier: str
    severity: str
    text: str


def complaint_table(prefixes: tuple[str, ...] = (), without: tuple[str, ...] = ()) -> list[str]:
    """The complaints whose ids begin so, and not so."""
    found: dict[str, list[Complaint]] = {}
    for each in every_complaint():
        if each.identifier.startswith(prefixes or "") and not each.identifier.startswith(without):
            found.setdefault(each.identifier, []).append(each)
    return table(("id", "severity", "says"), (_row(name, found[name]) for name in sorted(found)))


def _row(identifier: str, found: Sequence[Complaint]) -> tuple[str, ...]:
    severities = dict.fromkeys(each.severity for each in found)
    texts = dict.fromkeys(each.text for each in found)
    return code(identifier), ", ".join(severities), "<br>".join(texts)


@cache
def every_complaint() -> tuple[Complaint, ...]:
    """All that any of the modules can say, in the order of their sources."""
    return tuple(each for module in MODULES for each in complaints(module))


def complaints(module: ModuleType) -> Iterator[Complaint]:
    """All that one module can say."""
    assert module.__file__
    tree = ast.parse(Path(module.__file__).read_text())
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            scope = _Scope(module, tree, function)
            for call in ast.walk(function):
                if isinstance(call, ast.Call):
                    yield from scope.complaints(call)


@dataclass(frozen=True)
class _Scope:
    """A function in its module: what a name in it means."""

    module: ModuleType
    tree: ast.Module
    function: ast.FunctionDef

    def complaints(self, call: ast.Call) -> Iterator[Complaint]:
        """Those that a call may make."""
        match call:
            case ast.Call(func=ast.Attribute(attr=severity, value=at), args=[name, text]) if severity in SEVERITIES:
                yield from self._each(name, severity, f"{self._field(at)} {self._text(text)}")
            case ast.Call(func=ast.Name(id="Complaint"), args=[ast.Attribute(attr=severity), name, _, text]):
                yield from self._each(name, severity.lower(), self._text(text))
            case ast.Call(func=ast.Name(id="one_of"), args=[at, name, _, words]):
                yield from self._each(name, "error", f"{self._field(at)} is not one of {self._words(words)}")
            case ast.Call(func=ast.Name(id="_Refused"), args=[name, _, text]):
                yield from self._each(name, "fatal", self._text(text))
            case ast.Call(func=ast.Attribute(attr="complaint"), args=[_, name, text]):
                yield from self._each(name, "warning; error with `--strict`", self._text(text))

    def _each(self, name: ast.expr, severity: str, text: str) -> Iterator[Complaint]:
        for identifier in self._identifiers(name):
            yield Complaint(identifier, severity, cell(text))

    def _identifiers(self, node: ast.expr) -> Iterator[str]:
        """An id as it is written, or the two of a variable that is set to one or the other."""
        match node:
            case ast.Constant(value=str(name)):
                yield name
            case ast.IfExp(body=body, orelse=other):
                yield from self._identifiers(body)
                yield from self._identifiers(other)
            case ast.Name(id=variable) if found := self._assigned(variable, node.lineno):
                yield from self._identifiers(found)

    def _text(self, node: ast.expr) -> str:
        match node:
            case ast.Constant(value=str(text)):
                return text
            case ast.JoinedStr(values=parts):
                return "".join(map(self._text, parts))
            case ast.FormattedValue(value=ast.Name() as variable):
                return self._text(variable)
            case ast.IfExp(body=body, orelse=other):
                return f"{self._text(body)} or {self._text(other)}"
            case ast.Name(id=name) if found := self._assigned(name, node.lineno):
                return self._text(found)
        return "…"

    def _words(self, node: ast.expr) -> str:
        words = getattr(self.module, node.id) if isinstance(node, ast.Name) else ast.literal_eval(node)
        return ", ".join(map(str, words))

    def _field(self, at: ast.expr) -> str:
        """The last name in `at / "ports" / number / "name"`; `here` is looked up, and `at` at the callers."""
        name = self._last(at)
        if not name and isinstance(at, ast.Name):
            handed = {self._in(caller)._last(argument) for caller, argument in self._handed()}
            name = handed.pop() if len(handed) == 1 else ""
        return code(name)

    def _last(self, at: ast.expr) -> str:
        match at:
            case ast.BinOp(op=ast.Div(), right=ast.Constant(value=str(name))):
                return name
            case ast.BinOp(op=ast.Div(), left=left):
                return self._last(left)
            case ast.Name(id="here" | "endpoints") if found := self._assigned(at.id, at.lineno):
                return self._last(found)
        return ""

    def _in(self, function: ast.FunctionDef) -> _Scope:
        return _Scope(self.module, self.tree, function)

    def _handed(self) -> Iterator[tuple[ast.FunctionDef, ast.expr]]:
        """What callers in this module hand over as `at`, with the caller."""
        names = [argument.arg for argument in self.function.args.args]
        if "at" not in names:
            return
        for caller in _functions(self.tree):
            for call in ast.walk(caller):
                if (
                    isinstance(call, ast.Call)
                    and isinstance(call.func, ast.Name)
                    and call.func.id == self.function.name
                ):
                    yield caller, call.args[names.index("at")]

    def _assigned(self, name: str, line: int) -> ast.expr | None:
        """What a variable was last set to above a line."""
        found = [
            node.value
            for node in ast.walk(self.function)
            if isinstance(node, ast.Assign)
            and node.lineno <= line
            and any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
        ]
        return max(found, key=lambda value: value.lineno, default=None)


def _functions(tree: ast.Module) -> Iterable[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
