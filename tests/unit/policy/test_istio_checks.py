"""One test per rule: the smallest document that breaks it, and the id it is reported by."""

from __future__ import annotations

import pytest

from mesh_iptables.policy.complaint import Severity
from tests.unit.policy.samples import HTTP, REGISTRY_ONLY, TCP, TLS, Fields, entry, ids, istio, mesh, read, routes, to

_HOST = "a.example.com"
_ROUTE = to(_HOST)


def _port(**fields: object) -> list[Fields]:
    return [{"number": 80, "name": "http", "protocol": "HTTP", **fields}]


def _http(**fields: object) -> Fields:
    return routes(_HOST, {**_ROUTE, **fields})


def _match(**match: object) -> Fields:
    return _http(match=[match])


def _tls(hosts: list[str], *, route: object = _ROUTE["route"], **match: object) -> Fields:
    return istio("VirtualService", {"hosts": hosts, "tls": [{"match": [match], "route": route}]})


def _rule(**policy: object) -> Fields:
    return istio("DestinationRule", {"host": _HOST, "trafficPolicy": policy})


def _sidecar(*hosts: str, **egress: object) -> Fields:
    return istio("Sidecar", {"egress": [{"hosts": list(hosts), **egress}]})


_ERRORS: dict[str, list[Fields]] = {
    "mesh-outbound-mode": [
        mesh(outboundTrafficPolicy={"mode": "ALLOW_ANY_DYNAMIC_DNS"}),
        istio("Sidecar", {"outboundTrafficPolicy": {"mode": "X"}}),
    ],
    "bad-duration": [
        mesh(connectTimeout="0s"),
        mesh(connectTimeout="5"),
        mesh(dnsRefreshRate=5),
        _http(timeout="3 s"),
        _rule(connectionPool={"tcp": {"connectTimeout": "0s"}}),
        _rule(outlierDetection={"interval": "0ms"}),
    ],
    "bad-type": [
        entry(_HOST, hosts="x"),
        _http(match=[{"uri": "/x"}]),
        istio("WorkloadEntry", {"address": 7}),
        _http(redirect=[]),
    ],
    "se-no-host": [entry()],
    "se-host-star": [entry("*", resolution="NONE")],
    "se-host-syntax": [entry("a_b.com"), entry("a.*.com", resolution="NONE")],
    "se-address": [entry(_HOST, addresses=["x"]), entry(_HOST, addresses=["10.0.0.0/33"])],
    "se-cidr-resolution": [entry(_HOST, addresses=["10.0.0.0/8"])],
    "bad-port": [entry(_HOST, ports=_port(number=0)), entry(_HOST, ports=_port(targetPort=65536))],
    "se-no-port": [entry(_HOST, ports=[])],
    "se-port-dup": [entry(_HOST, ports=[HTTP, {**HTTP, "name": "other"}])],
    "se-port-name": [entry(_HOST, ports=_port(name=""))],
    "se-port-name-dup": [entry(_HOST, ports=[HTTP, {**HTTP, "number": 81}])],
    "se-location": [entry(_HOST, location="MOON")],
    "se-resolution": [entry(_HOST, resolution="MAGIC")],
    "se-dynamic-dns": [entry(_HOST, resolution="DYNAMIC_DNS")],
    "se-none-endpoints": [entry(_HOST, resolution="NONE", endpoints=[{"address": "192.0.2.1"}])],
    "se-endpoint-ip": [
        entry(_HOST, resolution="STATIC", endpoints=[{"address": _HOST}]),
        entry(_HOST, resolution="STATIC", endpoints=[{"address": "unix:///x"}]),
    ],
    "se-endpoint-address": [entry(_HOST, endpoints=[{"address": "*.x"}])],
    "se-rr-one-endpoint": [
        entry(_HOST, resolution="DNS_ROUND_ROBIN", endpoints=[{"address": "a.x"}, {"address": "b.x"}])
    ],
    "se-endpoint-port": [entry(_HOST, endpoints=[{"address": _HOST, "ports": {"web": 80}}])],
    "se-selector-and-endpoints": [
        entry(_HOST, endpoints=[{"address": _HOST}], workloadSelector={"labels": {"a": "b"}})
    ],
    "se-dns-wildcard": [entry("*.x.com")],
    "se-multi-host-tcp": [entry("a.x", "b.x", ports=[TCP])],
    "exportto-star-mixed": [entry(_HOST, exportTo=["*", "ns"])],
    "exportto-none-mixed": [entry(_HOST, exportTo=["~", "ns"])],
    "exportto-dup": [entry(_HOST, exportTo=["ns", "ns"])],
    "exportto-syntax": [entry(_HOST, exportTo=["A b"])],
    "configscope-value": [entry(_HOST, configScope="SECRET")],
    "configscope-and-exportto": [entry(_HOST, configScope="PUBLIC", exportTo=["."])],
    "we-no-address": [istio("WorkloadEntry", {})],
    "we-unix": [istio("WorkloadEntry", {"address": "unix:///x"})],
    "we-address": [istio("WorkloadEntry", {"address": "a b"})],
    "vs-no-host": [istio("VirtualService", {"http": [_ROUTE]})],
    "vs-host-star": [routes("*", _ROUTE)],
    "vs-host-syntax": [routes("a b", _ROUTE)],
    "vs-host-dup": [
        istio("VirtualService", {"hosts": ["x.com", "x.com"], "http": [_ROUTE]}),
        istio("VirtualService", {"hosts": ["*.x.com", "a.x.com"], "http": [_ROUTE]}),
    ],
    "vs-exportto-none": [routes(_HOST, _ROUTE, exportTo=["~"])],
    "vs-no-action": [
        routes(_HOST),
        routes(_HOST, {}),
        istio("VirtualService", {"hosts": [_HOST], "tcp": [{"route": []}]}),
    ],
    "vs-two-actions": [_http(redirect={"uri": "/"}), _http(directResponse={"status": 200})],
    "vs-zero-weight": [_http(route=[{"destination": {"host": _HOST}}, {"destination": {"host": _HOST}, "weight": 0}])],
    "vs-destination-host": [_http(route=[{"destination": {"host": "a b"}}])],
    "vs-direct-response-status": [routes(_HOST, {"directResponse": {"status": 199}})],
    "vs-match-two": [_match(uri={"exact": "/", "prefix": "/"})],
    "vs-match-empty": [_match(uri={})],
    "bad-regex": [
        _match(uri={"regex": "("}),
        _match(headers={"x": {"regex": "(?=a)"}}),
        _match(queryParams={"x": {"regex": "["}}),
        _http(rewrite={"uriRegexRewrite": {"match": "(", "rewrite": "/"}}),
        _http(rewrite={"uriRegexRewrite": {"match": "a", "rewrite": r"\1"}}),
    ],
    "vs-header-name": [
        _match(headers={"a b": {"exact": "x"}}),
        _http(headers={"request": {"add": {"host": "x"}}}),
        _http(headers={"response": {"set": {":status": "200"}}}),
        _http(headers={"request": {"remove": ["a\r\nb"]}}),
    ],
    "vs-header-value": [_http(headers={"request": {"set": {"x": "a\r\nb: c"}}})],
    "vs-authority": [
        _http(rewrite={"authority": "a\r\nb"}),
        _http(headers={"request": {"set": {"Host": "a b"}}}),
    ],
    "vs-redirect-code": [routes(_HOST, {"redirect": {"uri": "/", "redirectCode": 304}})],
    "vs-redirect-empty": [routes(_HOST, {"redirect": {}})],
    "vs-redirect-uri": [routes(_HOST, {"redirect": {"uri": "/a\r\nb"}})],
    "vs-redirect-scheme": [routes(_HOST, {"redirect": {"scheme": "a b"}})],
    "vs-retry-attempts": [_http(retries={"attempts": -1})],
    "vs-retry-disabled-with-fields": [_http(retries={"attempts": 0, "retryOn": "5xx"})],
    "vs-retry-on": [
        _http(retries={"attempts": 1, "retryOn": "5xx,sometimes"}),
        mesh(defaultHttpRetryPolicy={"attempts": 1, "retryOn": "99"}),
    ],
    "vs-empty-fault": [_http(fault={})],
    "vs-percentage": [
        _http(fault={"abort": {"httpStatus": 500, "percentage": {"value": 101}}}),
        _http(mirror={"host": _HOST}, mirrorPercentage={"value": -1}),
    ],
    "vs-fault-no-delay": [_http(fault={"delay": {"percentage": {"value": 1}}})],
    "vs-fault-status": [_http(fault={"abort": {"httpStatus": 199, "percentage": {"value": 1}}})],
    "vs-fault-with-redirect": [routes(_HOST, {"redirect": {"uri": "/"}, "fault": {"abort": {"httpStatus": 500}}})],
    "vs-rewrite-two": [_http(rewrite={"uri": "/", "uriRegexRewrite": {"match": "a", "rewrite": "b"}})],
    "vs-rewrite-empty": [_http(rewrite={})],
    "vs-rewrite-uri": [_http(rewrite={"uri": "/ HTTP/1.1\r\n"})],
    "vs-tls-no-match": [istio("VirtualService", {"hosts": [_HOST], "tls": [_ROUTE]})],
    "vs-tls-sni-required": [_tls([_HOST], port=443)],
    "vs-tls-sni-not-in-hosts": [_tls([_HOST], sniHosts=["b.example.com"])],
    "vs-subnet": [_tls([_HOST], sniHosts=[_HOST], destinationSubnets=["x"])],
    "dr-host": [istio("DestinationRule", {}), istio("DestinationRule", {"host": "*"})],
    "dr-tls-mode": [_rule(tls={"mode": "MAYBE"})],
    "dr-istio-mutual": [_rule(tls={"mode": "ISTIO_MUTUAL"})],
    "dr-credential-name": [_rule(tls={"mode": "SIMPLE", "credentialName": "x"})],
    "dr-mutual-files": [_rule(tls={"mode": "MUTUAL", "clientCertificate": "/c.pem"})],
    "dr-sni": [_rule(tls={"mode": "SIMPLE", "sni": "a b"})],
    "dr-subset-dup": [istio("DestinationRule", {"host": _HOST, "subsets": [{"name": "v"}, {"name": "v"}]})],
    "dr-port-dup": [_rule(portLevelSettings=[{"port": {"number": 80}}, {"port": {"number": 80}}])],
    "dr-lb": [_rule(loadBalancer={"simple": "BEST"})],
    "dr-lb-two": [_rule(loadBalancer={"simple": "RANDOM", "consistentHash": {"useSourceIp": True}})],
    "dr-hash-key": [_rule(loadBalancer={"consistentHash": {}})],
    "dr-h2-policy": [_rule(connectionPool={"http": {"h2UpgradePolicy": "X"}})],
    "sidecar-host": [_sidecar(), _sidecar("no-slash"), _sidecar("./a b")],
    "bad-timestamp": [entry(_HOST, metadata={"creationTimestamp": "yesterday"})],
}

