"""Policy files into typed documents, with file, line, resource and field path in every complaint. Pure.

A known kind is converted to the types of `istio_schema` or `osm_schema` and then checked by `istio_checks` or
`osm_checks`; what is rejected is left out, what is of an unknown kind is skipped with a note, and a field
nobody knows is a warning (`strict`: an error). Nothing is ignored without a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import Generic, TypeVar, cast

import msgspec
from msgspec import inspect

from mesh_iptables.policy import istio_checks, istio_schema, osm_checks, osm_schema
from mesh_iptables.policy.complaint import Complaint, Field, Place, Severity
from mesh_iptables.policy.durations import Duration, parse_duration
from mesh_iptables.policy.reader import RawDocument, Value, read

Spec = TypeVar("Spec")

Created = tuple[int, float]
"""When a document was made, for sorting: dated ones first by time, then the others by position."""


@dataclass(frozen=True, slots=True)
class Document(Generic[Spec]):
    """One accepted document; `field` is the place of its `spec`."""

    field: Field
    kind: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    created: Created
    spec: Spec


@dataclass(frozen=True, slots=True)
class Documents:
    """What a set of files holds: the accepted documents in input order, and everything there is to complain."""

    accepted: tuple[Document[msgspec.Struct], ...] = ()
    complaints: tuple[Complaint, ...] = ()

    def of(self, spec_type: type[Spec]) -> list[Document[Spec]]:
        """The documents of one kind, in input order."""
        found = [document for document in self.accepted if isinstance(document.spec, spec_type)]
        return cast("list[Document[Spec]]", found)


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one kind is read.

    `path` is where its fields are. `decisive`: without it more could be allowed than was written, so that a
    rejected one stops everything.
    """

    spec_type: type[msgspec.Struct]
    check: Callable[..., Iterator[Complaint]]
    versions: tuple[str, ...]
    path: tuple[str, ...] = ("spec",)
    decisive: bool = False


_ISTIO = ("v1alpha3", "v1beta1", "v1")
_V1ALPHA1 = ("v1alpha1",)
_MESH_SETTINGS = _Kind(
    istio_schema.MeshConfig, istio_checks.check_mesh_config, _V1ALPHA1, ("spec", "meshConfig"), decisive=True
)
_MESH_CONFIG_MAP = replace(_MESH_SETTINGS, versions=("v1",), path=("data", "mesh"))

_KINDS: Mapping[tuple[str, str], _Kind] = {
    ("install.istio.io", "IstioOperator"): _MESH_SETTINGS,
    ("networking.istio.io", "ServiceEntry"): _Kind(istio_schema.ServiceEntry, istio_checks.check_service_entry, _ISTIO),
    ("networking.istio.io", "WorkloadEntry"): _Kind(
        istio_schema.WorkloadEntry, istio_checks.check_workload_entry, _ISTIO
    ),
    ("networking.istio.io", "VirtualService"): _Kind(
        istio_schema.VirtualService, istio_checks.check_virtual_service, _ISTIO
    ),
    ("networking.istio.io", "DestinationRule"): _Kind(
        istio_schema.DestinationRule, istio_checks.check_destination_rule, _ISTIO
    ),
    ("networking.istio.io", "Sidecar"): _Kind(istio_schema.Sidecar, istio_checks.check_sidecar, _ISTIO, decisive=True),
    ("policy.openservicemesh.io", "Egress"): _Kind(osm_schema.Egress, osm_checks.check_egress, _V1ALPHA1),
    ("policy.openservicemesh.io", "UpstreamTrafficSetting"): _Kind(
        osm_schema.UpstreamTrafficSetting, osm_checks.check_upstream_traffic_setting, _V1ALPHA1
    ),
    ("specs.smi-spec.io", "HTTPRouteGroup"): _Kind(
        osm_schema.HttpRouteGroup, osm_checks.check_route_group, ("v1alpha4",)
    ),
    ("config.openservicemesh.io", "MeshConfig"): _Kind(
        osm_schema.OsmMeshConfig, osm_checks.check_mesh_config, ("v1alpha1", "v1alpha2"), decisive=True
    ),
}

_ENVELOPE = frozenset({"apiVersion", "kind", "metadata", "spec", "data", "status"})


def read_documents(
    sources: Iterable[tuple[str, bytes | str]], *, strict: bool = False, compat_1_0: bool = False
) -> Documents:
    """All documents of `sources`, which are pairs of a name for complaints and the content."""
    accepted: list[Document[msgspec.Struct]] = []
    complaints: list[Complaint] = []
    for file, data in sources:
        raw_documents, unreadable = read(file, data)
        complaints.extend(unreadable)
        for raw in raw_documents:
            reading = _Reading(position=len(accepted), strict=strict, compat_1_0=compat_1_0)
            document = reading.document(raw)
            complaints.extend(reading.complaints)
            if document is not None:
                accepted.append(document)
    return Documents(tuple(accepted), tuple(complaints))


