"""Files into typed documents: places, envelopes, unknown things, severity."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh_iptables.policy import istio_schema as istio_types
from mesh_iptables.policy.complaint import Severity
from mesh_iptables.policy.documents import read_documents
from tests.unit.policy.samples import REGISTRY_ONLY, Fields, entry, ids, istio, mesh, read, routes, to

_CONFIG_MAP = "kind: ConfigMap\napiVersion: v1\nmetadata: {name: istio}\ndata:\n  mesh: "

_EGRESS = """\
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata:
  name: httpbin-80
  namespace: curl
spec:
  sources:
  - kind: ServiceAccount
    name: curl
    namespace: curl
  hosts: [httpbin.org]
  ports:
  - number: 80
    protocol: htpp
"""


def test_a_complaint_names_file_line_resource_field_value_and_what_would_do() -> None:
    found = read_documents([("egress.yaml", _EGRESS)])
    assert [str(each) for each in found.complaints] == [
        "egress.yaml:14: Egress/curl/httpbin-80: spec.ports[0].protocol 'htpp' is not one of "
        "http, https, tcp, tcp-server-first"
    ]


def test_a_missing_field_is_reported_at_its_parent() -> None:
    found = read_documents([("p.yaml", _EGRESS.replace("    protocol: htpp\n", ""))])
    assert [(each.id, each.origin.line, each.origin.field) for each in found.complaints] == [
        ("bad-type", 13, "spec.ports[0]")
    ]


def test_a_wrong_type_names_the_value() -> None:
    found = read(entry("a.x", ports=[{"number": "80", "name": "http"}]))
    assert str(found.complaints[0]).endswith("spec.ports[0].number '80': expected int, got str")


def test_unknown_fields_are_warnings_by_name_at_any_depth_and_errors_when_strict() -> None:
    document = routes("a.x", {**to("a.x"), "corsPolicy": {}, "match": [{"uri": {"exakt": "/", "exact": "/"}}]})
    found = read({**document, "extra": 1})
    assert [each.origin.field for each in found.complaints] == [
        "extra",
        "spec.http[0].corsPolicy",
        "spec.http[0].match[0].uri.exakt",
    ]
    assert len(found.accepted) == 1
    assert not read(document, strict=True).accepted


def test_unknown_kinds_are_skipped_with_a_note() -> None:
    found = read({"apiVersion": "v1", "kind": "Pod"}, {"kind": "ServiceEntry"})
    assert [(each.id, each.severity) for each in found.complaints] == [
        ("unknown-kind", Severity.NOTE),
        ("unknown-kind", Severity.WARNING),
    ]
    assert not found.accepted


def test_what_is_no_object_stops_everything() -> None:
    found = read_documents([("p.yaml", "- 1\n")])
    assert [each.severity for each in found.complaints] == [Severity.FATAL]


def test_null_means_unset() -> None:
    assert ids(entry("a.x", exportTo=None, workloadSelector=None)) == []


def test_every_version_of_istio_is_read_alike() -> None:
    for version in ("v1alpha3", "v1beta1", "v1"):
        assert ids({**entry("a.x"), "apiVersion": f"networking.istio.io/{version}"}) == []


def test_mesh_settings_are_also_read_from_the_config_map_with_their_lines() -> None:
    text = (
        "kind: ConfigMap\napiVersion: v1\nmetadata: {name: istio}\ndata:\n  mesh: |\n    connectTimeout: 3s\n    x: 1\n"
    )
    found = read_documents([("p.yaml", text)])
    assert [(each.id, each.origin.line, each.origin.field) for each in found.complaints] == [
        ("unknown-field", 7, "data.mesh.x")
    ]
    assert found.of(istio_types.MeshConfig)[0].spec.connect_timeout == 3.0


def test_a_config_map_whose_mesh_is_no_yaml_stops_everything() -> None:
    text = f"{_CONFIG_MAP}'['\n"
    found = read_documents([("p.yaml", text)])
    assert Severity.FATAL in [each.severity for each in found.complaints]


def test_a_rejected_document_that_could_have_forbidden_something_stops_everything() -> None:
    found = read(mesh(outboundTrafficPolicy={"mode": "REGISTRY_ONLYY"}))
    assert [each.id for each in found.complaints] == ["mesh-outbound-mode", "decisive-document-rejected"]
    assert found.complaints[1].severity is Severity.FATAL


def test_other_rejected_documents_are_left_out_alone() -> None:
    found = read(REGISTRY_ONLY, entry("a b"), entry("good.x"))
    assert [document.name for document in found.accepted] == ["mesh", "good.x"]


def test_documents_without_a_time_come_after_dated_ones_in_input_order() -> None:
    dated = entry("c.x", metadata={"creationTimestamp": "2018-12-21T02:00:00Z"})
    found = read(entry("a.x"), entry("b.x"), dated)
    order = sorted(found.accepted, key=lambda document: document.created)
    assert [document.name for document in order] == ["c.x", "a.x", "b.x"]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
_KINDS = ("ServiceEntry", "VirtualService", "DestinationRule", "Sidecar", "WorkloadEntry")
_FIELDS = ("hosts", "ports", "http", "tls", "tcp", "endpoints", "trafficPolicy", "egress", "address", "resolution")


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(_KINDS), st.dictionaries(st.sampled_from(_FIELDS), _JSON, max_size=4), _JSON)
def test_no_value_of_any_field_crashes_the_reader(kind: str, spec: Fields, metadata: object) -> None:
    document = {**istio(kind, spec), "metadata": metadata}
    found = read(document)
    assert found.accepted or found.complaints
