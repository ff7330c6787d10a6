"""What one Open Service Mesh or SMI document may say: the rules and ids of the reference. Pure.

Each function yields complaints about the value it is given; `at` is the field the value stands in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mesh_iptables.policy import hosts
from mesh_iptables.policy import osm_schema as osm
from mesh_iptables.policy.complaint import Complaint, Field
from mesh_iptables.policy.istio_checks import check_regex, one_of, positive

PROTOCOLS = ("http", "https", "tcp", "tcp-server-first")
ROUTE_GROUP = ("specs.smi-spec.io/v1alpha4", "HTTPRouteGroup")
TRAFFIC_SETTING = ("policy.openservicemesh.io/v1alpha1", "UpstreamTrafficSetting")

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def check_egress(egress: osm.Egress, at: Field, *, compat_1_0: bool = False) -> Iterator[Complaint]:
    del compat_1_0  # an Istio matter
    if not egress.sources:
        yield (at / "sources").error("eg-no-source", "must name at least one service account")
    for number, source in enumerate(egress.sources):
        yield from _source(source, at / "sources" / number)
    for number, host in enumerate(egress.hosts):
        if not hosts.is_name(host) and not hosts.is_wildcard(host):
            text = f"'{host}' is neither a DNS name nor '*.' and a DNS name"
            yield (at / "hosts" / number).error("eg-host-syntax", text)
    for number, cidr in enumerate(egress.ip_addresses):
        if "/" not in cidr or hosts.network(cidr) is None:
            yield (at / "ipAddresses" / number).error("eg-cidr", f"'{cidr}' is not a CIDR such as 10.0.0.0/8")
    yield from _ports(egress, at)
    yield from _matches(egress, at / "matches")


def _source(source: osm.EgressSource, at: Field) -> Iterator[Complaint]:
    if source.kind != "ServiceAccount":
        yield (at / "kind").error("eg-source-kind", f"'{source.kind}' is not ServiceAccount")
    if not source.namespace:
        yield (at / "namespace").error("eg-source-namespace", "is required")


def _ports(egress: osm.Egress, at: Field) -> Iterator[Complaint]:
    if not egress.ports:
        yield (at / "ports").error("eg-no-port", "must list at least one port")
    for number, port in enumerate(egress.ports):
        here = at / "ports" / number / "protocol"
        protocol = port.protocol.lower()
        yield from one_of(here, "eg-protocol", protocol, PROTOCOLS)
        if protocol in ("http", "https") and not egress.hosts:
            yield here.warning("eg-no-hosts", f"'{protocol}' without hosts allows nothing")
        if protocol == "http":
            yield from _http_limits(egress, at)


def _http_limits(egress: osm.Egress, at: Field) -> Iterator[Complaint]:
    if egress.ip_addresses:
        text = "do not limit protocol http, which goes to the addresses of the host"
        yield (at / "ipAddresses").warning("eg-http-ip-ignored", text)
    for number, host in enumerate(egress.hosts):
        if host.startswith("*"):
            text = f"'{host}' cannot be looked up: protocol http answers 503 for it"
            yield (at / "hosts" / number).warning("eg-http-wildcard", text)


def _matches(egress: osm.Egress, at: Field) -> Iterator[Complaint]:
    settings = 0
    for number, match in enumerate(egress.matches):
        kind = (match.api_group, match.kind)
        settings += kind == TRAFFIC_SETTING
        if kind not in (ROUTE_GROUP, TRAFFIC_SETTING):
            text = f"'{match.api_group}' '{match.kind}' is neither an HTTPRouteGroup nor an UpstreamTrafficSetting"
            yield (at / number / "kind").error("eg-match-kind", text)
    if settings > 1:
        yield at.error("eg-two-uts", "names more than one UpstreamTrafficSetting")


def check_route_group(group: osm.HttpRouteGroup, at: Field, *, compat_1_0: bool = False) -> Iterator[Complaint]:
    del compat_1_0
    for number, match in enumerate(group.matches):
        here = at / "matches" / number
        yield from check_regex(here / "pathRegex", match.path_regex)
        for index, method in enumerate(match.methods):
            if not _TOKEN.fullmatch(method):
                yield (here / "methods" / index).error("rg-method", f"'{method}' is not a method")
        for name, pattern in match.headers.items():
            if not _TOKEN.fullmatch(name):
                yield (here / "headers" / name).error("rg-header-name", f"'{name}' is not a header name")
            yield from check_regex(here / "headers" / name, pattern)


def check_upstream_traffic_setting(
    setting: osm.UpstreamTrafficSetting, at: Field, *, compat_1_0: bool = False
) -> Iterator[Complaint]:
    del compat_1_0
    if setting.rate_limit is not None:
        yield (at / "rateLimit").warning("uts-ignored", "does not apply to egress")
    if setting.http_routes:
        yield (at / "httpRoutes").warning("uts-ignored", "do not apply to egress")
    tcp = setting.connection_settings.tcp
    if tcp:
        yield from positive(at / "connectionSettings" / "tcp" / "connectTimeout", tcp.connect_timeout)


def check_mesh_config(mesh: osm.OsmMeshConfig, at: Field, *, compat_1_0: bool = False) -> Iterator[Complaint]:
    """Two booleans, of which the types say all there is to say."""
    del mesh, at, compat_1_0
    yield from ()
