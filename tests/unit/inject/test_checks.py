"""Mistakes that a schema lets pass."""

from __future__ import annotations

from decimal import Decimal

import pytest

from mesh_iptables.inject.checks import check, parse_quantity
from mesh_iptables.inject.emit import json
from mesh_iptables.inject.manifest import inject
from mesh_iptables.inject.values import Data, Settings

from .samples import TEMPLATES, pod, workload
from .test_manifest import EVERY

Fields = dict[str, Data]


def web(**fields: Data) -> Fields:
    return {"containers": [{"name": "web", **fields}]}


FOUND: dict[str, tuple[Fields, str]] = {
    "privileged": (
        web(securityContext={"privileged": True, "allowPrivilegeEscalation": False}),
        "privileged and allowPrivilegeEscalation: false exclude each other",
    ),
    "SYS_ADMIN": (
        web(securityContext={"capabilities": {"add": ["SYS_ADMIN"]}, "allowPrivilegeEscalation": False}),
        "CAP_SYS_ADMIN and allowPrivilegeEscalation: false exclude each other",
    ),
    "port 70000": (web(ports=[{"containerPort": 70000}]), "containerPort 70000 is not a port from 1 to 65535"),
    "port 0": (web(ports=[{"containerPort": 0}]), "containerPort 0 is not a port from 1 to 65535"),
    "mount": (web(volumeMounts=[{"name": "a", "mountPath": "/a"}]), "mounts a, and there is no such volume"),
    "request": (
        web(resources={"requests": {"memory": "1Gi", "cpu": "1"}, "limits": {"memory": "1G", "cpu": "1000m"}}),
        "requests more memory than its limit",
    ),
    "probe": (
        {"initContainers": [{"name": "web", "livenessProbe": {}}]},
        "an init container has no livenessProbe",
    ),
    "user": ({**web(), "securityContext": {"runAsUser": 1337}}, "runs as the proxy's user 1337"),
    "group": (web(securityContext={"runAsGroup": 1337}), "runs as the proxy's group 1337"),
    "rules": (web(securityContext={"capabilities": {"add": ["NET_ADMIN"]}}), "can take the rules away"),
}


@pytest.mark.parametrize("case", FOUND.values(), ids=FOUND)
def test_a_mistake_is_found_once_and_by_name(case: tuple[Fields, str]) -> None:
    remarks = check(case[0], ("spec",))
    assert all(remark.text.startswith("container web: ") for remark in remarks)
    assert len([remark for remark in remarks if case[1] in remark.text]) == 1


def test_two_containers_of_one_name_are_found() -> None:
    assert [remark.text for remark in check({"containers": [{"name": "a"}, {"name": "a"}]}, ())] == [
        "there are two containers a"
    ]


def test_the_proxys_user_of_one_container_is_not_that_of_all() -> None:
    spec: Fields = {
        "securityContext": {"runAsUser": 1337},
        "containers": [{"name": "a", "securityContext": {"runAsUser": 5}}],
    }
    assert check(spec, ()) == []


def test_a_claim_of_a_statefulset_is_a_volume() -> None:
    spec = web(volumeMounts=[{"name": "data", "mountPath": "/d"}])
    assert check(spec, (), frozenset({"data"})) == []


@pytest.mark.parametrize("chosen", EVERY)
@pytest.mark.parametrize("kind", TEMPLATES)
def test_our_own_parts_have_none_of_these(kind: str, chosen: Settings) -> None:
    warnings = inject(json(workload(kind)), chosen).warnings
    assert [line for line in warnings if "use a native sidecar" not in line] == []


def test_mistakes_of_the_user_are_warnings() -> None:
    result = inject(json(pod(containers=[{"name": "web", "ports": [{"containerPort": 70000}]}])), Settings())
    assert result.refusals == ()
    assert result.warnings == ("1: Pod/web: container web: containerPort 70000 is not a port from 1 to 65535",)


def test_quantities() -> None:
    assert parse_quantity("500m") == Decimal("0.5")
    assert parse_quantity("1Ki") == 1024
    assert parse_quantity("1e3") == 1000
    assert parse_quantity(2) == 2
    assert parse_quantity("much") is None
    assert parse_quantity(None) is None
