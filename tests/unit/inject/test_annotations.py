"""Annotations of five meshes in our own settings; what cannot be had is refused by name."""

from __future__ import annotations

import pytest

from mesh_iptables.dialects import dialect
from mesh_iptables.inject.annotations import ANNOTATIONS, parse_ports, without
from mesh_iptables.inject.emit import json
from mesh_iptables.inject.manifest import inject
from mesh_iptables.inject.values import Data, Settings

from .samples import pod
from .test_manifest import refusal, words

OLD, NEW = Settings(), Settings(dialect="istio-1.2x")
ISTIO, CONSUL = "traffic.sidecar.istio.io/", "consul.hashicorp.com/transparent-proxy-exclude-"
OSM, KUMA, LINKERD = "openservicemesh.io/", "traffic.kuma.io/", "config.linkerd.io/"

# annotation, value, option, what the init container gets
MAPPED = [
    (f"{ISTIO}includeInboundPorts", "80, 90,", "-b", "80,90"),
    (f"{ISTIO}includeInboundPorts", "*", "-b", "*"),
    (f"{ISTIO}includeInboundPorts", "", "-b", ""),
    (f"{ISTIO}excludeInboundPorts", "8080", "-b", ""),
    (f"{ISTIO}includeOutboundIPRanges", "10.0.0.0/8,1.2.3.4", "-i", "10.0.0.0/8,1.2.3.4/32"),
    (f"{ISTIO}includeOutboundIPRanges", "", "-i", ""),
    (f"{ISTIO}excludeOutboundIPRanges", "10.0.0.0/8", "-x", "10.0.0.0/8"),
    ("sidecar.istio.io/interceptionMode", "REDIRECT", "-m", "REDIRECT"),
    (f"{LINKERD}skip-inbound-ports", "25,8000-9000", "-b", ""),
    (f"{KUMA}exclude-inbound-ports", "8080", "-b", ""),
    (f"{KUMA}exclude-outbound-ips", "10.0.0.0/8", "-x", "10.0.0.0/8"),
    (f"{KUMA}exclude-outbound-ports-for-uids", "5; tcp:*:7;*:100-200", "-u", "1337,5,7,100-200"),
    (f"{KUMA}exclude-outbound-ports-for-uids", "5", "-g", "1337"),
    (f"{KUMA}exclude-inbound-ips", "", "-x", ""),
    (f"{CONSUL}inbound-ports", "8080", "-b", ""),
    (f"{CONSUL}outbound-cidrs", "10.0.0.0/8", "-x", "10.0.0.0/8"),
    (f"{CONSUL}uids", "0,44", "-u", "1337,0,44"),
    (f"{OSM}inbound-port-exclusion-list", "8080", "-b", ""),
    (f"{OSM}outbound-ip-range-exclusion-list", "10.0.0.0/8", "-x", "10.0.0.0/8"),
    (f"{OSM}outbound-ip-range-inclusion-list", "10.0.0.0/8", "-i", "10.0.0.0/8"),
]
MAPPED_BY_NEW_ONLY = [
    (f"{ISTIO}includeOutboundPorts", "443", "-q", "443"),
    (f"{ISTIO}excludeOutboundPorts", "25,30-40", "-o", "25,30:40"),
    (f"{ISTIO}excludeInterfaces", "eth1,net2", "-c", "eth1,net2"),
    (f"{ISTIO}kubevirtInterfaces", "net1", "-k", "net1"),
    (f"{LINKERD}skip-outbound-ports", "25", "-o", "25"),
    (f"{KUMA}exclude-outbound-ports", "25", "-o", "25"),
    (f"{CONSUL}outbound-ports", "25", "-o", "25"),
    (f"{OSM}outbound-port-exclusion-list", "25", "-o", "25"),
    ("sidecar.istio.io/interceptionMode", "TPROXY", "-m", "TPROXY"),
    (f"{ISTIO}excludeOutboundIPRanges", "fd00::/8", "-x", "fd00::/8"),
]


@pytest.mark.parametrize(("name", "value", "option", "expected"), MAPPED)
def test_an_annotation_becomes_an_argument_in_both_dialects(name: str, value: str, option: str, expected: str) -> None:
    for chosen in (OLD, NEW):
        assert words(pod({name: value}), chosen)[option] == expected