_ADDRESS = {"address": "192.0.2.1"}
_WARNINGS: dict[str, Fields] = {
    "se-host-partial-wildcard": entry("a*.example.com", resolution="NONE"),
    "se-tcp-needs-address": entry(_HOST, ports=[TCP]),
    "se-protocol-unknown": entry(_HOST, ports=_port(protocol="HTPP")),
    "se-udp-ignored": entry(_HOST, ports=_port(protocol="UDP")),
    "se-internal-no-mtls": entry(_HOST, location="MESH_INTERNAL"),
    "se-none-selector": entry(_HOST, resolution="NONE", workloadSelector={"labels": {"a": "b"}}),
    "se-selector-no-labels": entry(_HOST, resolution="STATIC", workloadSelector={}),
    "configscope-historic": entry(_HOST, configScope="PRIVATE"),
    "vs-gateway-bound": routes(_HOST, _ROUTE, gateways=["edge"]),
    "vs-fault-no-percentage": _http(fault={"delay": {"fixedDelay": "1s"}}),
    "vs-fault-no-status": _http(fault={"abort": {"percentage": {"value": 1}}}),
    "dr-sni-no-name-check": _rule(tls={"mode": "SIMPLE", "sni": _HOST}),
    "dr-insecure": _rule(tls={"mode": "SIMPLE", "insecureSkipVerify": True}),
    "sidecar-egress-port": _sidecar("*/*", bind="127.0.0.1"),
    "unknown-field": entry(_HOST, color="red"),
    "unknown-version": {**entry(_HOST), "apiVersion": "networking.istio.io/v7"},
}


