"""Random documents of Open Service Mesh: MeshConfig, Egress, HTTPRouteGroup, UpstreamTrafficSetting."""

from __future__ import annotations

from random import Random
from typing import Any

from .vocabulary import NAMES, PAIR, RANGES, TENANTS, WILDCARDS, Document, Fields, maybe, one_or_two, weighted

_ROUTE_GROUP = {"apiGroup": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup"}
_SETTING = {"apiGroup": "policy.openservicemesh.io/v1alpha1", "kind": "UpstreamTrafficSetting"}
_PORTS = {
    "http": [80, 80, 8080, 9080, 443, 9000],
    "https": [443, 443, 8443],
    "tcp": [443, 9000, 9001, 9003, 3306, 80],
    "tcp-server-first": [3306, 5432, 9000, 80],
}


def osm_documents(random: Random, *, chance: bool) -> list[Document]:
    """With `chance` a name may have several addresses."""
    documents = [_mesh_config(random)]
    groups = [f"group{number}" for number in range(random.randint(0, 2))]
    settings = [f"setting{number}" for number in range(random.choice([0, 0, 1]))]
    documents += [_route_group(random, name) for name in groups]
    documents += [_traffic_setting(random, name) for name in settings]
    names = NAMES + TENANTS + ([PAIR, PAIR] if chance else [])
    return documents + [_egress(random, number, names, groups, settings) for number in range(random.randint(1, 5))]


def _mesh_config(random: Random) -> Document:
    spec: Fields = {"traffic": {"enableEgress": random.random() < 0.05}}
    spec |= maybe(random, 0.1, lambda: {"featureFlags": {"enableEgressPolicy": random.random() < 0.8}})
    return {
        "apiVersion": "config.openservicemesh.io/v1alpha2",
        "kind": "MeshConfig",
        "metadata": {"name": "osm-mesh-config", "namespace": "osm-system"},
        "spec": spec,
    }


def _named(api: str, kind: str, name: str, spec: Fields) -> Document:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": "shop"}, "spec": spec}


def _route_group(random: Random, name: str) -> Document:
    matches = [_route_match(random, f"m{number}") for number in range(random.randint(1, 2))]
    return _named("specs.smi-spec.io/v1alpha4", "HTTPRouteGroup", name, {"matches": matches})


def _route_match(random: Random, name: str) -> Fields:
    paths = ["/a", "/a.*", "/b", ".*", "/[ab]/?", "/status.*", "/(a|b)", "/A"]
    headers = [{"x-v": "[0-9]+"}, {"host": "api.*"}, {"x-v": "1", "host": ".*example.*"}]
    match: Fields = {"name": name}
    match |= maybe(random, 0.8, lambda: {"pathRegex": random.choice(paths)})
    match |= maybe(random, 0.4, lambda: {"methods": random.choice([["GET"], ["GET", "HEAD"], ["*"], ["POST"]])})
    return match | maybe(random, 0.25, lambda: {"headers": random.choice(headers)})


def _traffic_setting(random: Random, name: str) -> Document:
    http: dict[str, list[Any]] = {
        "maxRequests": [0, 100],
        "maxPendingRequests": [0, 100],
        "maxRequestsPerConnection": [1, 2],
    }
    tcp: dict[str, list[Any]] = {"maxConnections": [0, 100], "connectTimeout": ["100ms", "1s"]}
    settings: Fields = {
        key: {name: random.choice(values[name]) for name in one_or_two(random, sorted(values))}
        for key, values in (("http", http), ("tcp", tcp))
        if random.random() < 0.6
    }
    spec = {"host": "api.example.com", "connectionSettings": settings}
    return _named("policy.openservicemesh.io/v1alpha1", "UpstreamTrafficSetting", name, spec)


def _egress(random: Random, number: int, names: list[str], groups: list[str], settings: list[str]) -> Document:
    protocol = weighted(random, {"http": 5, "https": 3, "tcp": 2, "tcp-server-first": 2})
    spec: Fields = {"sources": _sources(random), "ports": _ports(random, protocol)}
    if protocol in ("http", "https"):
        wild = WILDCARDS if protocol == "https" or random.random() < 0.05 else []
        spec["hosts"] = one_or_two(random, names + wild)
    if protocol != "http" and random.random() < 0.4:
        spec["ipAddresses"] = one_or_two(random, RANGES)
    matches = _matches(random, groups, settings, routes=protocol == "http")
    spec |= {"matches": matches} if matches else {}
    document = _named("policy.openservicemesh.io/v1alpha1", "Egress", f"egress{number}", spec)
    document["metadata"] |= maybe(random, 0.1, lambda: {"namespace": "default"})
    return document


def _sources(random: Random) -> list[Fields]:
    till = {"kind": "ServiceAccount", "name": "till", "namespace": "shop"}
    other = {"kind": "ServiceAccount", "name": random.choice(["other", "till"]), "namespace": "elsewhere"}
    return random.choices([[till], [other, till], [other]], [6, 2, 1])[0]


def _ports(random: Random, protocol: str) -> list[Fields]:
    numbers = dict.fromkeys(random.choice(_PORTS[protocol]) for _ in range(random.choice([1, 1, 2])))
    return [{"number": number, "protocol": protocol} for number in numbers]


def _matches(random: Random, groups: list[str], settings: list[str], *, routes: bool) -> list[Fields]:
    matches = []
    if routes and random.random() < 0.5:
        matches += [{**_ROUTE_GROUP, "name": name} for name in random.sample([*groups, "missing"], 1)]
    if settings and random.random() < 0.6:
        matches.append({**_SETTING, "name": settings[0]})
    elif random.random() < 0.03:
        matches.append({**_SETTING, "name": "missing"})
    return matches
