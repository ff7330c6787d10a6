"""The text of a manifest file in, the same text with our parts out. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

from ruamel.yaml.nodes import MappingNode, Node

from mesh_iptables.inject.nodes import Unreadable, compose, line_of, plain, text_at
from mesh_iptables.inject.pod import Owner, inject_template, misplaced
from mesh_iptables.inject.rewrite import Unwritable, rewrite
from mesh_iptables.inject.values import Data, Path, Refused, Remark, Settings, mapping, mappings

Fields = dict[str, Data]
_TEMPLATE = ("spec", "template")
# Where the Pod template of each kind is.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "Pod": (),
    "Deployment": _TEMPLATE,
    "StatefulSet": _TEMPLATE,
    "DaemonSet": _TEMPLATE,
    "ReplicaSet": _TEMPLATE,
    "ReplicationController": _TEMPLATE,
    "Job": _TEMPLATE,
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "PodTemplate": ("template",),
}
_GROUPS = ("", "apps", "batch", "extensions")  # a Job of another group is something else


@dataclass(frozen=True, slots=True)
class Injected:
    """The text, unchanged with refusals; both kinds of complaints as `line: workload: text`."""

    text: str
    refusals: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Change:
    """A document, by its number, that gets our parts: where it is, without them, with them."""

    number: int
    place: str
    bare: Data
    after: Data


@dataclass(frozen=True, slots=True)
class _Workload:
    """One object that has a Pod template: itself, and where it stands in its document."""

    name: str
    kind: str
    fields: Fields
    path: Path


def inject(text: str, settings: Settings) -> Injected:
    """Give every workload of a file our parts. What is refused, and why, is in the result."""
    bom = "\ufeff" if text.startswith("\ufeff") else ""
    body = text.removeprefix(bom)
    try:
        return _inject(bom, body, settings)
    except Unreadable as error:
        return Injected(text, (f"{error.line}: {error}",), ())
    except RecursionError:
        return Injected(text, ("1: is nested too deeply",), ())


def _inject(bom: str, text: str, settings: Settings) -> Injected:
    refusals: list[str] = []
    warnings: list[str] = []
    changes: list[_Change] = []
    for number, node in enumerate(compose(text)):
        if not _may_hold_workloads(node):
            continue
        before = plain(node)
        bare, after = deepcopy(before), deepcopy(before)
        for workload, again in zip(_workloads(after, ()), _workloads(bare, ()), strict=True):
            refused, warned = _inject_workload(workload, again, settings)
            refusals += [_told(node, workload, remark) for remark in refused]
            warnings += [_told(node, workload, remark) for remark in warned]
        if after != before:
            changes.append(_Change(number, f"{line_of(node, ())}: {text_at(node, 'kind')}", bare, after))
    if refusals or not changes:
        return Injected(bom + text, tuple(refusals), tuple(warnings))
    return _written(bom, text, changes, tuple(warnings))


def _written(bom: str, text: str, changes: list[_Change], warnings: tuple[str, ...]) -> Injected:
    """Parts of an earlier run are taken out first, so that nothing but parts of ours is ever written."""
    try:
        cleared = rewrite(text, [(change.number, change.bare) for change in changes])
        return Injected(bom + rewrite(cleared, [(change.number, change.after) for change in changes]), (), warnings)
    except (Unwritable, Unreadable):
        reason = "anchors, merge keys or an unusual layout keep our parts from being put in; write them out"
        return Injected(bom + text, tuple(f"{change.place}: {reason}" for change in changes), warnings)


def _told(node: Node, workload: _Workload, remark: Remark) -> str:
    return f"{line_of(node, remark.path)}: {workload.name}: {remark.text}"


def _may_hold_workloads(node: Node) -> bool:
    """Whether to read a document at all: what is no workload is nobody's business here, however odd it is."""
    if not isinstance(node, MappingNode):
        return False
    kind, version = text_at(node, "kind"), text_at(node, "apiVersion")
    return _is_ours(kind.removesuffix("List"), version) or kind == "List"


def _is_ours(kind: str, version: str) -> bool:
    group = version.partition("/")[0] if "/" in version else ""
    return kind in TEMPLATES and group in _GROUPS


def _workloads(document: Data, path: Path, kind: str = "", version: str = "") -> Iterator[_Workload]:
    """The workloads of a document, lists taken apart; items of a typed list may leave out what the list says."""
    if not isinstance(document, dict):
        return
    kind, version = str(document.get("kind") or kind), str(document.get("apiVersion") or version)
    if kind.endswith("List"):
        items = document.get("items")
        for place, item in enumerate(items if isinstance(items, list) else ()):
            yield from _workloads(item, (*path, "items", place), kind.removesuffix("List"), version)
    elif _is_ours(kind, version):
        metadata = document.get("metadata")
        fields = metadata if isinstance(metadata, dict) else {}
        name = fields.get("name") or fields.get("generateName") or "without a name"
        yield _Workload(f"{kind}/{name}".replace("\n", " "), kind, document, path)


def _inject_workload(
    workload: _Workload, bare: _Workload, settings: Settings
) -> tuple[tuple[Remark, ...], tuple[Remark, ...]]:
    """Change a workload in place, and its twin, which loses our parts; refusals and warnings."""
    steps = TEMPLATES[workload.kind]
    path = (*workload.path, *steps)
    annotated = (*workload.path, "metadata", "annotations")
    try:
        metadata = mapping(workload.fields.get("metadata"), annotated[:-1])
        owner = Owner(workload.kind, str(metadata.get("namespace") or ""), _claims(workload))
        annotations = mapping(metadata.get("annotations"), annotated)
        outcome = inject_template(_template(workload), path, owner, settings)
        if outcome.refusals:
            return outcome.refusals, outcome.warnings
        _put(workload, outcome.template)
        _put(bare, outcome.bare)
    except Refused as refused:
        return (refused.remark,), ()
    return (), outcome.warnings + (tuple(misplaced(annotations, annotated)) if steps else ())


def _template(workload: _Workload) -> Fields:
    """The Pod template of a workload. Raises Refused."""
    found, path = workload.fields, workload.path
    for step in TEMPLATES[workload.kind]:
        path = (*path, step)
        found = mapping(found.get(step), path)
    return found


def _put(workload: _Workload, template: Fields) -> None:
    """Give a workload, of which the template was found, another one. Raises Refused where there was none."""
    found = _template(workload)
    found.clear()
    found.update(template)


def _claims(workload: _Workload) -> frozenset[str]:
    """The volumes that each Pod of a StatefulSet gets by a claim. Raises Refused."""
    path = (*workload.path, "spec")
    templates = mappings(mapping(workload.fields.get("spec"), path).get("volumeClaimTemplates"), path)
    return frozenset(str(mapping(item.get("metadata"), path).get("name")) for item in templates)


def joined(texts: list[str]) -> str:
    """Several files as one stream of documents."""
    found = ""
    for text in texts:
        if found.strip():
            found += ("" if found.endswith("\n") else "\n") + ("" if text.startswith("---") else "---\n")
        found += text
    return found
