"""Mistakes in Pods that a schema lets pass and an API server does not, and two that let traffic escape. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal, InvalidOperation

from mesh_iptables.inject.values import (
    INIT,
    PROXY,
    PROXY_ID,
    Data,
    Path,
    Refused,
    Remark,
    mapping,
    mappings,
    sequence,
)

_PROBES = ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle")
_DECIMAL = ("n", "u", "m", "", "k", "M", "G", "T", "P", "E")
_SUFFIXES = {
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(_DECIMAL, -3)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", 1)},
}
Fields = dict[str, Data]


def check(spec: Fields, path: Path, claims: frozenset[str] = frozenset()) -> list[Remark]:
    """What is wrong in a Pod's spec, found at `path`; `claims` are volumes that a StatefulSet adds."""
    found: list[Remark] = []
    # what has another shape than a Pod's is for the schema to tell
    with suppress(Refused):
        found += _of_pod(spec, path, claims)
    return found


def _of_pod(spec: Fields, path: Path, claims: frozenset[str]) -> Iterator[Remark]:
    volumes = claims | {str(volume.get("name")) for volume in mappings(spec.get("volumes"), path)}
    seen: set[str] = set()
    for kind in ("initContainers", "containers"):
        for place, container in enumerate(mappings(spec.get(kind), (*path, kind))):
            below, name = (*path, kind, place), str(container.get("name"))
            if name in seen:
                yield Remark(below, f"there are two containers {name}")
            seen.add(name)
            for text in _of_container(container, below, volumes):
                yield Remark(below, f"container {name}: {text}")
            if kind == "initContainers" and container.get("restartPolicy") != "Always":
                for probe in set(_PROBES) & container.keys():
                    yield Remark((*below, probe), f"container {name}: an init container has no {probe}")
            if name not in (INIT, PROXY):
                for text in _escapes(container, mapping(spec.get("securityContext"), path), below):
                    yield Remark(below, f"container {name}: {text}")


def _of_container(container: Fields, path: Path, volumes: frozenset[str]) -> Iterator[str]:
    yield from _rights(mapping(container.get("securityContext"), path), path)
    for port in mappings(container.get("ports"), path):
        number = port.get("containerPort")
        if not isinstance(number, int) or not 0 < number < 65536:
            yield f"containerPort {number} is not a port from 1 to 65535"
    for mount in mappings(container.get("volumeMounts"), path):
        if str(mount.get("name")) not in volumes:
            yield f"mounts {mount.get('name')}, and there is no such volume"
    yield from _resources(mapping(container.get("resources"), path), path)


def _rights(context: Fields, path: Path) -> Iterator[str]:
    if context.get("allowPrivilegeEscalation") is not False:
        return
    if context.get("privileged") is True:
        yield "privileged and allowPrivilegeEscalation: false exclude each other"
    if {"SYS_ADMIN", "CAP_SYS_ADMIN", "ALL"} & _added(context, path):
        yield "CAP_SYS_ADMIN and allowPrivilegeEscalation: false exclude each other"


def _added(context: Fields, path: Path) -> set[str]:
    return set(map(str, sequence(mapping(context.get("capabilities"), path).get("add"), path)))


def _resources(resources: Fields, path: Path) -> Iterator[str]:
    limits = mapping(resources.get("limits"), path)
    for name, value in mapping(resources.get("requests"), path).items():
        request, limit = parse_quantity(value), parse_quantity(limits.get(name))
        if request is not None and limit is not None and request > limit:
            yield f"requests more {name} than its limit"


def parse_quantity(value: Data) -> Decimal | None:
    """`500m`, `1Gi`, `1e3` as a number; None where it is no quantity."""
    text = str(value)
    number = text.rstrip("numkKMGTPEi")
    try:
        found = Decimal(number) * _SUFFIXES[text[len(number) :]]
    except (InvalidOperation, KeyError):
        return None
    return found if found.is_finite() else None


def _escapes(container: Fields, pod: Fields, path: Path) -> Iterator[str]:
    context = mapping(container.get("securityContext"), path)
    for field, owner in (("runAsUser", "user"), ("runAsGroup", "group")):
        if context.get(field, pod.get(field)) == PROXY_ID:
            yield f"runs as the proxy's {owner} {PROXY_ID}, so that its connections are left alone"
    if context.get("privileged") is True or {"NET_ADMIN", "CAP_NET_ADMIN", "ALL"} & _added(context, path):
        yield "has NET_ADMIN, so that it can take the rules away"
