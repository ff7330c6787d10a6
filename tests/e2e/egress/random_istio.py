"""Random documents of Istio: mesh settings, services, routes, traffic policy, Sidecar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from .random_istio_routes import Destinations, http_rules
from .vocabulary import (
    ADDRESSES,
    BROKEN,
    CLOSED_ADDRESS,
    NAMES,
    PAIR,
    PAIR_ADDRESSES,
    RANGES,
    TENANTS,
    WILDCARDS,
    Document,
    Fields,
    maybe,
    one_or_two,
    weighted,
)

_PROTOCOLS = {
    80: ["HTTP", "HTTP", "HTTP", "http", "HTTP2"],
    8080: ["HTTP", "HTTP", "GRPC", ""],
    9080: ["HTTP", "GRPC-Web"],
    443: ["HTTPS", "HTTPS", "TLS", "HTTP"],
    8443: ["TLS", "HTTPS", "HTTP"],
    9443: ["TLS", "HTTP"],
    9000: ["TCP", "TCP", "REDIS", "HTTP", ""],
    9001: ["TCP"],
    9003: ["TCP"],
    3306: ["TCP", "MYSQL", "HTTP"],
    5432: ["TCP"],
    27018: ["MONGO", "TCP", "TLS"],
}
_USUAL_PORTS = [80, 80, 80, 443, 443, *_PROTOCOLS]
_TLS_PORTS = [443, 8443, 9443, 27018]
_NAMED = ("HTTP", "HTTPS", "TLS", "HTTP2", "GRPC", "GRPC-WEB")
_CERTIFICATES = [
    {"clientCertificate": "/etc/certs/myclientcert.pem", "privateKey": "/etc/certs/client_private_key.pem"},
    {"clientCertificate": "/etc/certs/myclientcert.pem", "privateKey": "/etc/certs/client_private_key.pem"},
    {"clientCertificate": "/etc/certs/rogue.pem", "privateKey": "/etc/certs/rogue_key.pem"},
]


def istio_documents(random: Random, compat: str | None, *, chance: bool) -> list[Document]:
    """With `chance` a service may have several addresses and a rule several destinations."""
    return _Istio(random, compat, chance).documents()


@dataclass
class _Istio:
    random: Random
    compat: str | None
    chance: bool

    def documents(self) -> list[Document]:
        random = self.random
        entries = [self._service_entry(number) for number in range(random.randint(1, 5))]
        hosts = sorted({host for each in entries for host in each["spec"]["hosts"]})
        ports = sorted({port["number"] for each in entries for port in each["spec"]["ports"]})
        destinations = Destinations([host for host in hosts if "*" not in host] or NAMES, ports, chance=self.chance)
        documents = [self._mesh(destinations), *entries]
        documents += [self._workload_entry(number) for number in range(random.choice([0, 1, 2]))]
        for number, host in enumerate(hosts):
            if random.random() < 0.45:
                documents.append(self._virtual_service(number, host, destinations))
            if random.random() < 0.35:
                documents.append(self._destination_rule(number, host, ports))
        if random.random() < 0.12:
            documents.append(self._sidecar(hosts))
        return documents

    def _maybe(self, chance: float, make: Callable[[], Fields]) -> Fields:
        return maybe(self.random, chance, make)

    def _choice(self, values: Sequence[Any]) -> Any:
        return self.random.choice(values)

    def _document(self, kind: str, name: str, spec: Fields) -> Document:
        metadata = {"name": name, "namespace": self._choice(["shop", "shop", "default"])}
        day = self.random.randint(1, 3)
        metadata |= self._maybe(0.4, lambda: {"creationTimestamp": f"2020-01-0{day}T00:00:00Z"})
        return {"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec}

    def _scope(self, chance: float) -> Fields:
        """To whom a document is exported; mostly everybody."""
        scopes: list[Fields] = [
            {"exportTo": ["."]},
            {"exportTo": ["*"]},
            {"exportTo": ["default"]},
            {"exportTo": ["shop", "default"]},
            {"configScope": "PRIVATE"},
        ]
        return self._maybe(chance, lambda: self._choice(scopes))

    # --- mesh settings, Sidecar -----------------------------------------------------------------------

    def _mesh(self, destinations: Destinations) -> Document:
        policy = {"mode": self._choice(["REGISTRY_ONLY", "REGISTRY_ONLY", "ALLOW_ANY"])}
        proxy = {"host": self._choice(destinations.hosts), "port": {"number": self._choice(destinations.ports)}}
        policy |= self._maybe(0.04, lambda: {"egressProxy": proxy})
        mesh: Fields = {"outboundTrafficPolicy": policy, "connectTimeout": "500ms"}
        mesh |= self._maybe(0.2, lambda: {"protocolDetectionTimeout": "300ms"})
        retries = [{"attempts": 0}, {"attempts": 1, "retryOn": "5xx"}, {"attempts": 1, "retryOn": "connect-failure"}]
        mesh |= self._maybe(0.1, lambda: {"defaultHttpRetryPolicy": self._choice(retries)})
        mesh |= self._maybe(0.05, lambda: {"defaultServiceExportTo": ["."]})
        return {
            "apiVersion": "install.istio.io/v1alpha1",
            "kind": "IstioOperator",
            "metadata": {"name": "m"},
            "spec": {"meshConfig": mesh},
        }

    def _sidecar(self, hosts: list[str]) -> Document:
        known = [f"{self._choice(['.', '*', 'shop', 'default'])}/{host}" for host in [*hosts, *WILDCARDS, "*"]]
        spec: Fields = {"egress": [{"hosts": one_or_two(self.random, known)}]}
        mode = self._choice(["ALLOW_ANY", "REGISTRY_ONLY"])
        spec |= self._maybe(0.4, lambda: {"outboundTrafficPolicy": {"mode": mode}})
        labels = {"app": self._choice(["shop", "shop", "other"])}
        spec |= self._maybe(0.3, lambda: {"workloadSelector": {"labels": labels}})
        return self._document("Sidecar", "sidecar", spec)

    # --- services ------------------------------------------------------------------------------------

    def _service_entry(self, number: int) -> Document:
        chances = {"NONE": 4, "DNS": 6, "STATIC": 4, "DNS_ROUND_ROBIN": 1}
        resolution = weighted(self.random, chances)
        hosts = self._entry_hosts(resolution)
        ports = self._ports(several_hosts=len(hosts) > 1)
        spec: Fields = {"hosts": hosts, "ports": ports, "resolution": resolution}
        spec |= self._targets(resolution, hosts, ports)
        spec |= self._maybe(0.25, lambda: self._addresses(resolution))
        spec |= self._scope(0.12)
        spec |= self._maybe(0.15, lambda: {"location": self._choice(["MESH_INTERNAL", "MESH_EXTERNAL"])})
        spec |= self._maybe(0.05, lambda: {"subjectAltNames": [self._choice(NAMES)]})
        return self._document("ServiceEntry", f"entry{number}", spec)

    def _entry_hosts(self, resolution: str) -> list[str]:
        hosts = NAMES + TENANTS + (WILDCARDS if resolution in ("NONE", "STATIC") else [])
        if self.chance and resolution == "DNS":
            hosts = [*hosts, PAIR, PAIR, PAIR]
        return [self._choice(BROKEN)] if self.random.random() < 0.06 else one_or_two(self.random, hosts)

    def _ports(self, *, several_hosts: bool) -> list[Fields]:
        numbers = dict.fromkeys(self._choice(_USUAL_PORTS) for _ in range(self._choice([1, 1, 2])))
        ports = [self._port(number) for number in numbers]
        named = [port for port in ports if port["protocol"].upper() in _NAMED]
        return named or [self._port(80) | {"protocol": "HTTP"}] if several_hosts else ports

    def _port(self, number: int) -> Fields:
        port = {"number": number, "name": f"p{number}", "protocol": self._choice(_PROTOCOLS[number])}
        targets = [8080, 443, 9443] if number < 3000 or port["protocol"] == "HTTP" else [9000, 27018, 3306]
        return port | self._maybe(0.2, lambda: {"targetPort": self._choice(targets)})

    def _targets(self, resolution: str, hosts: list[str], ports: list[Fields]) -> Fields:
        """The endpoints of an entry, or what selects them."""
        if resolution == "NONE":
            return {}
        if self.random.random() < 0.15:
            return {"workloadSelector": {"labels": {"app": self._choice(["api", "web"])}}}
        if resolution == "STATIC" and self.random.random() < 0.05:
            return {}  # no endpoint at all
        wild = any("*" in host for host in hosts)
        if resolution == "STATIC" or wild or self.random.random() < 0.25:
            count = self._choice([1, 2]) if self.chance and resolution != "DNS_ROUND_ROBIN" else 1
            return {"endpoints": [self._endpoint(resolution, ports, number) for number in range(count)]}
        return {}

    def _endpoint(self, resolution: str, ports: list[Fields], number: int) -> Fields:
        addresses = [*ADDRESSES.values(), *PAIR_ADDRESSES]
        names = NAMES + TENANTS if resolution != "STATIC" and self.random.random() < 0.8 else addresses
        broken = [CLOSED_ADDRESS] if self.random.random() < 0.08 else names
        endpoint: Fields = {"address": self._choice(broken)}
        endpoint |= self._maybe(0.6, lambda: {"labels": {"v": str(number + 1)}})
        endpoint |= self._maybe(0.2, lambda: {"ports": {self._choice(ports)["name"]: 8080}})
        return endpoint | self._maybe(0.2, lambda: {"weight": self._choice([1, 2])})

    def _addresses(self, resolution: str) -> Fields:
        ranges = RANGES if resolution in ("NONE", "STATIC") else []
        return {"addresses": one_or_two(self.random, [*ADDRESSES.values(), *ranges])}

    def _workload_entry(self, number: int) -> Document:
        labels = {"app": "api" if number == 0 and not self.chance else self._choice(["api", "web"]), "v": "1"}
        if number == 1 and not self.chance:
            labels["app"] = "web"  # of each app one, so that no address is left to chance
        spec: Fields = {"address": self._choice([*ADDRESSES.values(), *ADDRESSES.values(), *NAMES]), "labels": labels}
        spec |= self._maybe(0.3, lambda: {"ports": {"p80": 8080}})
        return self._document("WorkloadEntry", f"workload{number}", spec)

    # --- routes --------------------------------------------------------------------------------------

    def _virtual_service(self, number: int, host: str, destinations: Destinations) -> Document:
        hosts = [host]
        if self.random.random() < 0.15:
            hosts = [self._choice(["*.example.com", "*.example.net", "new.example.com", host])]
        spec: Fields = {"hosts": hosts}
        kind = self.random.random()
        if kind < 0.75:
            spec["http"] = http_rules(self.random, destinations)
        if kind > 0.6:
            spec["tls"] = [self._tls_rule(hosts[0], destinations) for _ in range(self._choice([1, 1, 2]))]
        if kind > 0.85 or kind < 0.1:
            spec["tcp"] = [self._tcp_rule(destinations) for _ in range(self._choice([1, 1, 2]))]
        spec |= self._scope(0.1)
        spec |= self._maybe(0.06, lambda: {"gateways": self._choice([["mesh"], ["edge"], ["edge", "mesh"]])})
        return self._document("VirtualService", f"service{number}", spec)

    def _tls_rule(self, host: str, destinations: Destinations) -> Fields:
        covered = [host] if "*" not in host else [host, *(name for name in NAMES if name.endswith(host[1:]))]
        match: Fields = {"sniHosts": [self._choice(covered)]}
        match |= self._maybe(0.6, lambda: {"port": self._choice(_TLS_PORTS)})
        match |= self._maybe(0.15, lambda: {"destinationSubnets": [self._choice(RANGES)]})
        match |= self._maybe(0.1, lambda: {"sourceLabels": {"app": self._choice(["shop", "other"])}})
        return {"match": [match], "route": self._plain_route(destinations)}

    def _tcp_rule(self, destinations: Destinations) -> Fields:
        match = self._maybe(0.6, lambda: {"port": self._choice([9000, 3306, 5432, 27018, 443])})
        match |= self._maybe(0.3, lambda: {"destinationSubnets": [self._choice(RANGES)]})
        return {**({"match": [match]} if match else {}), "route": self._plain_route(destinations)}

    def _plain_route(self, destinations: Destinations) -> list[Fields]:
        if self.compat:
            return [{"destination": destinations.one(self.random), "weight": 100}]
        return destinations.route(self.random)

    # --- traffic policy ------------------------------------------------------------------------------

    def _destination_rule(self, number: int, host: str, ports: list[int]) -> Document:
        wild = ["*.example.com", "*.example.org", "*.tenant.example.net"]
        spec: Fields = {"host": self._choice(wild) if self.random.random() < 0.15 else host}
        policy = self._traffic_policy()
        own = {"port": {"number": self._choice(ports)}}
        policy |= self._maybe(0.25, lambda: {"portLevelSettings": [{**own, **self._traffic_policy()}]})
        spec |= {"trafficPolicy": policy} if policy else {}
        spec |= self._maybe(0.5, lambda: {"subsets": [self._subset(name) for name in one_or_two(self.random, "12")]})
        spec |= self._scope(0.1)
        return self._document("DestinationRule", f"rule{number}", spec)

    def _subset(self, name: str) -> Fields:
        subset: Fields = {"name": f"v{name}", "labels": {"v": name}}
        return subset | self._maybe(0.3, lambda: {"trafficPolicy": self._traffic_policy()})

    def _traffic_policy(self) -> Fields:
        policy = self._maybe(0.6, lambda: {"tls": self._client_tls()})
        policy |= self._maybe(0.3, lambda: {"connectionPool": self._pool()})
        balancers = ["ROUND_ROBIN", "RANDOM", "LEAST_REQUEST", "PASSTHROUGH"]
        policy |= self._maybe(0.25, lambda: {"loadBalancer": {"simple": self._choice(balancers)}})
        if not self.chance:  # which address is ejected first would be chance
            policy |= self._maybe(0.15, lambda: {"outlierDetection": self._outlier()})
        return policy

    def _client_tls(self) -> Fields:
        tls: Fields = {"mode": weighted(self.random, {"SIMPLE": 5, "MUTUAL": 4, "DISABLE": 1})}
        tls |= self._choice(_CERTIFICATES) if tls["mode"] == "MUTUAL" else {}
        tls |= self._maybe(0.85, lambda: {"caCertificates": f"/etc/certs/{self._ca()}.pem"})
        tls |= self._maybe(0.2, lambda: {"sni": self._choice(NAMES)})
        tls |= self._maybe(0.2, lambda: {"subjectAltNames": one_or_two(self.random, [*NAMES, "*.example.com"])})
        return tls | self._maybe(0.1, lambda: {"insecureSkipVerify": True})

    def _ca(self) -> str:
        return str(weighted(self.random, {"rootcacerts": 6, "otherca": 1}))

    def _pool(self) -> Fields:
        tcp = self._maybe(0.5, lambda: {"tcp": {"connectTimeout": self._choice(["100ms", "1s"])}})
        http: list[Fields] = [
            {"maxRequestsPerConnection": 1},
            {"h2UpgradePolicy": "UPGRADE"},
            {"http2MaxRequests": 1},
            {"maxRetries": 1},
        ]
        return tcp | self._maybe(0.6, lambda: {"http": self._choice(http)})

    def _outlier(self) -> Fields:
        field = self._choice(["consecutive5xxErrors", "consecutiveGatewayErrors"])
        outlier = {field: self._choice([1, 2]), "interval": "10s", "baseEjectionTime": "30s"}
        return outlier | self._maybe(0.8, lambda: {"maxEjectionPercent": self._choice([100, 100, 50])})