@pytest.mark.parametrize(("name", "value", "option", "expected"), MAPPED_BY_NEW_ONLY)
def test_what_only_the_newer_dialect_can_is_refused_by_the_older(
    name: str, value: str, option: str, expected: str
) -> None:
    assert words(pod({name: value}), NEW)[option] == expected
    told = refusal(pod({name: value}), OLD)
    assert name in told or "TPROXY" in told
    assert "istio-1.2x" in told or "captures IPv4 only" in told


def test_every_annotation_is_tried() -> None:
    tried = {name for name, *_ in [*MAPPED, *MAPPED_BY_NEW_ONLY]} | {name for name, _ in WRONG}
    assert tried >= {annotation.name for annotation in ANNOTATIONS}


def test_every_annotation_is_a_setting_that_some_dialect_knows() -> None:
    known = {option.name for name in ("istio-1.0", "istio-1.2x") for option in dialect(name).options}
    assert {annotation.setting for annotation in ANNOTATIONS} - {""} <= known


WRONG: list[tuple[str, Data]] = [
    *[
        (f"{ISTIO}includeInboundPorts", text)
        for text in ("x", "80,,90", "65536", "9-8", "-1", "http", "@/etc/passwd", "80,*", "1;2", "٣", "80\n--x")
    ],
    *[
        (f"{ISTIO}{end}", text)
        for end in ("excludeOutboundIPRanges", "includeOutboundIPRanges")
        for text in ("10.0.0.0/33", "example.org", "@x", "1.1.1.1; add table", "10.0.0.0/8,*", ",")
    ],
    (f"{ISTIO}excludeOutboundIPRanges", "*"),
    (f"{ISTIO}excludeInboundPorts", "*"),
    (f"{ISTIO}excludeInboundPorts", 8080),
    (f"{ISTIO}excludeInboundPorts", ["8080"]),
    ("sidecar.istio.io/interceptionMode", "tproxy"),
    ("sidecar.istio.io/interceptionMode", "NONE"),
    (f"{LINKERD}skip-subnets", "10.0.0.0/8"),
    (f"{KUMA}exclude-inbound-ips", "10.0.0.0/8"),
    (f"{KUMA}exclude-outbound-ports-for-uids", "tcp:80:5"),
    (f"{KUMA}exclude-outbound-ports-for-uids", "udp:*:5"),
    (f"{KUMA}exclude-outbound-ports-for-uids", "5-3"),
    (f"{CONSUL}uids", "-1"),
    (f"{CONSUL}uids", "4294967295"),
    (f"{CONSUL}uids", "root"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_bad_value_is_refused_with_resource_and_annotation(name: str, value: Data) -> None:
    for chosen in (OLD, NEW):
        told = refusal(pod({name: value}), chosen)
        assert f": Pod/web: annotation {name}: " in told


def test_a_bad_interface_is_refused() -> None:
    for value in ("a" * 16, "a/b", "!eth0", "eth 0", "-x"):
        assert f"annotation {ISTIO}excludeInterfaces" in refusal(pod({f"{ISTIO}excludeInterfaces": value}), NEW)


@pytest.mark.parametrize(
    "name",
    [f"{ISTIO}odd", "linkerd.io/inject", "kuma.io/gateway", "consul.hashicorp.com/connect-inject", f"{OSM}metrics"],
)
def test_other_annotations_of_a_mesh_are_warned_about(name: str) -> None:
    result = inject(json(pod({name: "x", "example.org/a": "b"})), Settings())
    assert [line.partition(": ")[2] for line in result.warnings] == [f"Pod/web: annotation {name}: has no effect here"]


def test_wishes_of_several_meshes_add_up() -> None:
    value = pod(
        {f"{ISTIO}includeInboundPorts": "*", f"{ISTIO}excludeInboundPorts": "1", f"{KUMA}exclude-inbound-ports": "2,1"}
    )
    assert (words(value)["-b"], words(value)["-d"]) == ("*", "1,2")


def test_excluded_ports_are_taken_out_of_a_list() -> None:
    assert without(["80", "8000:8010"], ["8005"]) == ("80", "8000:8004", "8006:8010")
    assert without(["80:90"], ["70:80", "90:95"]) == ("81:89",)
    assert without(["80"], []) == ("80",)
    assert without(["80"], ["0:65535"]) == ()


@pytest.mark.parametrize("text", ["33", "23-23", "25-27", "0-65535", "25:27", "1,2,", ""])
def test_ports_and_ranges_are_read(text: str) -> None:
    assert parse_ports(text) is not None
