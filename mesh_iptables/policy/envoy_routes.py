"""Route tables of the model as Envoy v3 route configurations. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import assert_never

import re2  # type: ignore[import-untyped]  # the binding carries no types

from mesh_iptables.policy.durations import render_seconds
from mesh_iptables.policy.model import (
    Cluster,
    ClusterKind,
    DirectResponse,
    Fault,
    HashPolicy,
    HashSource,
    HeaderOperations,
    MatchKind,
    NamedMatch,
    Redirect,
    RequestMatch,
    RetryPolicy,
    Rewrite,
    RouteTable,
    RouteTo,
    Rule,
    StringMatch,
    VirtualHost,
    WeightedCluster,
)

Message = dict[str, object]

FAULT_FILTER = "envoy.filters.http.fault"
_HTTP_PORT = 80
FORWARD_FILTER = "envoy.filters.http.dynamic_forward_proxy"

_REDIRECT_CODES = {
    301: "MOVED_PERMANENTLY",
    302: "FOUND",
    303: "SEE_OTHER",
    307: "TEMPORARY_REDIRECT",
    308: "PERMANENT_REDIRECT",
}


def typed(type_url: str, **fields: object) -> Message:
    """A message that carries its own type."""
    return {"@type": f"type.googleapis.com/{type_url}", **fields}


def route_configuration(table: RouteTable, clusters: Mapping[str, Cluster], *, attempt_count: bool) -> Message:
    vhosts = [*table.vhosts, table.fallback] if table.fallback else table.vhosts
    return {
        "name": table.name,
        "virtual_hosts": [_virtual_host(vhost, clusters, attempt_count=attempt_count) for vhost in vhosts],
        "ignore_port_in_host_matching": table.ignore_port,
        # a rule may name a cluster that does not exist: answered 503, not refused at start
        "validate_clusters": False,
    }


def _virtual_host(vhost: VirtualHost, clusters: Mapping[str, Cluster], *, attempt_count: bool) -> Message:
    message: Message = {
        "name": vhost.name,
        "domains": list(vhost.domains),
        "routes": [_route(rule) for rule in vhost.rules],
    }
    if attempt_count:
        message["include_request_attempt_count"] = True
    forward = _forward_name(vhost, clusters)
    if forward:
        message["typed_per_filter_config"] = {FORWARD_FILTER: forward}
    return message


def _forward_name(vhost: VirtualHost, clusters: Mapping[str, Cluster]) -> Message | None:
    """The one name and port that an exact virtual host resolves, where Host without a port would mean another port."""
    name = vhost.domains[0]
    if name.startswith("*") or not vhost.rules or not isinstance(vhost.rules[0].action, RouteTo):
        return None
    cluster = clusters.get(vhost.rules[0].action.targets[0].cluster)
    if cluster is None or cluster.kind is not ClusterKind.FORWARD or cluster.port_override == _HTTP_PORT:
        return None
    url = "envoy.extensions.filters.http.dynamic_forward_proxy.v3.PerRouteConfig"
    return typed(url, host_rewrite_literal=f"{name}:{cluster.port_override}")


def _route(rule: Rule) -> Message:
    message: Message = {"name": rule.name, "match": route_match(rule.match)}
    action = rule.action
    match action:
        case RouteTo(targets):
            message["route"] = _route_action(rule, targets)
        case Redirect():
            message["redirect"] = _redirect(action)
        case DirectResponse(status, body):
            message["direct_response"] = {"status": status, **({"body": {"inline_string": body}} if body else {})}
        case _:
            assert_never(action)
    message.update(header_fields(rule.request_headers, rule.response_headers))
    if rule.fault:
        message["typed_per_filter_config"] = {FAULT_FILTER: _fault(rule.fault)}
    return message


# --- matches -----------------------------------------------------------------------------------------------


def route_match(match: RequestMatch) -> Message:
    message = _path_match(match.path)
    headers = [_header_match(header) for header in match.headers]
    for name, value in ((":scheme", match.scheme), (":authority", match.authority)):
        if value is not None:
            headers.append(_header_match(NamedMatch(name, value)))
    if match.methods:
        headers.append(_header_match(NamedMatch(":method", _any_of(match.methods))))
    if headers:
        message["headers"] = headers
    if match.query:
        message["query_parameters"] = [_query_match(parameter) for parameter in match.query]
    return message


def _path_match(match: StringMatch | None) -> Message:
    if match is None or match.kind is MatchKind.PRESENT:
        return {"prefix": "/"}
    if match.kind is MatchKind.REGEX:
        return {"safe_regex": {"regex": match.value}}
    message: Message = {"path" if match.kind is MatchKind.EXACT else "prefix": match.value}
    if match.ignore_case:
        message["case_sensitive"] = False
    return message


def _any_of(matches: Sequence[StringMatch]) -> StringMatch:
    """One match for "one of these exact texts", which a header matcher cannot say otherwise."""
    if len(matches) == 1:
        return matches[0]
    return StringMatch(MatchKind.REGEX, "|".join(str(re2.escape(match.value)) for match in matches))


def _header_match(match: NamedMatch) -> Message:
    message: Message = {"name": match.name}
    if match.match.kind is MatchKind.PRESENT:
        message["present_match"] = True
    else:
        message["string_match"] = string_match(match.match)
        if match.inverted:
            message["treat_missing_header_as_empty"] = True
    if match.inverted:
        message["invert_match"] = True
    return message


def _query_match(match: NamedMatch) -> Message:
    if match.match.kind is MatchKind.PRESENT:
        return {"name": match.name, "present_match": True}
    return {"name": match.name, "string_match": string_match(match.match)}


def string_match(match: StringMatch) -> Message:
    if match.kind is MatchKind.REGEX:
        prefix = "(?i)" if match.ignore_case else ""
        return {"safe_regex": {"regex": prefix + match.value}}
    if match.kind is MatchKind.PREFIX and not match.value:
        return {"safe_regex": {"regex": ".*"}}  # Envoy refuses an empty prefix
    message: Message = {match.kind.value: match.value}
    if match.ignore_case:
        message["ignore_case"] = True
    return message


# --- actions -----------------------------------------------------------------------------------------------


def _route_action(rule: Rule, targets: Sequence[WeightedCluster]) -> Message:
    message = _targets(targets)
    message["timeout"] = render_seconds(rule.timeout)
    if rule.rewrite:
        message.update(_rewrite(rule.rewrite))
    if rule.retry:
        message["retry_policy"] = _retry(rule.retry)
    if rule.mirrors:
        message["request_mirror_policies"] = [
            {"cluster": mirror.cluster, "runtime_fraction": {"default_value": percentage(mirror.percent)}}
            for mirror in rule.mirrors
        ]
    if rule.hash_policies:
        message["hash_policy"] = [_hash_policy(policy) for policy in rule.hash_policies]
    return message


def _targets(targets: Sequence[WeightedCluster]) -> Message:
    plain = len(targets) == 1 and targets[0] == WeightedCluster(targets[0].cluster, targets[0].weight)
    if plain:
        return {"cluster": targets[0].cluster}
    return {"weighted_clusters": {"clusters": [_weighted(target) for target in targets]}}


def _weighted(target: WeightedCluster) -> Message:
    message: Message = {"name": target.cluster, "weight": target.weight}
    message.update(header_fields(target.request_headers, target.response_headers))
    if target.authority:
        message["host_rewrite_literal"] = target.authority
    return message


def _rewrite(rewrite: Rewrite) -> Message:
    message: Message = {}
    if rewrite.path is not None:
        message["prefix_rewrite"] = rewrite.path
    if rewrite.regex is not None:
        pattern = {"regex": rewrite.regex.pattern}
        message["regex_rewrite"] = {"pattern": pattern, "substitution": rewrite.regex.substitution}
    if rewrite.authority is not None:
        message["host_rewrite_literal"] = rewrite.authority
    return message


def _retry(retry: RetryPolicy) -> Message:
    message: Message = {
        "retry_on": ",".join(retry.on),
        "num_retries": retry.attempts,
        "retry_back_off": {
            "base_interval": render_seconds(retry.backoff_base),
            "max_interval": render_seconds(retry.backoff_max),
        },
    }
    if retry.statuses:
        message["retriable_status_codes"] = list(retry.statuses)
    if retry.per_try_timeout:
        message["per_try_timeout"] = render_seconds(retry.per_try_timeout)
    return message


def _hash_policy(policy: HashPolicy) -> Message:
    match policy.source:
        case HashSource.HEADER:
            return {"header": {"header_name": policy.name}}
        case HashSource.QUERY:
            return {"query_parameter": {"name": policy.name}}
        case HashSource.SOURCE_IP:
            return {"connection_properties": {"source_ip": True}}
        case HashSource.COOKIE:
            cookie: Message = {"name": policy.name}
            if policy.path:
                cookie["path"] = policy.path
            if policy.ttl is not None:
                cookie["ttl"] = render_seconds(policy.ttl)
            return {"cookie": cookie}
    assert_never(policy.source)


def _redirect(redirect: Redirect) -> Message:
    message: Message = {"response_code": _REDIRECT_CODES[redirect.status]}
    if redirect.scheme:
        message["scheme_redirect"] = redirect.scheme
    if redirect.authority:
        message["host_redirect"] = redirect.authority
    if redirect.path:
        message["path_redirect"] = redirect.path
    return message


def _fault(fault: Fault) -> Message:
    message = typed("envoy.extensions.filters.http.fault.v3.HTTPFault")
    if fault.delay:
        delay = {"fixed_delay": render_seconds(fault.delay.seconds), "percentage": percentage(fault.delay.percent)}
        message["delay"] = delay
    if fault.abort:
        message["abort"] = {"http_status": fault.abort.status, "percentage": percentage(fault.abort.percent)}
    return message


def percentage(percent: float) -> Message:
    return {"numerator": round(percent * 10_000), "denominator": "MILLION"}


def header_fields(request: HeaderOperations, response: HeaderOperations) -> Message:
    """The fields a route and a weighted cluster have in common."""
    message: Message = {}
    for direction, operations in (("request", request), ("response", response)):
        added = [
            *(_header(name, value, "OVERWRITE_IF_EXISTS_OR_ADD") for name, value in operations.set),
            *(_header(name, value, "APPEND_IF_EXISTS_OR_ADD") for name, value in operations.add),
        ]
        if added:
            message[f"{direction}_headers_to_add"] = added
        if operations.remove:
            message[f"{direction}_headers_to_remove"] = list(operations.remove)
    return message


def _header(name: str, value: str, action: str) -> Message:
    # a percent sign would begin one of Envoy's own substitutions
    header = {"key": name, "value": value.replace("%", "%%")}
    return {"header": header, "append_action": action, "keep_empty_value": True}
