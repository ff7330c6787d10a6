"""Manifests for the tests of the injector."""

from __future__ import annotations

from pathlib import Path

from mesh_iptables.inject.values import Data

GOLDEN = Path(__file__).parent / "golden"
TEMPLATES = {
    "Pod": ("v1", ()),
    "Deployment": ("apps/v1", ("spec", "template")),
    "StatefulSet": ("apps/v1", ("spec", "template")),
    "DaemonSet": ("apps/v1", ("spec", "template")),
    "ReplicaSet": ("apps/v1", ("spec", "template")),
    "ReplicationController": ("v1", ("spec", "template")),
    "Job": ("batch/v1", ("spec", "template")),
    "CronJob": ("batch/v1", ("spec", "jobTemplate", "spec", "template")),
    "PodTemplate": ("v1", ("template",)),
}
_SELECTOR: dict[str, Data] = {"selector": {"matchLabels": {"app": "web"}}}
_MORE: dict[str, dict[str, Data]] = {
    "Deployment": _SELECTOR,
    "StatefulSet": {**_SELECTOR, "serviceName": "web"},
    "DaemonSet": _SELECTOR,
    "ReplicaSet": _SELECTOR,
    "CronJob": {"schedule": "@daily"},
}


def template(kind: str = "Pod") -> dict[str, Data]:
    """A Pod template without any more than it needs."""
    spec: dict[str, Data] = {"containers": [{"name": "web", "image": "web", "ports": [{"containerPort": 8080}]}]}
    if kind in ("Job", "CronJob"):
        spec["restartPolicy"] = "Never"
    return {"metadata": {"labels": {"app": "web"}}, "spec": spec}


def workload(kind: str, inner: dict[str, Data] | None = None) -> dict[str, Data]:
    """A valid object of a kind, around a template."""
    version, steps = TEMPLATES[kind]
    found: dict[str, Data] = inner or template(kind)
    for step in reversed(steps):
        more = _MORE.get(kind, {}) if step == "template" and kind != "CronJob" else {}
        found = {**more, step: found}
    if kind == "CronJob" and isinstance(found["spec"], dict):
        found["spec"] |= _MORE[kind]
    metadata: dict[str, Data] = {"name": "web"}
    if not steps and isinstance(found["metadata"], dict):
        metadata |= found["metadata"]
    return {"apiVersion": version, "kind": kind, **found, "metadata": metadata}


def pod(annotations: dict[str, Data] | None = None, **spec: Data) -> dict[str, Data]:
    """A Pod with annotations, and fields of its spec beside or instead of the usual."""
    inner = template()
    usual = inner["spec"]
    assert isinstance(usual, dict)
    metadata: dict[str, Data] = {"annotations": dict(annotations)} if annotations else {}
    return workload("Pod", {"metadata": metadata, "spec": usual | spec})


def found(document: Data, *path: str | int) -> Data:
    """What a document holds at a path; a name steps into the item of a list that has it."""
    for part in path:
        if isinstance(document, dict):
            document = document[str(part)]
        elif isinstance(document, list):
            named = (item for item in document if isinstance(item, dict) and item.get("name") == part)
            document = document[part] if isinstance(part, int) else next(named)
    return document