@pytest.mark.parametrize(
    ("identifier", "document"), [(name, each) for name, documents in _ERRORS.items() for each in documents]
)
def test_a_document_that_breaks_a_rule_is_rejected(identifier: str, document: Fields) -> None:
    found = read(document)
    assert identifier in [each.id for each in found.complaints if each.severity.rejects]
    assert not found.accepted


@pytest.mark.parametrize(("identifier", "document"), _WARNINGS.items())
def test_a_doubtful_document_is_reported_and_used(identifier: str, document: Fields) -> None:
    found = read(document)
    assert identifier in [each.id for each in found.complaints]
    assert len(found.accepted) == 1
    assert all(each.severity in (Severity.WARNING, Severity.NOTE) for each in found.complaints)


_HASH = {"consistentHash": {"useSourceIp": True, "minimumRingSize": 9}}


@pytest.mark.parametrize(
    ("field", "document"),
    [
        ("spec.endpoints[0].locality", entry(_HOST, resolution="STATIC", endpoints=[{**_ADDRESS, "locality": "eu"}])),
        ("spec.network", istio("WorkloadEntry", {**_ADDRESS, "network": "n"})),
        ("spec.serviceAccount", istio("WorkloadEntry", {**_ADDRESS, "serviceAccount": "a"})),
        ("spec.trafficPolicy.loadBalancer.consistentHash.minimumRingSize", _rule(loadBalancer=_HASH)),
    ],
)
def test_a_field_that_changes_nothing_is_named(field: str, document: Fields) -> None:
    assert [(each.id, each.origin.field) for each in read(document).complaints] == [("no-effect", field)]


