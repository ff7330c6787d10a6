"""One test per rule: the smallest document that breaks it, and the id it is reported by."""

from __future__ import annotations

import pytest

from tests.unit.policy.samples import Fields, document, egress, read, route_group

_POLICY = "policy.openservicemesh.io/v1alpha1"
_GROUP: Fields = {"apiGroup": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "name": "g"}
_SETTING: Fields = {"apiGroup": _POLICY, "kind": "UpstreamTrafficSetting", "name": "s"}


def _setting(**spec: object) -> Fields:
    return document("UpstreamTrafficSetting", spec, _POLICY)


_ERRORS: dict[str, list[Fields]] = {
    "eg-no-source": [egress((80, "tcp"), sources=[])],
    "eg-source-kind": [egress((80, "tcp"), sources=[{"kind": "User", "name": "a", "namespace": "b"}])],
    "eg-source-namespace": [egress((80, "tcp"), sources=[{"kind": "ServiceAccount", "name": "a"}])],
    "eg-host-syntax": [egress((80, "http"), hosts=["a b"]), egress((80, "http"), hosts=["*"])],
    "eg-cidr": [egress((80, "tcp"), ipAddresses=["10.0.0.1"]), egress((80, "tcp"), ipAddresses=["x/8"])],
    "eg-no-port": [egress()],
    "bad-port": [egress((0, "tcp"))],
    "eg-protocol": [egress((80, "htpp"))],
    "eg-match-kind": [egress((80, "tcp"), matches=[{**_GROUP, "apiGroup": "x"}])],
    "eg-two-uts": [egress((80, "tcp"), matches=[_SETTING, _SETTING])],
    "bad-regex": [
        route_group("g", {"pathRegex": "*status"}),
        route_group("g", {"headers": {"x": "("}}),
    ],
    "rg-method": [route_group("g", {"methods": ["GET POST"]})],
    "rg-header-name": [route_group("g", {"headers": {"a b": "x"}})],
    "bad-duration": [_setting(connectionSettings={"tcp": {"connectTimeout": "0s"}})],
}

_WARNINGS: dict[str, Fields] = {
    "eg-http-ip-ignored": egress((80, "http"), hosts=["a.x"], ipAddresses=["10.0.0.0/8"]),
    "eg-no-hosts": egress((80, "http")),
    "eg-http-wildcard": egress((80, "http"), hosts=["*.x.com"]),
    "uts-ignored": _setting(rateLimit={"local": {}}, httpRoutes=[{"path": "/"}]),
    "unknown-field": _setting(connectionSettings={"udp": {}}),
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


@pytest.mark.parametrize(
    "document",
    [
        egress((80, "HTTP"), (443, "https"), hosts=["a.x", "b.x"], matches=[_GROUP, _SETTING]),
        egress((443, "https"), hosts=["*.x.com"], ipAddresses=["10.0.0.0/8"]),
        egress((3306, "tcp-server-first")),
        route_group("g", {"name": "get", "pathRegex": "/get", "methods": ["*"], "headers": {"host": "a.*"}}),
        _setting(connectionSettings={"http": {"maxRequests": 0}}),
        document("MeshConfig", {"traffic": {"enableEgress": True}}, "config.openservicemesh.io/v1alpha2"),
    ],
)
def test_a_good_document_is_accepted_without_a_word(document: Fields) -> None:
    found = read(document)
    assert not found.complaints
    assert len(found.accepted) == 1
