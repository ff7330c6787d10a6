"""A Pod's template without our parts into one with them. Pure.

Where the rules stand among the init containers decides who has the network. Behind the others (`last`) those run as
before, ungoverned. In front (`first`) they are governed too, which takes a proxy that runs by then: a native sidecar.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace

from mesh_iptables.errors import UsageError, shown
from mesh_iptables.inject.annotations import (
    INJECT,
    ISTIO_STATUS,
    SWITCH,
    is_of_a_mesh,
    owners,
    read_annotations,
    without,
)
from mesh_iptables.inject.checks import check
from mesh_iptables.inject.containers import (
    Identity,
    check_rules,
    init_container,
    policy_volumes,
    proxy_container,
)
from mesh_iptables.inject.values import (
    ADMIN_PORT,
    INBOUND_PORT,
    INIT,
    OUTBOUND_PORT,
    POLICY,
    PROXY,
    STATUS,
    Data,
    Path,
    Refused,
    Remark,
    Settings,
    mapping,
    mappings,
    sequence,
)

Fields = dict[str, Data]
_OURS = {"initContainers": (INIT, PROXY), "containers": (PROXY,), "volumes": (POLICY,)}
_FOREIGN = frozenset(
    ("istio-init", "istio-validation", "istio-proxy", "linkerd-init", "linkerd-proxy", "kuma-init", "kuma-sidecar",
    "consul-connect-inject-init", "consul-dataplane", "osm-init")
)  # fmt: skip
_PORTS = {OUTBOUND_PORT: "outbound", INBOUND_PORT: "inbound", ADMIN_PORT: "admin"}


@dataclass(frozen=True, slots=True)
class Owner:
    """The workload that a template belongs to: its kind, its namespace if said, volumes that it adds to each Pod."""

    kind: str
    namespace: str
    claims: frozenset[str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A template with our parts and without them (as it was with refusals), and what there is to say."""

    template: Fields
    bare: Fields
    refusals: tuple[Remark, ...]
    warnings: tuple[Remark, ...]


def inject_template(template: Fields, path: Path, owner: Owner, settings: Settings) -> Outcome:
    """Give a Pod template, found at `path`, our parts; those of an earlier run are replaced."""
    try:
        bare = _stripped(template, path)
        if not _is_wanted(bare, path):
            return Outcome(bare, bare, (), (Remark(path, f'left alone, as {INJECT}: "false" says'),))
        return _injected(bare, template, path, owner, settings)
    except Refused as refused:
        return Outcome(template, template, (refused.remark,), ())


def _injected(bare: Fields, template: Fields, path: Path, owner: Owner, settings: Settings) -> Outcome:
    spec, where = mapping(bare.get("spec"), (*path, "spec")), (*path, "spec")
    _check_pod(spec, where)
    metadata = mapping(bare.get("metadata"), (*path, "metadata"))
    annotations = mapping(metadata.get("annotations"), (*path, "metadata", "annotations"))
    if ISTIO_STATUS in annotations:
        reason = "Istio's injector was here; take the manifest as it was before"
        raise Refused((*path, "metadata", "annotations", ISTIO_STATUS), f"annotation {ISTIO_STATUS}: {reason}")
    wishes = read_annotations(annotations, (*path, "metadata", "annotations"), settings)
    if wishes.refusals:
        return Outcome(template, template, wishes.refusals, wishes.warnings)
    mode = wishes.entries.get("mode", (settings.mode,))[0]
    if mode == "TPROXY" and settings.dialect == "istio-1.0":
        reason = "TPROXY brings inbound connections to the outbound port in dialect istio-1.0"
        raise Refused(path, f"{reason}; choose --dialect istio-1.2x")
    values = _rule_values(wishes.entries, spec, where, mode)
    try:
        notes = check_rules(values, wishes.sources, settings)
    except UsageError as error:
        raise Refused(path, str(error)) from error
    identity = _identity(metadata, spec, owner, path)
    after = _with_parts(bare, values, identity, replace(settings, mode=mode), path)
    warnings = [*wishes.warnings, *(Remark(path, note) for note in notes), *_hints(owner, settings, path)]
    warnings += check(mapping(after["spec"], where), where, owner.claims)
    return Outcome(after, bare, (), tuple(warnings))


def _hints(owner: Owner, settings: Settings, path: Path) -> Iterator[Remark]:
    if settings.sidecar == "classic" and owner.kind in ("Job", "CronJob"):
        yield Remark(
            path, "the proxy does not end when the others do, so the Job does not either; use a native sidecar"
        )


def _stripped(template: Fields, path: Path) -> Fields:
    """The template without the parts that an earlier run added. Raises Refused for parts of these names of others."""
    bare = deepcopy(template)
    metadata = mapping(bare.get("metadata"), (*path, "metadata"))
    annotations = mapping(metadata.get("annotations"), (*path, "metadata", "annotations"))
    spec = mapping(bare.get("spec"), (*path, "spec"))
    was_here = annotations.pop(STATUS, None) is not None
    if was_here and not annotations:
        del metadata["annotations"]
    for field, names in _OURS.items():
        items = mappings(spec.get(field), (*path, "spec", field))
        rest: list[Data] = [item for item in items if item.get("name") not in names]
        if len(rest) == len(items):
            continue
        if not was_here:
            raise Refused((*path, "spec", field), f"{field}: {_first(items, names)} is there, and was not added by us")
        spec[field] = rest
        if not rest:
            del spec[field]
    return bare


def _first(items: list[Fields], names: tuple[str, ...]) -> str:
    return next(str(item["name"]) for item in items if item.get("name") in names)