@pytest.mark.parametrize(
    "document",
    [
        REGISTRY_ONLY,
        entry("httpbin.org", "*.wild.example.com", ports=[HTTP, TLS], resolution="NONE"),
        entry(_HOST, addresses=["192.192.192.192/24"], resolution="STATIC", endpoints=[{"address": "2.2.2.2"}]),
        entry(_HOST, ports=_port(protocol="grpc-web")),
        _tls(["*.example.com"], sniHosts=["a.example.com", "*.b.example.com"], port=443),
        _match(headers={"x": {"regex": "*"}, "y": {}}, withoutHeaders={"z": {"exact": ""}}),
        _http(retries={"attempts": 0}),
        _http(retries={"attempts": 2, "retryOn": "gateway-error, 503"}),
        _http(headers={"request": {"set": {":authority": "b.example.com"}}}),
        routes(_HOST, {"redirect": {"scheme": "https"}}),
        _rule(tls={"mode": "MUTUAL", "clientCertificate": "/c.pem", "privateKey": "/k.pem"}),
        _sidecar("./*", "*/api.example.com", "~/*", "ns/*.example.com"),
    ],
)
def test_a_good_document_is_accepted_without_a_word(document: Fields) -> None:
    found = read(document)
    assert not found.complaints
    assert len(found.accepted) == 1


def test_one_tls_destination_is_a_rule_of_istio_1_0_alone() -> None:
    route = [{"destination": {"host": _HOST}, "weight": 50}, {"destination": {"host": "b.x"}, "weight": 50}]
    document = _tls([_HOST], route=route, sniHosts=[_HOST])
    assert ids(document) == []
    assert ids(document, compat_1_0=True) == ["vs-tls-one-destination"]
