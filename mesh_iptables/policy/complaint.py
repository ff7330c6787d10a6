"""What is wrong with a document, and where. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from mesh_iptables.policy.model import Origin


class Severity(Enum):
    """NOTE: for your information. WARNING: used, but probably not as meant. ERROR: the document is left out.

    FATAL: nothing may be compiled without it, since what is left could allow more than was written.
    """

    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"
    FATAL = "fatal"

    @property
    def rejects(self) -> bool:
        return self in (Severity.ERROR, Severity.FATAL)


@dataclass(frozen=True, slots=True)
class Complaint:
    """One finding; `id` is stable and meant for machines, `text` for people."""

    severity: Severity
    id: str
    origin: Origin
    text: str

    def __str__(self) -> str:
        """`egress.yaml:14: Egress/curl/httpbin-80: spec.ports[0].protocol 'htpp' is not one of …`"""
        subject = f"{self.origin.field} {self.text}" if self.origin.field else self.text
        if not self.origin.line:  # not of a file
            return f"{self.origin}: {subject}"
        named = f"{self.origin.resource}: " if self.origin.resource else ""
        return f"{self.origin.file}:{self.origin.line}: {named}{subject}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one document stands: its file, and the line of each of its fields by path (`spec.ports[0].number`)."""

    file: str
    resource: str
    lines: Mapping[str, int]

    def origin(self, path: str = "") -> Origin:
        """The line of `path`, or of the nearest parent that was written."""
        return Origin(self.file, self._line(path), self.resource, path)

    def _line(self, path: str) -> int:
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.lines.get(path, 1)

    def at(self, path: str = "") -> Field:
        return Field(self, path)


@dataclass(frozen=True, slots=True)
class Field:
    """One field of one document: `at / "ports" / 0 / "number"` is a field below `at`."""

    place: Place
    path: str

    def __truediv__(self, key: str | int) -> Field:
        if isinstance(key, int):
            return Field(self.place, f"{self.path}[{key}]")
        return Field(self.place, f"{self.path}.{key}" if self.path else key)

    @property
    def origin(self) -> Origin:
        return self.place.origin(self.path)

    def complaint(self, severity: Severity, identifier: str, text: str) -> Complaint:
        return Complaint(severity, identifier, self.origin, text)

    def fatal(self, identifier: str, text: str) -> Complaint:
        return self.complaint(Severity.FATAL, identifier, text)

    def error(self, identifier: str, text: str) -> Complaint:
        return self.complaint(Severity.ERROR, identifier, text)

    def warning(self, identifier: str, text: str) -> Complaint:
        return self.complaint(Severity.WARNING, identifier, text)

    def note(self, identifier: str, text: str) -> Complaint:
        return self.complaint(Severity.NOTE, identifier, text)