class _Reading:
    """One raw document on its way to a typed one; what is wrong collects in `complaints`."""

    def __init__(self, *, position: int, strict: bool, compat_1_0: bool) -> None:
        self.complaints: list[Complaint] = []
        self._position = position
        self._unknown_field = Severity.ERROR if strict else Severity.WARNING
        self._compat_1_0 = compat_1_0

    def document(self, raw: RawDocument) -> Document[msgspec.Struct] | None:
        """The typed document, or None if it was empty, skipped or rejected."""
        value = _without_nulls(raw.value)
        if value is None:
            return None
        top = Place(raw.file, "", raw.lines).at()
        if not isinstance(value, dict):
            self.complaints.append(top.fatal("document-not-object", "a document must be a mapping with a kind"))
            return None
        metadata = _Metadata.of(value)
        kind = _text(value.get("kind"))
        resource = f"{kind or '?'}/{metadata.namespace}/{metadata.name or '?'}"
        top = replace(top, place=replace(top.place, resource=resource))
        if kind == "ConfigMap" and metadata.name == "istio":
            top = self._unpack_mesh(value, top)
        known = _kind(value, metadata)
        if known is None:
            self.complaints.append(_unknown_kind(kind, top))
            return None
        created = self._created(metadata, top)
        spec = self._spec(value, known, top)
        if spec is None or any(complaint.severity.rejects for complaint in self.complaints):
            self._reject(known, top)
            return None
        field = _below(top, known.path)
        return Document(field, kind, metadata.namespace, metadata.name, metadata.labels, created, spec)

    def _unpack_mesh(self, value: dict[str, Value], top: Field) -> Field:
        """Replace the text `data.mesh` by the YAML it holds; returns the top with the lines of both."""
        data = value.get("data")
        text = data.get("mesh") if isinstance(data, dict) else None
        if not isinstance(data, dict) or not isinstance(text, str):
            return top
        start = top.place.lines.get("data.mesh", 1)  # the text begins on the line after its key
        inner, unreadable = read(top.place.file, text)
        for complaint in unreadable:
            origin = replace(complaint.origin, line=complaint.origin.line + start, resource=top.place.resource)
            self.complaints.append(replace(complaint, origin=origin))
        settings = inner[0] if inner else RawDocument(top.place.file, {}, {})
        value["data"] = {"mesh": _without_nulls(settings.value)}
        lines = dict(top.place.lines)
        lines.update({f"data.mesh.{path}": line + start for path, line in settings.lines.items() if path})
        return replace(top, place=replace(top.place, lines=lines))

    def _created(self, metadata: _Metadata, top: Field) -> Created:
        if not metadata.created:
            return (1, self._position)
        try:
            return (0, _timestamp(metadata.created))
        except ValueError:
            field = top / "metadata" / "creationTimestamp"
            self.complaints.append(field.error("bad-timestamp", f"'{metadata.created}' is not an RFC 3339 time"))
            return (1, self._position)

    def _spec(self, value: dict[str, Value], known: _Kind, top: Field) -> msgspec.Struct | None:
        """The typed fields; complains about the version, and about fields that are unknown or wrong."""
        version = _text(value.get("apiVersion")).rpartition("/")[2]
        if version not in known.versions:
            expected = f"'{version}' is not one of {', '.join(known.versions)}; read as the last of them"
            self.complaints.append((top / "apiVersion").warning("unknown-version", expected))
        self._unknown(value.keys() - _ENVELOPE, top)
        inner: Value = value
        field = top
        for key in known.path:
            if field != top and isinstance(inner, dict):
                self._unknown(inner.keys() - {key}, field)
            inner = inner.get(key, {}) if isinstance(inner, dict) else inner
            field = field / key
        for unknown in _unknown_fields(_type_info(known.spec_type), inner, field):
            self._unknown([unknown.path.rpartition(".")[2]], replace(unknown, path=unknown.path.rpartition(".")[0]))
        try:
            spec = msgspec.convert(inner, known.spec_type, dec_hook=_convert_own_types)
        except msgspec.ValidationError as error:
            self.complaints.append(_type_complaint(error, inner, field))
            return None
        self.complaints.extend(known.check(spec, field, compat_1_0=self._compat_1_0))
        return spec

    def _unknown(self, names: Iterable[str], parent: Field) -> None:
        for name in sorted(names):
            text = "is not a field that egress policy knows: it has no effect"
            self.complaints.append((parent / name).complaint(self._unknown_field, "unknown-field", text))

    def _reject(self, known: _Kind, top: Field) -> None:
        if known.decisive:
            text = "is rejected, and without it more could be allowed than was written"
            self.complaints.append(top.fatal("decisive-document-rejected", text))


