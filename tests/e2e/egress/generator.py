"""Random policies and requests over a small vocabulary, so that names, ports and rules meet often.

Everything comes from one seeded `Random`; only behaviour without chance is asked for (one address per name, no weights,
faults of 100 %), so that two engines can be compared answer by answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias

Document: TypeAlias = dict[str, Any]
Do: TypeAlias = dict[str, Any]

NAMES = ["api.example.com", "www.example.com", "shop.example.org", "auth.example.org", "blue.example.com"]
TENANTS = ["one.tenant.example.net", "two.deep.tenant.example.net", "thief.example.net"]
WILDCARDS = ["*.example.com", "*.tenant.example.net", "*.example.net", "*.deep.tenant.example.net"]
ADDRESSES = {
    "api.example.com": "192.0.2.10",
    "www.example.com": "192.0.2.11",
    "shop.example.org": "192.0.2.12",
    "auth.example.org": "192.0.2.13",
    "blue.example.com": "192.0.2.41",
}
PORTS = {80: "HTTP", 8080: "HTTP", 443: "HTTPS", 8443: "TLS", 9000: "TCP", 3306: "TCP"}
PATHS = ["/", "/a", "/a/b", "/a/../b", "/b?x=1", "/b/", "/A", "/a%2fb", "//a", "/status/404", "/c?y"]
METHODS = ["GET", "GET", "GET", "POST", "HEAD", "DELETE"]


@dataclass(frozen=True)
class Trial:
    """One policy set, what it is compiled for, and the actions to try."""

    profile: str
    compat: str | None
    client: dict[str, Any]
    policies: tuple[Document, ...]
    actions: tuple[Do, ...]


def random_trial(random: Random, requests: int) -> Trial:
    profile, compat = random.choice([("istio", None), ("istio", None), ("istio", "1.0"), ("osm", None)])
    documents = _osm(random) if profile == "osm" else _istio(random, compat)
    client = {"namespace": "shop", "serviceAccount": "till", "labels": {"app": "shop"}}
    actions = tuple(_action(random) for _ in range(requests))
    return Trial(profile, compat, client, tuple(documents), actions)


def _maybe(random: Random, chance: float, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    return make() if random.random() < chance else {}


# --- Istio --------------------------------------------------------------------------------------------


def _istio(random: Random, compat: str | None) -> list[Document]:
    mode = random.choice(["REGISTRY_ONLY", "REGISTRY_ONLY", "ALLOW_ANY"])
    spec = {"meshConfig": {"outboundTrafficPolicy": {"mode": mode}, "connectTimeout": "1s"}}
    documents: list[Document] = [
        {
            "apiVersion": "install.istio.io/v1alpha1",
            "kind": "IstioOperator",
            "metadata": {"name": "m"},
            "spec": spec,
        }
    ]
    for number in range(random.randint(1, 5)):
        documents.append(_service_entry(random, number))
    named = [host for each in documents[1:] for host in each["spec"]["hosts"] if "*" not in host]
    for number, host in enumerate(sorted(set(named))):
        if random.random() < 0.4:
            documents.append(_virtual_service(random, number, host, named, compat))
    return documents


def _meta(random: Random, name: str) -> dict[str, Any]:
    stamp = _maybe(random, 0.4, lambda: {"creationTimestamp": f"2020-01-0{random.randint(1, 3)}T00:00:00Z"})
    namespace = random.choice(["shop", "shop", "default"])
    return {"metadata": {"name": name, "namespace": namespace, **stamp}}


def _service_entry(random: Random, number: int) -> Document:
    resolution = random.choice(["NONE", "DNS", "DNS", "STATIC"])
    count = random.choice([1, 1, 2])
    hosts = random.sample(NAMES + TENANTS + (WILDCARDS if resolution != "DNS" else []), count)
    ports = _ports(random, opaque=count == 1)
    spec: dict[str, Any] = {"hosts": hosts, "ports": ports, "resolution": resolution}
    if resolution == "STATIC":
        spec["endpoints"] = [{"address": random.choice(sorted(ADDRESSES.values()))}]
    if random.random() < 0.25:
        ranges = [] if resolution == "DNS" else ["192.0.2.8/29"]
        spec["addresses"] = [random.choice([*sorted(ADDRESSES.values()), *ranges])]
    spec |= _maybe(random, 0.15, lambda: {"exportTo": [random.choice([".", "*", "default"])]})
    kind = {"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry"}
    return {**kind, **_meta(random, f"entry{number}"), "spec": spec}


def _ports(random: Random, *, opaque: bool) -> list[dict[str, Any]]:
    numbers = [port for port, protocol in PORTS.items() if opaque or protocol != "TCP"]
    chosen = random.sample(numbers, random.choice([1, 1, 2]))
    ports = []
    for number in chosen:
        protocol = PORTS[number]
        if protocol == "TCP" and random.random() < 0.2:
            protocol = "HTTP"  # an HTTP service on a port where TCP services live
        target = _maybe(random, 0.15, lambda: {"targetPort": 8080}) if protocol == "HTTP" else {}
        ports.append({"number": number, "name": f"p{number}", "protocol": protocol, **target})
    return ports


def _virtual_service(random: Random, number: int, host: str, named: list[str], compat: str | None) -> Document:
    spec: dict[str, Any] = {"hosts": [host]}
    if random.random() < 0.8:
        spec["http"] = [_http_rule(random, named) for _ in range(random.randint(1, 3))]
    if not spec.get("http") or random.random() < 0.3:
        port = random.choice([443, 8443])
        destination = {"host": random.choice(named), "port": {"number": port}}
        route: list[dict[str, Any]] = [{"destination": destination}]
        if compat:
            route[0]["weight"] = 100
        spec["tls"] = [{"match": [{"port": port, "sniHosts": [host]}], "route": route}]
    kind = {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService"}
    return {**kind, **_meta(random, f"service{number}"), "spec": spec}


def _http_rule(random: Random, named: list[str]) -> dict[str, Any]:
    rule: dict[str, Any] = {}
    if random.random() < 0.8:
        rule["match"] = [_http_match(random) for _ in range(random.choice([1, 1, 2]))]
    action = random.random()
    if action < 0.1:
        rule["redirect"] = {"uri": "/there", **_maybe(random, 0.5, lambda: {"authority": "www.example.com"})}
        return rule
    if action < 0.2:
        rule["directResponse"] = {"status": random.choice([200, 403, 503]), "body": {"string": "direct"}}
        return rule
    rule["route"] = [{"destination": {"host": random.choice(named)}}]
    rule |= _maybe(random, 0.25, lambda: {"rewrite": _rewrite(random)})
    rule |= _maybe(random, 0.2, lambda: {"headers": _header_operations(random)})
    rule |= _maybe(random, 0.1, lambda: {"timeout": "5s"})
    rule |= _maybe(random, 0.1, lambda: {"retries": {"attempts": random.choice([0, 1])}})
    rule |= _maybe(random, 0.1, lambda: {"fault": _fault(random)})
    return rule


def _http_match(random: Random) -> dict[str, Any]:
    makers: list[Callable[[], dict[str, Any]]] = [
        lambda: {"uri": {"prefix": random.choice(["/", "/a", "/a/", "/b"])}},
        lambda: {"uri": {"exact": random.choice(["/a", "/b", "/"])}},
        lambda: {"uri": {"regex": random.choice(["/a.*", "/[ab]", "/a/?b?", ".*"])}},
        lambda: {"uri": {"prefix": "/a"}, "ignoreUriCase": True},
        lambda: {"method": {"exact": random.choice(["GET", "POST"])}},
        lambda: {"headers": {"x-v": random.choice([{"exact": "1"}, {"prefix": "1"}, {"regex": "[0-9]+"}])}},
        lambda: {"withoutHeaders": {"x-v": {"exact": "1"}}},
        lambda: {"queryParams": {"x": random.choice([{"exact": "1"}, {"regex": "1|2"}])}},
        lambda: {"authority": {"prefix": random.choice(["api", "www", "shop"])}},
        lambda: {"port": random.choice([80, 8080])},
    ]
    match: dict[str, Any] = {}
    for make in random.sample(makers, random.choice([1, 1, 2])):
        match |= make()
    return match


def _rewrite(random: Random) -> dict[str, Any]:
    both = {"uri": random.choice(["/", "/new", "/n/"]), "authority": "rewritten.example.com"}
    return {key: both[key] for key in random.sample(sorted(both), random.choice([1, 2]))}


def _header_operations(random: Random) -> dict[str, Any]:
    request = {"set": {"x-set": "1"}, "add": {"x-v": "2"}, "remove": ["x-rm"]}
    response = {"set": {"x-answer": "1"}, "remove": ["x-upstream-conn"]}
    return {
        "request": {key: request[key] for key in random.sample(sorted(request), random.choice([1, 2]))},
        "response": {key: response[key] for key in random.sample(sorted(response), 1)},
    }


def _fault(random: Random) -> dict[str, Any]:
    sure = {"percentage": {"value": 100}} if random.random() < 0.7 else {}
    return {"abort": {"httpStatus": random.choice([418, 500, 599]), **sure}}


# --- Open Service Mesh --------------------------------------------------------------------------------


def _osm(random: Random) -> list[Document]:
    traffic = {"traffic": {"enableEgress": random.random() < 0.08}}
    documents: list[Document] = [
        {
            "apiVersion": "config.openservicemesh.io/v1alpha2",
            "kind": "MeshConfig",
            "metadata": {"name": "osm-mesh-config", "namespace": "osm-system"},
            "spec": traffic,
        }
    ]
    groups = [f"group{number}" for number in range(random.randint(0, 2))]
    documents += [_route_group(random, name) for name in groups]
    return documents + [_egress(random, number, groups) for number in range(random.randint(1, 4))]


def _route_group(random: Random, name: str) -> Document:
    matches = []
    for number in range(random.randint(1, 2)):
        match: dict[str, Any] = {"name": f"m{number}"}
        match |= _maybe(random, 0.8, lambda: {"pathRegex": random.choice(["/a", "/a.*", "/b", ".*", "/[ab]/?"])})
        match |= _maybe(random, 0.4, lambda: {"methods": random.choice([["GET"], ["GET", "HEAD"], ["*"]])})
        match |= _maybe(random, 0.2, lambda: {"headers": {"x-v": "[0-9]+"}})
        matches.append(match)
    return {
        "apiVersion": "specs.smi-spec.io/v1alpha4",
        "kind": "HTTPRouteGroup",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"matches": matches},
    }


def _egress(random: Random, number: int, groups: list[str]) -> Document:
    account = random.choice(["till", "till", "till", "other"])
    spec: dict[str, Any] = {"sources": [{"kind": "ServiceAccount", "name": account, "namespace": "shop"}]}
    protocol = random.choice(["http", "http", "https", "tcp", "tcp-server-first"])
    port = {"http": [80, 8080], "https": [443, 8443], "tcp": [443, 9000], "tcp-server-first": [3306, 9000]}
    spec["ports"] = [{"number": random.choice(port[protocol]), "protocol": protocol}]
    if protocol in ("http", "https"):
        wild = WILDCARDS if protocol == "https" else []
        spec["hosts"] = random.sample(NAMES + TENANTS + wild, random.choice([1, 2]))
    if protocol != "http" and random.random() < 0.4:
        spec["ipAddresses"] = [random.choice(["192.0.2.8/29", "192.0.2.10/32", "192.0.2.32/27"])]
    if protocol == "http" and random.random() < 0.5:
        group = random.choice([*groups, "missing"])
        kind = {"apiGroup": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "name": group}
        spec["matches"] = [kind]
    return {
        "apiVersion": "policy.openservicemesh.io/v1alpha1",
        "kind": "Egress",
        "metadata": {"name": f"egress{number}", "namespace": "shop"},
        "spec": spec,
    }


# --- actions ------------------------------------------------------------------------------------------


def _action(random: Random) -> Do:
    kind = random.random()
    host = random.choice(NAMES + TENANTS)
    goes = _maybe(random, 0.3, lambda: {"connect": random.choice(NAMES + TENANTS)})
    if kind < 0.65:
        return {"http": {**_http(random, host), **goes}}
    if kind < 0.85:
        sni = _maybe(random, 0.25, lambda: {"sni": random.choice(["", host.upper(), "x." + host])})
        port = random.choice([443, 443, 8443, 80])
        return {"tls": {"host": host, "port": port, "alpn": ["http/1.1"], **goes, **sni}}
    if kind < 0.95:
        return {"tcp": {"host": host, "port": 9000, "script": [{"send": "a\r\n"}, {"recv": 1.5}]}}
    return {"tcp": {"host": host, "port": 3306, "script": [{"recv": 0.7}]}}


def _http(random: Random, host: str) -> dict[str, Any]:
    method = random.choice(METHODS)
    port = random.choice([80, 80, 80, 8080, 443, 9000])
    spelled = random.random()
    if spelled < 0.1:
        written = f"{host}:{random.choice([80, 8080, 81])}"
    else:
        written = host.title() if spelled < 0.15 else f"{host}." if spelled < 0.2 else host
    headers = _maybe(random, 0.3, lambda: {"x-v": random.choice(["1", "17", "x"])})
    headers |= _maybe(random, 0.2, lambda: {"x-rm": "1", "x-set": "0"})
    headers |= {"host": written}
    body = {"body": "abc"} if method == "POST" else {}
    return {
        "host": host,
        "port": port,
        "method": method,
        "path": random.choice(PATHS),
        "headers": headers,
        **body,
    }
