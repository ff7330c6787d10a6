"""Clusters of the model as Envoy v3 clusters. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from mesh_iptables.policy.durations import render_seconds
from mesh_iptables.policy.envoy_routes import Message, typed
from mesh_iptables.policy.hosts import is_address
from mesh_iptables.policy.model import (
    Behaviour,
    Cluster,
    ClusterKind,
    Endpoint,
    Limits,
    LoadBalancing,
    Outlier,
    TlsOrigination,
    UpstreamProtocol,
)

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_UPSTREAM_TLS = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"

_TYPES = {
    ClusterKind.ORIGINAL_DST: "ORIGINAL_DST",
    ClusterKind.STATIC: "STATIC",
    ClusterKind.STRICT_DNS: "STRICT_DNS",
    ClusterKind.LOGICAL_DNS: "LOGICAL_DNS",
}

_PROTOCOLS: dict[UpstreamProtocol, Message] = {
    UpstreamProtocol.HTTP1: {"explicit_http_config": {"http_protocol_options": {}}},
    UpstreamProtocol.HTTP2: {"explicit_http_config": {"http2_protocol_options": {}}},
    UpstreamProtocol.SAME_AS_CLIENT: {
        "use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}}
    },
}


def cluster(model: Cluster, behaviour: Behaviour, ca_bundle: str) -> Message:
    """`ca_bundle` is the system's store as a file, for TLS without a CA file of its own."""
    message: Message = {
        "name": model.name,
        "connect_timeout": render_seconds(model.connect_timeout),
        "lb_policy": model.lb.value,
        "circuit_breakers": {"thresholds": [_thresholds(model.limits)]},
        "typed_extension_protocol_options": {_HTTP_OPTIONS: _http_options(model)},
    }
    message.update(_discovery(model, behaviour))
    if model.outlier:
        message["outlier_detection"] = _outlier(model.outlier)
        threshold = float(model.outlier.min_health_percent)
        message["common_lb_config"] = {"healthy_panic_threshold": {"value": threshold}}
    if model.tls:
        socket = {"name": "envoy.transport_sockets.tls", "typed_config": _tls(model.tls, ca_bundle)}
        message["transport_socket"] = socket
    return message


def dns_cache(behaviour: Behaviour) -> Message:
    """The one cache of names that clients ask for; all who use it must describe it alike."""
    message: Message = {"name": "forward", "dns_lookup_family": dns_family(behaviour)}
    if behaviour.absolute_names:
        url = "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"
        config = typed(url, dns_resolver_options={"no_default_search_domain": True})
        message["typed_dns_resolver_config"] = {"name": "envoy.network.dns_resolver.cares", "typed_config": config}
    return message


def dns_family(behaviour: Behaviour) -> str:
    return "V6_ONLY" if behaviour.ipv6 else "V4_ONLY"


def resolved_by_filter(model: Cluster) -> bool:
    """Whether a filter finds the address before the cluster is asked, so that it can be looked at in between."""
    return model.kind is ClusterKind.FORWARD or (model.kind is ClusterKind.STRICT_DNS and model.guarded)


def _discovery(model: Cluster, behaviour: Behaviour) -> Message:
    match model.kind:
        case _ if resolved_by_filter(model):
            url = "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig"
            config = typed(url, dns_cache_config=dns_cache(behaviour))
            kind = {"name": "envoy.clusters.dynamic_forward_proxy", "typed_config": config}
            return {"cluster_type": kind, "lb_policy": LoadBalancing.CLUSTER_PROVIDED.value}
        case ClusterKind.ORIGINAL_DST:
            message: Message = {"type": _TYPES[model.kind]}
            if model.port_override:
                message["original_dst_lb_config"] = {"upstream_port_override": model.port_override}
            return message
    message = {"type": _TYPES[model.kind], "load_assignment": _assignment(model.name, model.endpoints)}
    if model.kind in (ClusterKind.STRICT_DNS, ClusterKind.LOGICAL_DNS):
        message["respect_dns_ttl"] = True
        message["dns_lookup_family"] = dns_family(behaviour)
        message["dns_refresh_rate"] = render_seconds(behaviour.dns_refresh)
        # a name that is never answered must not keep the redirect port closed
        message["wait_for_warm_on_init"] = False
    return message


def _assignment(name: str, endpoints: Sequence[Endpoint]) -> Message:
    members = [
        {"endpoint": {"address": socket_address(each.address, each.port)}, "load_balancing_weight": each.weight}
        for each in endpoints
    ]
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": members}] if members else []}


def socket_address(address: str, port: int) -> Message:
    return {"socket_address": {"address": address, "port_value": port}}


def _thresholds(limits: Limits) -> Message:
    return {
        "max_connections": limits.max_connections,
        "max_pending_requests": limits.max_pending_requests,
        "max_requests": limits.max_requests,
        "max_retries": limits.max_retries,
    }


def _http_options(model: Cluster) -> Message:
    common: Message = {"idle_timeout": render_seconds(model.http_idle_timeout)}
    if model.limits.max_requests_per_connection:
        common["max_requests_per_connection"] = model.limits.max_requests_per_connection
    message = typed(_HTTP_OPTIONS, **_PROTOCOLS[model.protocol], common_http_protocol_options=common)
    upstream: Message = {}
    if resolved_by_filter(model) or (model.tls and model.tls.sni_from_host):
        upstream["auto_sni"] = True
    if resolved_by_filter(model) or (model.tls and model.tls.verify_host):
        upstream["auto_san_validation"] = True
    if upstream:
        message["upstream_http_protocol_options"] = upstream
    return message


def _outlier(outlier: Outlier) -> Message:
    """A kind of detection that is off is switched off by name: Envoy's own default for it is on."""
    message: Message = {
        "interval": render_seconds(outlier.interval),
        "base_ejection_time": render_seconds(outlier.base_ejection_time),
        "max_ejection_percent": outlier.max_ejection_percent,
        "enforcing_success_rate": 0,
        "enforcing_consecutive_5xx": 100 if outlier.consecutive_5xx else 0,
        "enforcing_consecutive_gateway_failure": 100 if outlier.consecutive_gateway_errors else 0,
    }
    if outlier.consecutive_5xx:
        message["consecutive_5xx"] = outlier.consecutive_5xx
    if outlier.consecutive_gateway_errors:
        message["consecutive_gateway_failure"] = outlier.consecutive_gateway_errors
    return message


def _tls(tls: TlsOrigination, ca_bundle: str) -> Message:
    common: Message = {
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_2",
            "tls_maximum_protocol_version": "TLSv1_3",
        }
    }
    if tls.certificate and tls.private_key:
        chain, key = {"filename": tls.certificate}, {"filename": tls.private_key}
        common["tls_certificates"] = [{"certificate_chain": chain, "private_key": key}]
    if tls.verify:
        common["validation_context"] = _validation(tls, ca_bundle)
    message = typed(_UPSTREAM_TLS, common_tls_context=common)
    if tls.sni:
        message["sni"] = tls.sni
    return message


def _validation(tls: TlsOrigination, ca_bundle: str) -> Message:
    message: Message = {"trusted_ca": {"filename": tls.ca_file or ca_bundle}}
    if tls.sans:
        message["match_typed_subject_alt_names"] = [
            {"san_type": _san_type(name), "matcher": {"exact": name}} for name in tls.sans
        ]
    return message


def _san_type(name: str) -> str:
    if "://" in name:
        return "URI"
    return "IP_ADDRESS" if is_address(name) else "DNS"