@dataclass(frozen=True, slots=True)
class _Metadata:
    name: str
    namespace: str
    created: str
    labels: Mapping[str, str]

    @classmethod
    def of(cls, value: dict[str, Value]) -> _Metadata:
        metadata = value.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        labels = metadata.get("labels")
        return cls(
            _text(metadata.get("name")),
            _text(metadata.get("namespace")) or "default",
            _text(metadata.get("creationTimestamp")),
            {key: _text(label) for key, label in labels.items()} if isinstance(labels, dict) else {},
        )


def _kind(value: dict[str, Value], metadata: _Metadata) -> _Kind | None:
    kind = _text(value.get("kind"))
    if kind == "ConfigMap" and metadata.name == "istio":
        data = value.get("data")
        return _MESH_CONFIG_MAP if isinstance(data, dict) and "mesh" in data else None
    return _KINDS.get((_text(value.get("apiVersion")).rpartition("/")[0], kind))


def _unknown_kind(kind: str, top: Field) -> Complaint:
    """A note; a warning where only the apiVersion is wrong, since such a document is meant to have an effect."""
    groups = [group for group, known in _KINDS if known == kind]
    if groups:
        return (top / "apiVersion").warning("unknown-kind", f"should begin with {groups[0]}/: skipped")
    return top.note("unknown-kind", "is of a kind that egress policy does not use: skipped")


def _text(value: Value) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _without_nulls(value: Value) -> Value:
    """The value without the keys that are null, which in Kubernetes means unset."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _timestamp(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _below(field: Field, path: Iterable[str]) -> Field:
    for key in path:
        field = field / key
    return field


# --- what msgspec says, in our words -----------------------------------------------------------------------


def _convert_own_types(expected: type, value: object) -> object:
    if expected is Duration:
        return parse_duration(value)
    if expected is object:
        return value
    raise NotImplementedError(expected)


@cache
def _type_info(spec_type: type[msgspec.Struct]) -> inspect.Type:
    return inspect.type_info(spec_type)


def _unknown_fields(expected: inspect.Type, value: Value, field: Field) -> Iterator[Field]:
    """Fields of mappings in `value` that the type does not have."""
    match expected:
        case inspect.StructType(fields=members) if isinstance(value, dict):
            types = {member.encode_name: member.type for member in members}
            for key, item in value.items():
                if key in types:
                    yield from _unknown_fields(types[key], item, field / key)
                else:
                    yield field / key
        case inspect.VarTupleType(item_type=inner) if isinstance(value, list):
            for number, item in enumerate(value):
                yield from _unknown_fields(inner, item, field / number)
        case inspect.DictType(value_type=inner) if isinstance(value, dict):
            for key, item in value.items():
                yield from _unknown_fields(inner, item, field / key)
        case inspect.UnionType(types=types_):
            for alternative in types_:
                yield from _unknown_fields(alternative, value, field)


_PATH = re.compile(r"(?s)^(.*?)(?: - at `(?:key in )?`?\$(.*?)`)?$")
_PORT_FIELDS = ("number", "port", "targetPort", "proxyListenPort", "ports")


def _type_complaint(error: msgspec.ValidationError, value: Value, field: Field) -> Complaint:
    """`Expected int, got str - at $.ports[0].number` as a complaint about the field it names."""
    found = _PATH.match(str(error))
    text, path = (found[1], found[2] or "") if found else (str(error), "")
    path = path.partition("[...]")[0]  # the value of some key, which msgspec does not name
    text = text.replace("`", "")
    field = replace(field, path=field.path + path)
    last = re.split(r"[.\[]", path)[-1]
    if "is not a duration" in text or "longer than ten years" in text:
        return field.error("bad-duration", text)
    shown = _shown(value, path)
    identifier = "bad-port" if last in _PORT_FIELDS and isinstance(shown, int) else "bad-type"
    text = text[:1].lower() + text[1:]
    return field.error(identifier, f"{shown!r}: {text}" if isinstance(shown, int | float | str) else text)


def _shown(value: Value, path: str) -> Value:
    """The value at a path such as `.ports[0].number`."""
    for key, number in re.findall(r"\.([^.\[]+)|\[(\d+)\]", path):
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and number and int(number) < len(value):
            value = value[int(number)]
    return value
