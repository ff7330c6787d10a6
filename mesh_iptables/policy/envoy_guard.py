"""Envoy's filters that keep a name from leading to an address it must not lead to. Pure.

Two filters take part: the one that resolves the name says what it found, the one behind it (RBAC) compares that. So
only names that Envoy resolves for a connection can be guarded; a `tcp` entry is therefore resolved like that, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network

from mesh_iptables.policy.envoy_routes import Message, typed
from mesh_iptables.policy.model import Behaviour, Cluster, ClusterKind, EgressPolicy, Origin
from mesh_iptables.policy.special_addresses import refused_networks

_NETWORK = "envoy.extensions.filters.network"
_MATCHER = "envoy.extensions.rbac.matchers.upstream_ip_port.v3.UpstreamIpPortMatcher"


def http_guard(clusters: Iterable[Cluster], own: tuple[str, ...], behaviour: Behaviour) -> Message:
    """The HTTP filter; it stands behind the one that resolves names, whose clusters these are."""
    permitted = tuple(address for cluster in clusters for address in cluster.permitted)
    rules = _rules(_networks(permitted, own, behaviour))
    return {
        "name": "envoy.filters.http.rbac",
        "typed_config": typed("envoy.extensions.filters.http.rbac.v3.RBAC", rules=rules),
    }


def tcp_guard(cluster: Cluster, own: tuple[str, ...], behaviour: Behaviour) -> Message:
    """The network filter."""
    rules = _rules(_networks(cluster.permitted, own, behaviour))
    config = typed(f"{_NETWORK}.rbac.v3.RBAC", stat_prefix="guard", rules=rules)
    return {"name": "envoy.filters.network.rbac", "typed_config": config}


def greeted_unseen(policy: EgressPolicy) -> list[Origin]:
    """Entries whose site may send a greeting through: the filter looks when the client sends, not before."""
    return [each.origin for each in policy.clusters.values() if each.guarded and each.kind is ClusterKind.STRICT_DNS]


def fixed_name(cluster: Cluster) -> Message:
    """The network filter that says which name is resolved for a connection without server name."""
    values = {"envoy.upstream.dynamic_host": cluster.host, "envoy.upstream.dynamic_port": str(cluster.port)}
    settings = [
        {"object_key": key, "format_string": {"text_format_source": {"inline_string": text}}}
        for key, text in values.items()
    ]
    config = typed(f"{_NETWORK}.set_filter_state.v3.Config", on_new_connection=settings)
    return {"name": "envoy.filters.network.set_filter_state", "typed_config": config}


def _networks(
    permitted: tuple[str, ...], own: tuple[str, ...], behaviour: Behaviour
) -> Iterator[IPv4Network | IPv6Network]:
    """Those of the family that names are resolved in."""
    version = 6 if behaviour.ipv6 else 4
    return (network for network in refused_networks(permitted, own) if network.version == version)


def _rules(networks: Iterable[IPv4Network | IPv6Network]) -> Message:
    permissions = [{"matcher": _matcher(network)} for network in networks]
    policy = {"permissions": [{"or_rules": {"rules": permissions}}], "principals": [{"any": True}]}
    return {"action": "DENY", "policies": {"special-address": policy}}


def _matcher(network: IPv4Network | IPv6Network) -> Message:
    cidr = {"address_prefix": str(network.network_address), "prefix_len": network.prefixlen}
    return {"name": "envoy.rbac.matchers.upstream_ip_port", "typed_config": typed(_MATCHER, upstream_ip=cidr)}
