"""Pods as values: the application as a user writes it, and the two containers that capture and govern its traffic."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML

from tests.netns.namespace import ROOT

from .images import INIT, PROXY
from .outside import CLIENT, HOSTS, WEB

APP_PORT = 9080
INBOUND_PORT = 15006
CAPTURE, GOVERN = "mesh-iptables-init", "mesh-iptables-proxy"  # the containers, as `inject` names them
ALWAYS = "io.podman.annotations.init.container.type"  # keeps the init container, for its log and to run it again
# The arguments that Istio's injector writes for a Pod with one port.
ISTIO_ARGUMENTS = ("-p", "15001", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", f"{APP_PORT},", "-d", "")
TPROXY_ARGUMENTS = tuple("TPROXY" if word == "REDIRECT" else word for word in ISTIO_ARGUMENTS)
TODAY_ARGUMENTS = (
    "--dialect",
    "istio-1.2x",
    "-p",
    "15001",
    "-z",
    str(INBOUND_PORT),
    "-u",
    "1337",
    "-i",
    "*",
    "-b",
    "*",
    "--dual-stack",
)


@dataclass(frozen=True)
class Capture:
    """How a Pod's traffic is captured: words of the init container, its capabilities, and what the proxy needs."""

    arguments: tuple[str, ...] = ISTIO_ARGUMENTS
    capabilities: tuple[str, ...] = ("NET_ADMIN",)
    transparent: bool = False
    user: int = 0


def injected_pod(name: str, *words: str) -> str:
    """What `mesh-iptables inject` makes of the application alone, in the form that podman 4 can play."""
    manifest = _injected(_pod(name, {"containers": [_app()]}), "classic", *words)
    return json.dumps(_policy(f"{name}-policy")) + "\n---\n" + json.dumps(manifest)


def natively_injected(name: str, *words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A Pod with an init container of its own behind a native sidecar; and the ConfigMap."""
    asks = ["http://allowed.example/", "http://refused.example/"]
    migrate = {**_app(), "name": "migrate", "command": [*client_command(*asks)]}
    plain = _pod(name, {"initContainers": [migrate], "containers": [_app()]})
    return _injected(plain, "native", "--order", "first", *words), _policy(f"{name}-policy")


def _injected(plain: dict[str, Any], sidecar: str, *words: str) -> dict[str, Any]:
    images = ("--init-image", INIT, "--proxy-image", PROXY, "--pull-policy", "Never")
    options = ("--sidecar", sidecar, "--config-map", f"{plain['metadata']['name']}-policy", *images, *words)
    command = [sys.executable, "-m", "mesh_iptables", "inject", "-f", "-", *options]
    done = subprocess.run(command, input=json.dumps(plain), capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    manifest: dict[str, Any] = YAML(typ="safe").load(done.stdout)
    for container in (*manifest["spec"]["initContainers"], *manifest["spec"]["containers"]):
        _fill_in(container)
    return manifest


def _fill_in(container: dict[str, Any]) -> None:
    """The namespace: podman 4 knows no `metadata.namespace`."""
    for variable in container.get("env", ()):
        if variable.get("valueFrom") == {"fieldRef": {"fieldPath": "metadata.namespace"}}:
            del variable["valueFrom"]
            variable["value"] = "default"


def pod(name: str, capture: Capture) -> str:
    """A Pod's manifest, and the ConfigMap with its policy."""
    spec = {
        "initContainers": [_init_container(capture)],
        "containers": [_proxy(capture), _app()],
        "volumes": [{"name": "policy", "configMap": {"name": f"{name}-policy"}}],
    }
    return json.dumps(_policy(f"{name}-policy")) + "\n---\n" + json.dumps(_pod(name, spec))


def _pod(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "annotations": {ALWAYS: "always"}}
    aliases = [{"ip": addresses[0], "hostnames": [host]} for host, addresses in HOSTS.items()]
    whole = {"restartPolicy": "Never", "hostAliases": aliases, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": whole}


def _init_container(capture: Capture) -> dict[str, Any]:
    return {
        "name": CAPTURE,
        "image": INIT,
        "imagePullPolicy": "Never",
        "args": list(capture.arguments),
        "env": [{"name": "INBOUND_CAPTURE_PORT", "value": str(INBOUND_PORT)}],
        "securityContext": _rights(capture.user, capture.user, capture.capabilities),
    }


def _proxy(capture: Capture) -> dict[str, Any]:
    # As with Istio, TPROXY needs a proxy that is root, as added capabilities are for root alone; its group exempts it.
    user, capabilities = (0, ("NET_ADMIN",)) if capture.transparent else (1337, ())
    return {
        "name": GOVERN,
        "image": PROXY,
        "imagePullPolicy": "Never",
        "args": ["--policy", "/etc/mesh-iptables", *(["--transparent"] if capture.transparent else [])],
        "volumeMounts": [{"name": "policy", "mountPath": "/etc/mesh-iptables", "readOnly": True}],
        "securityContext": _rights(user, 1337, capabilities),
    }


def _app() -> dict[str, Any]:
    return {
        "name": "app",
        "image": INIT,  # as it has Python
        "imagePullPolicy": "Never",
        "command": ["python3", "-Ic", WEB.read_text(), str(APP_PORT), "app"],
        "ports": [{"containerPort": APP_PORT}],
        "securityContext": _rights(1000, 1000, ()),
    }


def client_command(*words: str) -> tuple[str, ...]:
    """The words that run `client.py` in the application's container."""
    return ("python3", "-Ic", CLIENT.read_text(), *words)


def _rights(user: int, group: int, capabilities: tuple[str, ...]) -> dict[str, Any]:
    return {
        "runAsUser": user,
        "runAsGroup": group,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": list(capabilities)},
    }


def _policy(name: str) -> dict[str, Any]:
    """allowed.example, in each family, and nothing else."""
    spec = {
        "hosts": ["allowed.example"],
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
        "resolution": "NONE",
        "location": "MESH_EXTERNAL",
    }
    only_these = {"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}
    texts = {
        "entry.yaml": _document("ServiceEntry", spec),
        "sidecar.yaml": _document("Sidecar", only_these),
    }
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": texts}


def _document(kind: str, spec: dict[str, Any]) -> str:
    return json.dumps(
        {"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": {"name": "default"}, "spec": spec}
    )
