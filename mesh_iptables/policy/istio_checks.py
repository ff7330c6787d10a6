"""What one Istio document may say: the rules and ids of the reference, one function per message. Pure.

Each function yields complaints about the value it is given; `at` is the field the value stands in. Whatever
passes without an error can be compiled, and written as an Envoy bootstrap that Envoy accepts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mesh_iptables.policy import hosts, regex
from mesh_iptables.policy import istio_schema as istio
from mesh_iptables.policy.complaint import Complaint, Field
from mesh_iptables.policy.model import RETRY_TOKENS

OUTBOUND_MODES = ("ALLOW_ANY", "REGISTRY_ONLY")
RESOLUTIONS = ("NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN")
DNS_RESOLUTIONS = ("DNS", "DNS_ROUND_ROBIN")
LOCATIONS = ("MESH_EXTERNAL", "MESH_INTERNAL")
REDIRECT_CODES = (301, 302, 303, 307, 308)
BALANCERS = ("UNSPECIFIED", "LEAST_REQUEST", "LEAST_CONN", "ROUND_ROBIN", "RANDOM", "PASSTHROUGH")
H2_POLICIES = ("DEFAULT", "DO_NOT_UPGRADE", "UPGRADE")
HTTP_PROTOCOLS = ("HTTP", "HTTP2", "GRPC", "GRPC-WEB")
TLS_PROTOCOLS = ("HTTPS", "TLS")
TCP_PROTOCOLS = ("TCP", "MONGO", "REDIS", "MYSQL")
MESH_GATEWAY = "mesh"

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\U0010ffff]*")
_AUTHORITY = re.compile(r"[A-Za-z0-9._~:\[\]-]+")
_TARGET = re.compile(r"[\x21-\x7e]*")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def one_of(at: Field, identifier: str, value: str, allowed: Sequence[str]) -> Iterator[Complaint]:
    if value not in allowed:
        yield at.error(identifier, f"'{value}' is not one of {', '.join(allowed)}")


def check_regex(at: Field, pattern: str) -> Iterator[Complaint]:
    try:
        regex.check(pattern)
    except ValueError as error:
        yield at.error("bad-regex", f"'{pattern}' is not an RE2 expression: {error}")


def positive(at: Field, duration: float | None) -> Iterator[Complaint]:
    if duration is not None and duration < 0.001:
        yield at.error("bad-duration", "must be at least 1ms")


# --- mesh settings and visibility --------------------------------------------------------------------------


def check_mesh_config(mesh: istio.MeshConfig, at: Field, *, compat_1_0: bool = False) -> Iterator[Complaint]:
    del compat_1_0  # the rules are those of today
    if mesh.outbound_traffic_policy:
        yield from _outbound_policy(mesh.outbound_traffic_policy, at / "outboundTrafficPolicy")
    yield from positive(at / "connectTimeout", mesh.connect_timeout)
    yield from positive(at / "dnsRefreshRate", mesh.dns_refresh_rate)
    if mesh.default_http_retry_policy:
        yield from _retry(mesh.default_http_retry_policy, at / "defaultHttpRetryPolicy")
    yield from _export_to(mesh.default_service_export_to, at / "defaultServiceExportTo")
    yield from _export_to(mesh.default_virtual_service_export_to, at / "defaultVirtualServiceExportTo")
    yield from _export_to(mesh.default_destination_rule_export_to, at / "defaultDestinationRuleExportTo")


def _outbound_policy(policy: istio.MeshOutboundTrafficPolicy, at: Field) -> Iterator[Complaint]:
    if policy.mode is not None:
        yield from one_of(at / "mode", "mesh-outbound-mode", policy.mode, OUTBOUND_MODES)


def check_sidecar(sidecar: istio.Sidecar, at: Field, *, compat_1_0: bool = False) -> Iterator[Complaint]:
    del compat_1_0
    if sidecar.outbound_traffic_policy:
        yield from _outbound_policy(sidecar.outbound_traffic_policy, at / "outboundTrafficPolicy")
    for number, egress in enumerate(sidecar.egress):
        here = at / "egress" / number
        if not egress.hosts:
            yield (here / "hosts").error("sidecar-host", "must name at least one namespace/host")
        for i, host in enumerate(egress.hosts):
            yield from _sidecar_host(host, here / "hosts" / i)
        for name, value in (("port", egress.port), ("bind", egress.bind), ("captureMode", egress.capture_mode)):
            if value is not None:
                yield (here / name).warning("sidecar-egress-port", "is not supported and has no effect")


def _sidecar_host(text: str, at: Field) -> Iterator[Complaint]:
    namespace, slash, host = text.partition("/")
    known_namespace = namespace in (".", "*", "~") or _NAMESPACE.fullmatch(namespace)
    if not slash or not known_namespace or not (host == "*" or hosts.is_name(host) or hosts.is_wildcard(host)):
        yield at.error("sidecar-host", f"'{text}' is not NAMESPACE/HOST, such as ./*, */api.example.com or ~/*")


def _export_to(names: Sequence[str], at: Field, *, nobody: bool = True) -> Iterator[Complaint]:
    if len(names) > 1 and "*" in names:
        yield at.error("exportto-star-mixed", "names '*' (everybody) beside others")
    if len(names) > 1 and "~" in names:
        yield at.error("exportto-none-mixed", "names '~' (nobody) beside others")
    if len(set(names)) < len(names):
        yield at.error("exportto-dup", "names one namespace twice")
    for number, name in enumerate(names):
        if name == "~" and not nobody:
            yield (at / number).error("vs-exportto-none", "'~' is not allowed in a VirtualService")
        elif name not in (".", "*", "~") and not _NAMESPACE.fullmatch(name):
            yield (at / number).error("exportto-syntax", f"'{name}' is not '.', '*', '~' or a namespace")


def _scope(config_scope: str | None, export_to: Sequence[str], at: Field) -> Iterator[Complaint]:
    if config_scope is None:
        return
    here = at / "configScope"
    yield here.warning("configscope-historic", "is historic: write exportTo ('.' for PRIVATE) instead")
    yield from one_of(here, "configscope-value", config_scope, ("PUBLIC", "PRIVATE"))
    if export_to:
        yield here.error("configscope-and-exportto", "stands beside exportTo, which says the same")


# --- services ----------------------------------------------------------------------------------------------


def check_service_entry(entry: istio.ServiceEntry, at: Field, *, compat_1_0: bool = False) -> Iterator[Complaint]:
    del compat_1_0
    if not entry.hosts:
        yield (at / "hosts").error("se-no-host", "must name at least one host")
    for number, host in enumerate(entry.hosts):
        yield from _service_host(host, at / "hosts" / number)
    yield from _resolution(entry, at / "resolution")
    for number, address in enumerate(entry.addresses):
        yield from _service_address(address, entry.resolution, at / "addresses" / number)
    yield from _service_ports(entry, at / "ports")
    yield from one_of(at / "location", "se-location", entry.location, LOCATIONS)
    if entry.location == "MESH_INTERNAL":
        yield (at / "location").warning("se-internal-no-mtls", "turns on no mTLS: there is no mesh identity here")
    yield from _service_endpoints(entry, at)
    yield from _export_to(entry.export_to, at / "exportTo")
    yield from _scope(entry.config_scope, entry.export_to, at)


def _service_host(host: str, at: Field) -> Iterator[Complaint]:
    if host == "*":
        yield at.error("se-host-star", "'*' would take every host; name them, or use outboundTrafficPolicy")
    elif hosts.has_partial_wildcard(host):
        yield at.warning("se-host-partial-wildcard", f"'{host}' matches nothing: '*' stands for whole labels")
    elif not hosts.is_name(host) and not hosts.is_wildcard(host):
        yield at.error("se-host-syntax", f"'{host}' is neither a DNS name nor '*.' and a DNS name")


def _resolution(entry: istio.ServiceEntry, at: Field) -> Iterator[Complaint]:
    if entry.resolution == "DYNAMIC_DNS":
        yield at.error("se-dynamic-dns", "'DYNAMIC_DNS' is not supported")
        return
    yield from one_of(at, "se-resolution", entry.resolution, RESOLUTIONS)


def _service_address(address: str, resolution: str, at: Field) -> Iterator[Complaint]:
    network = hosts.network(address)
    if network is None:
        yield at.error("se-address", f"'{address}' is neither an address nor a CIDR")
    elif not hosts.is_single(network) and resolution not in ("NONE", "STATIC"):
        text = f"'{address}' is a range, which goes with resolution NONE or STATIC only"
        yield at.error("se-cidr-resolution", text)


def _service_ports(entry: istio.ServiceEntry, at: Field) -> Iterator[Complaint]:
    if not entry.ports:
        yield at.error("se-no-port", "must list at least one port")
    numbers: set[int] = set()
    names: set[str] = set()
    for index, port in enumerate(entry.ports):
        here = at / index
        if port.number in numbers:
            yield (here / "number").error("se-port-dup", f"{port.number} is there twice")
        if not port.name:
            yield (here / "name").error("se-port-name", "is required")
        elif port.name in names:
            yield (here / "name").error("se-port-name-dup", f"'{port.name}' is there twice")
        numbers.add(port.number)
        names.add(port.name)
        yield from _service_protocol(entry, port.protocol.upper(), here / "protocol")


def _service_protocol(entry: istio.ServiceEntry, protocol: str, at: Field) -> Iterator[Complaint]:
    known = (*HTTP_PROTOCOLS, *TLS_PROTOCOLS, *TCP_PROTOCOLS)
    if protocol == "UDP":
        yield at.note("se-udp-ignored", "UDP ports have no effect: only TCP is captured")
    elif protocol and protocol not in known:
        text = f"'{protocol}' is not one of {', '.join(known)}; the protocol is detected from the first bytes"
        yield at.warning("se-protocol-unknown", text)
    if protocol in ("TCP", "") and not entry.addresses:
        yield at.warning("se-tcp-needs-address", "without addresses this takes the port of every destination")
    several_names = len(entry.hosts) > 1 and entry.resolution != "NONE"
    if several_names and protocol not in (*HTTP_PROTOCOLS, *TLS_PROTOCOLS, "UDP"):
        text = "several hosts cannot be told apart on a port that is neither HTTP nor TLS"
        yield at.error("se-multi-host-tcp", text)


def _service_endpoints(entry: istio.ServiceEntry, at: Field) -> Iterator[Complaint]:
    endpoints = at / "endpoints"
    if entry.endpoints and entry.workload_selector:
        text = "stands beside endpoints: choose one of the two"
        yield (at / "workloadSelector").error("se-selector-and-endpoints", text)
    if entry.endpoints and entry.resolution == "NONE":
        yield endpoints.error("se-none-endpoints", "have no use with resolution NONE")
    if len(entry.endpoints) > 1 and entry.resolution == "DNS_ROUND_ROBIN":
        yield endpoints.error("se-rr-one-endpoint", "may be one at most with resolution DNS_ROUND_ROBIN")
    for number, endpoint in enumerate(entry.endpoints):
        yield from _endpoint(entry, endpoint, endpoints / number)
    if entry.workload_selector:
        yield from _service_selector(entry, entry.workload_selector, at / "workloadSelector")
    elif entry.resolution in DNS_RESOLUTIONS and not entry.endpoints:
        for number, host in enumerate(entry.hosts):
            if "*" in host:
                text = f"'{host}' cannot be looked up; give endpoints, or a resolution other than {entry.resolution}"
                yield (at / "hosts" / number).error("se-dns-wildcard", text)


def _endpoint(entry: istio.ServiceEntry, endpoint: istio.ServiceEndpoint, at: Field) -> Iterator[Complaint]:
    address = endpoint.address
    if entry.resolution == "STATIC" and not hosts.is_address(address):
        yield (at / "address").error("se-endpoint-ip", f"'{address}' is not an address, as resolution STATIC needs")
    elif entry.resolution in DNS_RESOLUTIONS and not hosts.is_address(address) and not hosts.is_name(address):
        yield (at / "address").error("se-endpoint-address", f"'{address}' is neither an address nor a DNS name")
    declared = {port.name for port in entry.ports}
    for name in endpoint.ports.keys() - declared:
        yield (at / "ports" / name).error("se-endpoint-port", f"'{name}' is not the name of a port of this entry")
    yield from _place(endpoint, at)


def _place(endpoint: istio.ServiceEndpoint | istio.WorkloadEntry, at: Field) -> Iterator[Complaint]:
    places = {"locality": endpoint.locality, "network": endpoint.network, "serviceAccount": endpoint.service_account}
    for name, value in places.items():
        if value:
            yield (at / name).note("no-effect", "has no effect: wherever an endpoint is, it counts like the others")


def _service_selector(entry: istio.ServiceEntry, selector: istio.WorkloadSelector, at: Field) -> Iterator[Complaint]:
    if entry.resolution == "NONE":
        yield at.warning("se-none-selector", "has no effect with resolution NONE")
    if not selector.labels:
        yield at.warning("se-selector-no-labels", "without labels selects every WorkloadEntry of the namespace")


def check_workload_entry(entry: istio.WorkloadEntry, at: Field, *, compat_1_0: bool = False) -> Iterator[Complaint]:
    del compat_1_0
    here = at / "address"
    if not entry.address:
        yield here.error("we-no-address", "is required")
    elif entry.address.startswith("unix:"):
        yield here.error("we-unix", "unix sockets are not supported")
    elif not hosts.is_address(entry.address) and not hosts.is_name(entry.address):
        yield here.error("we-address", f"'{entry.address}' is neither an address nor a DNS name")
    yield from _place(entry, at)


# --- routing -----------------------------------------------------------------------------------------------


def check_virtual_service(service: istio.VirtualService, at: Field, *, compat_1_0: bool = False) -> Iterator[Complaint]:
    yield from _virtual_hosts(service.hosts, at / "hosts")
    yield from _export_to(service.export_to, at / "exportTo", nobody=False)
    yield from _scope(service.config_scope, service.export_to, at)
    if service.gateways and MESH_GATEWAY not in service.gateways:
        yield (at / "gateways").warning("vs-gateway-bound", "names gateways only: it has no effect in a sidecar")
    if not (service.http or service.tls or service.tcp):
        yield at.error("vs-no-action", "has none of http, tls and tcp")
    for number, http in enumerate(service.http):
        yield from _http_route(http, at / "http" / number)
    for number, tls in enumerate(service.tls):
        yield from _tls_route(service, tls, at / "tls" / number)
        yield from _tcp_destinations(tls.route, at / "tls" / number / "route", compat_1_0=compat_1_0)
    for number, tcp in enumerate(service.tcp):
        for index, match in enumerate(tcp.match):
            yield from _subnets(match.destination_subnets, at / "tcp" / number / "match" / index)
        yield from _tcp_destinations(tcp.route, at / "tcp" / number / "route", compat_1_0=compat_1_0)


def _virtual_hosts(names: Sequence[str], at: Field) -> Iterator[Complaint]:
    if not names:
        yield at.error("vs-no-host", "must name at least one host")
    for number, name in enumerate(names):
        here = at / number
        if name == "*":
            yield here.error("vs-host-star", "'*' is for gateways; name the hosts")
        elif not hosts.is_name(name) and not hosts.is_wildcard(name):
            yield here.error("vs-host-syntax", f"'{name}' is neither a DNS name nor '*.' and a DNS name")
        for earlier in names[:number]:
            if hosts.overlap(hosts.canonical(earlier), hosts.canonical(name)):
                yield here.error("vs-host-dup", f"'{name}' overlaps '{earlier}'")
                break


def _http_route(route: istio.HttpRoute, at: Field) -> Iterator[Complaint]:
    for number, match in enumerate(route.match):
        yield from _http_match(match, at / "match" / number)
    yield from _http_action(route, at)
    if route.retries:
        yield from _retry(route.retries, at / "retries")
    if route.fault:
        yield from _fault(route, route.fault, at / "fault")
    if route.rewrite:
        yield from _rewrite(route.rewrite, at / "rewrite")
    yield from _header_operations(route.headers, at / "headers")
    for number, mirror in enumerate(route.mirrors):
        yield from _percentage(mirror.percentage, at / "mirrors" / number / "percentage")
    yield from _percentage(route.mirror_percentage, at / "mirrorPercentage")


def _http_action(route: istio.HttpRoute, at: Field) -> Iterator[Complaint]:
    actions = [bool(route.route), route.redirect is not None, route.direct_response is not None]
    if not any(actions):
        yield at.error("vs-no-action", "has none of route, redirect and directResponse")
    if sum(actions) > 1:
        yield at.error("vs-two-actions", "has more than one of route, redirect and directResponse")
    yield from _weights(route.route, at / "route")
    for number, destination in enumerate(route.route):
        yield from _header_operations(destination.headers, at / "route" / number / "headers")
        yield from _destination(destination.destination, at / "route" / number / "destination")
    if route.redirect:
        yield from _redirect(route.redirect, at / "redirect")
    if route.direct_response and not 200 <= route.direct_response.status <= 599:
        text = f"{route.direct_response.status} is not between 200 and 599"
        yield (at / "directResponse" / "status").error("vs-direct-response-status", text)


def _weights(destinations: Sequence[istio.HttpDestination | istio.TcpDestination], at: Field) -> Iterator[Complaint]:
    total = sum(destination.weight or 0 for destination in destinations)
    if len(destinations) > 1 and total == 0:
        yield at.error("vs-zero-weight", "has several destinations whose weights sum up to 0")
    if total > 4294967295:
        yield at.error("vs-weight-sum", "has weights that sum up to more than 4294967295")


def _destination(destination: istio.Destination, at: Field) -> Iterator[Complaint]:
    if not hosts.is_name(destination.host) and not hosts.is_wildcard(destination.host):
        yield (at / "host").error("vs-destination-host", f"'{destination.host}' is not a DNS name")


def _http_match(match: istio.HttpMatch, at: Field) -> Iterator[Complaint]:
    for name in ("uri", "scheme", "method", "authority"):
        value: istio.StringMatch | None = getattr(match, name)
        if value is not None:
            yield from _string_match(value, at / name)
    yield from _named_matches(match.headers, at / "headers")
    yield from _named_matches(match.without_headers, at / "withoutHeaders")
    for name, value in match.query_params.items():
        yield from _string_match(value, at / "queryParams" / name, may_be_empty=True)


def _named_matches(matches: Mapping[str, istio.StringMatch], at: Field) -> Iterator[Complaint]:
    for name, match in matches.items():
        if not _HEADER_NAME.fullmatch(name):
            yield (at / name).error("vs-header-name", f"'{name}' is not a header name")
        if match.regex != "*":  # which means: present
            yield from _string_match(match, at / name, may_be_empty=True)


def _string_match(match: istio.StringMatch, at: Field, *, may_be_empty: bool = False) -> Iterator[Complaint]:
    given = [value for value in (match.exact, match.prefix, match.regex) if value is not None]
    if len(given) > 1:
        yield at.error("vs-match-two", "has more than one of exact, prefix and regex")
    if not given and not may_be_empty:
        yield at.error("vs-match-empty", "has none of exact, prefix and regex")
    if match.regex is not None:
        yield from check_regex(at / "regex", match.regex)


def _redirect(redirect: istio.HttpRedirect, at: Field) -> Iterator[Complaint]:
    if redirect.redirect_code not in REDIRECT_CODES:
        text = f"{redirect.redirect_code} is not one of {', '.join(map(str, REDIRECT_CODES))}"
        yield (at / "redirectCode").error("vs-redirect-code", text)
    if not (redirect.uri or redirect.authority or redirect.scheme):
        yield at.error("vs-redirect-empty", "has none of uri, authority and scheme")
    if redirect.uri and not (redirect.uri.startswith("/") and _TARGET.fullmatch(redirect.uri)):
        yield (at / "uri").error("vs-redirect-uri", f"'{redirect.uri}' is not a path")
    if redirect.scheme and not _SCHEME.fullmatch(redirect.scheme):
        yield (at / "scheme").error("vs-redirect-scheme", f"'{redirect.scheme}' is not a scheme")
    yield from _authority(redirect.authority, at / "authority")


def _authority(text: str, at: Field) -> Iterator[Complaint]:
    if text and not _AUTHORITY.fullmatch(text):
        yield at.error("vs-authority", f"'{text}' is not a host with or without a port")


def _retry(retry: istio.HttpRetry, at: Field) -> Iterator[Complaint]:
    if not 0 <= retry.attempts <= 2147483647:
        yield (at / "attempts").error("vs-retry-attempts", f"{retry.attempts} must not be negative")
    if retry.attempts == 0 and (retry.per_try_timeout or retry.retry_on or retry.backoff is not None):
        yield at.error("vs-retry-disabled-with-fields", "sets other fields while attempts 0 switches retries off")
    yield from positive(at / "backoff", retry.backoff)
    for token in retry_tokens(retry.retry_on):
        if token not in RETRY_TOKENS and not _is_status(token):
            text = f"'{token}' is neither a status code nor one of {', '.join(sorted(RETRY_TOKENS))}"
            yield (at / "retryOn").error("vs-retry-on", text)


def retry_tokens(text: str) -> list[str]:
    return [token.strip() for token in text.split(",") if token.strip()]


def _is_status(token: str) -> bool:
    return len(token) == 3 and token.isascii() and token.isdecimal() and 100 <= int(token) <= 599


def _fault(route: istio.HttpRoute, fault: istio.HttpFault, at: Field) -> Iterator[Complaint]:
    if fault.delay is None and fault.abort is None:
        yield at.error("vs-empty-fault", "has neither delay nor abort")
    if route.redirect or route.direct_response:
        yield at.error("vs-fault-with-redirect", "cannot stand beside redirect or directResponse")
    if fault.delay:
        if fault.delay.fixed_delay is None:
            yield (at / "delay").error("vs-fault-no-delay", "has no fixedDelay")
        yield from positive(at / "delay" / "fixedDelay", fault.delay.fixed_delay)
        yield from _fault_percentage(fault.delay.percentage, at / "delay")
    if fault.abort:
        status = fault.abort.http_status
        if status is None:
            yield (at / "abort").warning("vs-fault-no-status", "has no httpStatus: it does nothing")
        elif not 200 <= status <= 599:
            yield (at / "abort" / "httpStatus").error("vs-fault-status", f"{status} is not between 200 and 599")
        yield from _fault_percentage(fault.abort.percentage, at / "abort")


def _fault_percentage(percent: istio.Percent | None, at: Field) -> Iterator[Complaint]:
    if percent is None:
        yield at.warning("vs-fault-no-percentage", "has no percentage: it never fires")
    yield from _percentage(percent, at / "percentage")


def _percentage(percent: istio.Percent | None, at: Field) -> Iterator[Complaint]:
    if percent is not None and not 0 <= percent.value <= 100:
        yield (at / "value").error("vs-percentage", f"{percent.value} is not between 0 and 100")


def _rewrite(rewrite: istio.HttpRewrite, at: Field) -> Iterator[Complaint]:
    if rewrite.uri and rewrite.uri_regex_rewrite:
        yield at.error("vs-rewrite-two", "has both uri and uriRegexRewrite")
    if not (rewrite.uri or rewrite.uri_regex_rewrite or rewrite.authority):
        yield at.error("vs-rewrite-empty", "has none of uri, uriRegexRewrite and authority")
    if not _TARGET.fullmatch(rewrite.uri):
        yield (at / "uri").error("vs-rewrite-uri", f"'{rewrite.uri}' holds a blank or a control character")
    yield from _authority(rewrite.authority, at / "authority")
    if rewrite.uri_regex_rewrite:
        yield from _regex_rewrite(rewrite.uri_regex_rewrite, at / "uriRegexRewrite")


def _regex_rewrite(rewrite: istio.UriRegexRewrite, at: Field) -> Iterator[Complaint]:
    if not rewrite.match:
        yield (at / "match").error("bad-regex", "is required")
        return
    yield from check_regex(at / "match", rewrite.match)
    if not _TARGET.fullmatch(rewrite.rewrite):
        yield (at / "rewrite").error("vs-rewrite-uri", "holds a blank or a control character")
        return
    try:
        regex.check_substitution(rewrite.match, rewrite.rewrite)
    except ValueError as error:
        yield (at / "rewrite").error("bad-regex", f"'{rewrite.rewrite}': {error}")


def _header_operations(headers: istio.Headers, at: Field) -> Iterator[Complaint]:
    for direction, operations in (("request", headers.request), ("response", headers.response)):
        here = at / direction
        may_set_host = direction == "request"
        for name, value in operations.set.items():
            if may_set_host and is_authority(name):
                yield from _authority(value, here / "set" / name)
            else:
                yield from _header(name, value, here / "set" / name)
        for name, value in operations.add.items():
            yield from _header(name, value, here / "add" / name)
        for number, name in enumerate(operations.remove):
            yield from _header(name, "", here / "remove" / number)


def is_authority(header: str) -> bool:
    """Whether setting this header means to rewrite the authority."""
    return header.lower() in (":authority", "host")


def _header(name: str, value: str, at: Field) -> Iterator[Complaint]:
    if not _HEADER_NAME.fullmatch(name) or is_authority(name):
        yield at.error("vs-header-name", f"'{name}' is not a header that can be changed")
    if not _HEADER_VALUE.fullmatch(value):
        yield at.error("vs-header-value", "holds a control character")


def _tls_route(service: istio.VirtualService, route: istio.TlsRoute, at: Field) -> Iterator[Complaint]:
    if not route.match:
        yield (at / "match").error("vs-tls-no-match", "needs at least one match")
    patterns = [hosts.canonical(host) for host in service.hosts]
    for number, match in enumerate(route.match):
        here = at / "match" / number
        if not match.sni_hosts:
            yield (here / "sniHosts").error("vs-tls-sni-required", "is required")
        for index, name in enumerate(match.sni_hosts):
            if not any(hosts.covers(pattern, hosts.canonical(name)) for pattern in patterns):
                text = f"'{name}' is not covered by any of hosts"
                yield (here / "sniHosts" / index).error("vs-tls-sni-not-in-hosts", text)
            elif not hosts.is_name(name) and not hosts.is_wildcard(name):
                yield (here / "sniHosts" / index).error("vs-host-syntax", f"'{name}' is not a DNS name")
        yield from _subnets(match.destination_subnets, here)


def _subnets(subnets: Iterable[str], at: Field) -> Iterator[Complaint]:
    for number, subnet in enumerate(subnets):
        if hosts.network(subnet) is None:
            text = f"'{subnet}' is neither an address nor a CIDR"
            yield (at / "destinationSubnets" / number).error("vs-subnet", text)


def _tcp_destinations(
    destinations: Sequence[istio.TcpDestination], at: Field, *, compat_1_0: bool
) -> Iterator[Complaint]:
    if not destinations:
        yield at.error("vs-no-action", "is required")
    yield from _weights(destinations, at)
    for number, destination in enumerate(destinations):
        yield from _destination(destination.destination, at / number / "destination")
    odd_weight = any(destination.weight not in (None, 100) for destination in destinations)
    if compat_1_0 and (len(destinations) > 1 or odd_weight):
        yield at.error("vs-tls-one-destination", "must be one destination with weight 100 in compat 1.0")


# --- traffic policy ----------------------------------------------------------------------------------------


def check_destination_rule(rule: istio.DestinationRule, at: Field, *, compat_1_0: bool = False) -> Iterator[Complaint]:
    del compat_1_0
    if not hosts.is_name(rule.host) and not hosts.is_wildcard(rule.host):
        yield (at / "host").error("dr-host", f"'{rule.host}' is neither a DNS name nor '*.' and a DNS name")
    yield from _export_to(rule.export_to, at / "exportTo")
    yield from _scope(rule.config_scope, rule.export_to, at)
    if rule.traffic_policy:
        yield from _traffic_policy(rule.traffic_policy, at / "trafficPolicy")
    names: set[str] = set()
    for number, subset in enumerate(rule.subsets):
        here = at / "subsets" / number
        if subset.name in names or not subset.name:
            yield (here / "name").error("dr-subset-dup", f"'{subset.name}' is empty or there twice")
        names.add(subset.name)
        if subset.traffic_policy:
            yield from _traffic_policy(subset.traffic_policy, here / "trafficPolicy")


def _traffic_policy(policy: istio.TrafficPolicy, at: Field) -> Iterator[Complaint]:
    yield from _policy_parts(policy, at)
    ports: set[int] = set()
    for number, settings in enumerate(policy.port_level_settings):
        here = at / "portLevelSettings" / number
        if settings.port.number in ports:
            yield (here / "port").error("dr-port-dup", f"{settings.port.number} is there twice")
        ports.add(settings.port.number)
        yield from _policy_parts(settings, here)


def _policy_parts(policy: istio.TrafficPolicy | istio.PortTrafficPolicy, at: Field) -> Iterator[Complaint]:
    if policy.tls:
        yield from _client_tls(policy.tls, at / "tls")
    if policy.connection_pool:
        yield from _connection_pool(policy.connection_pool, at / "connectionPool")
    if policy.outlier_detection:
        here = at / "outlierDetection"
        yield from positive(here / "interval", policy.outlier_detection.interval)
        yield from positive(here / "baseEjectionTime", policy.outlier_detection.base_ejection_time)
    if policy.load_balancer:
        yield from _load_balancer(policy.load_balancer, at / "loadBalancer")


def _client_tls(tls: istio.ClientTls, at: Field) -> Iterator[Complaint]:
    if tls.mode == "ISTIO_MUTUAL":
        yield (at / "mode").error("dr-istio-mutual", "ISTIO_MUTUAL needs a mesh identity, which is not here")
        return
    yield from one_of(at / "mode", "dr-tls-mode", tls.mode, ("DISABLE", "SIMPLE", "MUTUAL"))
    if tls.mode == "DISABLE":
        return
    if tls.credential_name:
        yield (at / "credentialName").error("dr-credential-name", "is not supported: name files")
    if tls.mode == "MUTUAL" and not (tls.client_certificate and tls.private_key):
        yield at.error("dr-mutual-files", "needs clientCertificate and privateKey in mode MUTUAL")
    if tls.insecure_skip_verify:
        yield (at / "insecureSkipVerify").warning("dr-insecure", "switches every check of the certificate off")
    elif tls.sni and not tls.subject_alt_names:
        text = "switches the check of the certificate's name off; add subjectAltNames"
        yield (at / "sni").warning("dr-sni-no-name-check", text)
    if tls.sni and not hosts.is_name(tls.sni):
        yield (at / "sni").error("dr-sni", f"'{tls.sni}' is not a DNS name")


def _connection_pool(pool: istio.ConnectionPool, at: Field) -> Iterator[Complaint]:
    if pool.tcp:
        yield from positive(at / "tcp" / "connectTimeout", pool.tcp.connect_timeout)
    if pool.http:
        here = at / "http" / "h2UpgradePolicy"
        yield from one_of(here, "dr-h2-policy", pool.http.h2_upgrade_policy, H2_POLICIES)


def _load_balancer(balancer: istio.LoadBalancer, at: Field) -> Iterator[Complaint]:
    if balancer.simple is not None:
        yield from one_of(at / "simple", "dr-lb", balancer.simple, BALANCERS)
    consistent = balancer.consistent_hash
    if consistent is None:
        return
    if balancer.simple is not None:
        yield at.error("dr-lb-two", "has both simple and consistentHash")
    keys = (
        bool(consistent.http_header_name),
        bool(consistent.http_query_parameter_name),
        consistent.use_source_ip,
        consistent.http_cookie is not None,
    )
    if consistent.minimum_ring_size:
        yield (at / "consistentHash" / "minimumRingSize").note("no-effect", "has no effect: all rings are alike")
    if sum(keys) != 1:
        yield (at / "consistentHash").error("dr-hash-key", "needs exactly one key to hash")
    if consistent.http_header_name and not _HEADER_NAME.fullmatch(consistent.http_header_name):
        yield (at / "consistentHash" / "httpHeaderName").error("vs-header-name", "is not a header name")
    if consistent.http_cookie and not _HEADER_NAME.fullmatch(consistent.http_cookie.name):
        yield (at / "consistentHash" / "httpCookie" / "name").error("dr-hash-key", "is not a cookie name")