def _is_wanted(template: Fields, path: Path) -> bool:
    """What sidecar.istio.io/inject says, as a label (which is stronger, as for Istio) or an annotation."""
    metadata = mapping(template.get("metadata"), (*path, "metadata"))
    for field in ("labels", "annotations"):
        below = (*path, "metadata", field)
        fields = mapping(metadata.get(field), below)
        if INJECT not in fields:
            continue
        value = fields[INJECT]
        if not isinstance(value, str):
            raise Refused((*below, INJECT), f"{field[:-1]} {INJECT}: {shown(str(value))} is not text; put it in quotes")
        if value.lower() not in SWITCH:
            raise Refused((*below, INJECT), f"{field[:-1]} {INJECT}: {shown(value)} is neither true nor false")
        return SWITCH[value.lower()]
    return True


def _check_pod(spec: Fields, path: Path) -> None:
    """Raises Refused for a Pod that cannot have rules of its own."""
    if spec.get("hostNetwork") not in (None, False):
        raise Refused((*path, "hostNetwork"), "hostNetwork: the rules would be the node's, and take its network down")
    if mapping(spec.get("os"), (*path, "os")).get("name") == "windows":
        raise Refused((*path, "os"), "os: there are no such rules on Windows")
    containers = mappings(spec.get("containers"), (*path, "containers"))
    if not containers:
        raise Refused(path, "has no containers")
    for container in [*containers, *mappings(spec.get("initContainers"), (*path, "initContainers"))]:
        if container.get("name") in _FOREIGN:
            raise Refused(path, f"{container['name']} is there: another mesh has the Pod's traffic already")


def _rule_values(entries: Mapping[str, tuple[str, ...]], spec: Fields, path: Path, mode: str) -> dict[str, str]:
    """The settings of the rules, by name, as the init container takes them."""
    inbound = entries.get("inbound_ports", _listed_ports(spec, path))
    excluded = entries.get("exclude_inbound_ports", ())
    if inbound != ("*",):  # there -d has no effect: what is excluded is not listed at all
        inbound, excluded = without(inbound, excluded), ()
    users, groups = owners(entries.get("proxy_uid", ()))
    values = {name: ",".join(found) for name, found in entries.items()}
    values |= {"proxy_port": str(OUTBOUND_PORT), "proxy_uid": users, "mode": mode}
    values |= {"inbound_ports": ",".join(inbound), "exclude_inbound_ports": ",".join(excluded)}
    values.setdefault("outbound_ranges", "*")
    values.setdefault("exclude_outbound_ranges", "")
    return values | ({"proxy_gid": groups} if groups else {})


def _listed_ports(spec: Fields, path: Path) -> tuple[str, ...]:
    """The TCP ports that the Pod's running containers name. Raises Refused for those of the proxy."""
    found: dict[str, None] = {}
    for field in ("initContainers", "containers"):
        for place, container in enumerate(mappings(spec.get(field), (*path, field))):
            if field == "initContainers" and container.get("restartPolicy") != "Always":
                continue
            where = (*path, field, place, "ports")
            for port in mappings(container.get("ports"), where):
                number = port.get("containerPort")
                if port.get("protocol", "TCP") not in ("TCP", None) or not isinstance(number, int):
                    continue
                if number in _PORTS:
                    raise Refused(where, f"containerPort {number} is the proxy's {_PORTS[number]} port")
                if not isinstance(number, bool) and 0 < number < 65536:
                    found[str(number)] = None
    return tuple(found)


def _identity(metadata: Fields, spec: Fields, owner: Owner, path: Path) -> Identity:
    labels = mapping(metadata.get("labels"), (*path, "metadata", "labels"))
    account = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
    texts = {key: value for key, value in labels.items() if isinstance(value, str)}
    return Identity(owner.namespace, str(account), texts)


def _with_parts(bare: Fields, values: Mapping[str, str], identity: Identity, settings: Settings, path: Path) -> Fields:
    init, proxy = init_container(values, settings), proxy_container(identity, settings.mode, settings)
    ours: list[Data] = [init, proxy] if settings.sidecar == "native" else [init]
    spec = mapping(bare.get("spec"), path)
    theirs = sequence(spec.get("initContainers"), path)
    inits = [*ours, *theirs] if settings.order == "first" else [*theirs, *ours]
    containers = sequence(spec.get("containers"), path) + ([proxy] if settings.sidecar == "classic" else [])
    after = _placed(spec, "initContainers", inits, behind="containers") | {"containers": containers}
    if volumes := policy_volumes(settings):
        after["volumes"] = [*sequence(spec.get("volumes"), path), *volumes]
    metadata = dict(mapping(bare.get("metadata"), path))
    # one word: podman takes no annotation longer than a label may be
    metadata["annotations"] = {**mapping(metadata.get("annotations"), path), STATUS: settings.sidecar}
    return {**({} if "metadata" in bare else {"metadata": metadata}), **bare, "metadata": metadata, "spec": after}


def _placed(fields: Fields, key: str, value: Data, behind: str) -> Fields:
    """Fields with one more, behind another; where it is there already, in its place."""
    if key in fields:
        return fields | {key: value}
    found: Fields = {}
    for name, item in fields.items():
        found[name] = item
        if name == behind:
            found[key] = value
    return found


def misplaced(annotations: Fields, path: Path) -> Iterator[Remark]:
    """Warnings for annotations of a mesh on the workload, where no mesh reads them: they belong on its template."""
    for name in annotations:
        if is_of_a_mesh(name):
            yield Remark((*path, name), f"annotation {name}: has no effect here; it belongs on the Pod template")
