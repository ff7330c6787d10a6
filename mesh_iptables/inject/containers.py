"""The two containers and the volume that a Pod gets. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from mesh_iptables.dialects import dialect
from mesh_iptables.errors import UsageError
from mesh_iptables.inject.values import (
    ADMIN_PORT,
    INBOUND_PORT,
    INIT,
    OUTBOUND_PORT,
    POLICY,
    PROXY,
    PROXY_ID,
    Data,
    Settings,
)
from mesh_iptables.options import Request, Setting

POLICY_PATH = "/etc/mesh-iptables/policy"
# In the order in which Istio's injector of 1.0 gives them, and then those of today's; always, or only when set.
_ALWAYS = ("proxy_port", "proxy_uid", "mode", "outbound_ranges", "exclude_outbound_ranges", "inbound_ports",
    "exclude_inbound_ports")  # fmt: skip
_WHEN_SET = ("proxy_gid", "outbound_ports", "exclude_outbound_ports", "exclude_interfaces", "virtual_interfaces")
_OLD = "istio-1.0"

# Asks the proxy whether it is ready, from inside: its admin port, which can also end it, listens on loopback only.
_PROBE = (
    "import _socket as s; c = s.socket(); c.settimeout(1); "
    f"c.connect(('127.0.0.1', {ADMIN_PORT})); c.send(b'GET /ready HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n'); "
    "raise SystemExit(b' 200 ' not in c.recv(32))"
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the Pod is to policies; no namespace: the manifest leaves it to whoever applies it."""

    namespace: str
    service_account: str
    labels: Mapping[str, str]


def rule_words(values: Mapping[str, str], settings: Settings) -> list[str]:
    """The arguments of the init container, from values by name of setting."""
    words = {option.name: option.words[0] for option in dialect(settings.dialect).options if option.words}
    given = [] if settings.dialect == _OLD else ["--dialect", settings.dialect, "-z", str(INBOUND_PORT)]
    for name in _ALWAYS:
        given += [words[name], values.get(name, "")]
    for name in _WHEN_SET:
        given += [words[name], values[name]] if values.get(name) else []
    return given


def check_rules(values: Mapping[str, str], sources: Mapping[str, str], settings: Settings) -> tuple[str, ...]:
    """What the init container would warn about; raises UsageError where it would refuse, with the source's name."""
    chosen = dialect(settings.dialect)
    given = {name: Setting(text, sources.get(name, name)) for name, text in values.items()}
    task = chosen.understand(Request(given, {}), {}, lambda _path: None, _Nobody(), _no_machine, dry_run=True)
    return task.warnings


class _Nobody:
    """A machine that knows no names: which ones the image knows, nobody can tell from here."""

    def service(self, _name: str) -> None: ...
    def user(self, _name: str) -> None: ...
    def group(self, _name: str) -> None: ...
    def network(self, _name: str) -> None: ...
    def routing_table(self, _name: str) -> None: ...

    def has_uid(self, _uid: int) -> bool:
        return False

    def hosts(self, _name: str) -> tuple[int, ...]:
        return ()


def _no_machine() -> NoReturn:  # a dry run does not call it
    raise UsageError("a dry run asks no machine")


def init_container(values: Mapping[str, str], settings: Settings) -> dict[str, Data]:
    """Sets the rules and ends: root, and of root's rights only those that the rules need."""
    capabilities: list[Data] = ["NET_ADMIN", *(["NET_RAW"] if settings.net_raw else [])]
    container: dict[str, Data] = {"name": INIT, "image": settings.init_image}
    if settings.pull_policy:
        container["imagePullPolicy"] = settings.pull_policy
    container["args"] = [*rule_words(values, settings)]
    if settings.dialect == _OLD and values["mode"] != "TPROXY":
        # istio-iptables.sh has no option for the inbound port, and would take the outbound one
        container["env"] = [{"name": "INBOUND_CAPTURE_PORT", "value": str(INBOUND_PORT)}]
    container["securityContext"] = {
        "runAsUser": 0,
        "runAsGroup": 0,
        "runAsNonRoot": False,
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": capabilities},
    }
    return container


def proxy_container(identity: Identity, mode: str, settings: Settings) -> dict[str, Data]:
    """The proxy, as an init container that keeps running, or as one container among the others."""
    container: dict[str, Data] = {"name": PROXY, "image": settings.proxy_image}
    if settings.pull_policy:
        container["imagePullPolicy"] = settings.pull_policy
    if settings.sidecar == "native":
        container["restartPolicy"] = "Always"
    transparent = ["--transparent"] if mode == "TPROXY" else []
    ports = ["--outbound-port", str(OUTBOUND_PORT), "--inbound-port", str(INBOUND_PORT)]
    container["command"] = ["mesh-iptables", "proxy"]
    policy = [] if settings.fenced else ["--policy", POLICY_PATH]
    container["args"] = [*policy, *ports, *transparent, *settings.proxy_words]
    container["env"] = [*_environment(identity)]
    container["securityContext"] = _proxy_rights(mode)
    if settings.probes:
        container |= _probes(settings)
    if not settings.fenced:
        container["volumeMounts"] = [{"name": POLICY, "mountPath": POLICY_PATH, "readOnly": True}]
    return container


def _environment(identity: Identity) -> list[Data]:
    namespace: dict[str, Data] = {"name": "POD_NAMESPACE"}
    if identity.namespace:
        namespace["value"] = identity.namespace
    else:
        namespace["valueFrom"] = {"fieldRef": {"fieldPath": "metadata.namespace"}}
    found: list[Data] = [namespace, {"name": "SERVICE_ACCOUNT", "value": identity.service_account}]
    if identity.labels:
        labels = ",".join(f"{key}={value}" for key, value in identity.labels.items())
        found.append({"name": "POD_LABELS", "value": labels})
    return found


def _proxy_rights(mode: str) -> Data:
    # A transparent socket needs NET_ADMIN, and only root gets a capability in Kubernetes. Its group still exempts it.
    transparent = mode == "TPROXY"
    add: dict[str, Data] = {"add": ["NET_ADMIN"]} if transparent else {}
    return {
        "runAsUser": 0 if transparent else PROXY_ID,
        "runAsGroup": PROXY_ID,
        "runAsNonRoot": not transparent,
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], **add},
    }


def _probes(settings: Settings) -> dict[str, Data]:
    ask: Data = {"command": ["python3", "-IS", "-c", _PROBE]}
    ready: dict[str, Data] = {"readinessProbe": {"exec": ask, "periodSeconds": 10, "timeoutSeconds": 3}}
    if settings.sidecar == "classic":
        return ready
    # of a native sidecar, what comes behind it starts only when this has succeeded
    start: Data = {"exec": ask, "periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 60}
    return {"startupProbe": start, **ready}


def policy_volumes(settings: Settings) -> list[Data]:
    """The policy files, from a ConfigMap in the Pod's namespace; nothing for a proxy that takes none."""
    return [] if settings.fenced else [{"name": POLICY, "configMap": {"name": settings.config_map}}]
