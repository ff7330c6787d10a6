"""Envoy's part for connections to the pod itself, which are passed through to the application. Pure.

Which rules brought a connection, Envoy cannot see, so both dialects are served:

* On the inbound port it goes on to the original address, from 127.0.0.6 or ::6. The rules of istio-1.2x let that pass.
  Those of istio-1.0 bring it back, to the redirect port.
* On the redirect port a destination that is an address of this machine goes on to the loopback address, which no rule
  captures. That is also the way of istio-1.0 without an inbound port of its own, and of its TPROXY.

Envoy's own ports are closed to both, lest a connection runs in a circle, or the admin port opens to the outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network

from mesh_iptables.policy.envoy_clusters import socket_address
from mesh_iptables.policy.envoy_routes import Message, typed
from mesh_iptables.policy.model import BLACKHOLE_CLUSTER

INBOUND_LISTENER = "virtualInbound"

_NETWORK = "envoy.extensions.filters.network"
_CLUSTERS = {4: "InboundPassthroughCluster", 6: "InboundPassthroughClusterIpv6"}
_SOURCES = {4: "127.0.0.6", 6: "::6"}
_LOOPBACK = {4: "127.0.0.1", 6: "[::1]"}
_EVERYWHERE = {4: ("0.0.0.0", 0), 6: ("::", 0)}
_UNLIMITED = 2**32 - 1
_IDLE = "3600s"

Host = IPv4Address | IPv6Address


def inbound_clusters(*, ipv6: bool) -> list[Message]:
    """One a family, since the source address is of one."""
    return [_cluster(version) for version in _versions(ipv6=ipv6)]


def _versions(*, ipv6: bool) -> tuple[int, ...]:
    return (4, 6) if ipv6 else (4,)


def _cluster(version: int) -> Message:
    return {
        "name": _CLUSTERS[version],
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "10s",
        "circuit_breakers": {
            "thresholds": [{"max_connections": _UNLIMITED, "max_pending_requests": _UNLIMITED}],
        },
        "upstream_bind_config": {"source_address": {"address": _SOURCES[version], "port_value": 0}},
    }


def own_hosts(networks: Iterable[str], *, ipv6: bool) -> tuple[Host, ...]:
    """Single addresses among these networks, of the families that are served."""
    parsed = [ip_network(network) for network in networks]
    return tuple(
        network.network_address
        for network in parsed
        if network.num_addresses == 1 and network.version in _versions(ipv6=ipv6)
    )


@dataclass(frozen=True, slots=True)
class Passage:
    """The way to the application. `hosts` are the addresses of this machine, `closed` Envoy's further own ports."""

    hosts: tuple[Host, ...]
    redirect_port: int
    closed: tuple[int, ...]
    ipv6: bool
    access_log: Message

    def inbound_chains(self) -> list[Message]:
        """Those of the inbound port: to the address that was meant."""
        ports = (self.redirect_port, *self.closed)
        chains = [self._chain({"destination_port": port}, BLACKHOLE_CLUSTER) for port in ports]
        for version in _versions(ipv6=self.ipv6):
            chains.append(self._chain(_prefixes([_EVERYWHERE[version]]), _CLUSTERS[version]))
        return chains

    def own_chains(self, ports: Sequence[int] = ()) -> Iterator[Message]:
        """What the redirect port does with this machine's addresses: to loopback.

        Of `ports` there are chains for other addresses, too, so each needs one of its own here.
        """
        for version in _versions(ipv6=self.ipv6):
            hosts = [(str(host), host.max_prefixlen) for host in self.hosts if host.version == version]
            for port in (0, *ports) if hosts else ():
                match = {**({"destination_port": port} if port else {}), **_prefixes(hosts)}
                yield self._to_loopback(match, version)

    def closed_chains(self) -> Iterator[Message]:
        """The same for Envoy's own ports: to nowhere."""
        hosts = [(str(host), host.max_prefixlen) for host in self.hosts]
        for port in self.closed if hosts else ():
            yield self._chain({"destination_port": port, **_prefixes(hosts)}, BLACKHOLE_CLUSTER)

    def own_listeners(self, ports: Iterable[int]) -> Iterator[Message]:
        """Logical listeners for this machine's addresses on ports that others have listeners for.

        An exact address goes before them, and nothing waits for first bytes here.
        """
        opened = sorted({*ports} - {*self.closed})
        for host in self.hosts:
            for port in opened:
                yield _logical(host, port, self._to_loopback({}, host.version))
            for port in self.closed:
                yield _logical(host, port, self._chain({}, BLACKHOLE_CLUSTER))

    def _to_loopback(self, match: Message, version: int) -> Message:
        chain = self._chain(match, _CLUSTERS[version])
        address = f"{_LOOPBACK[version]}:%DOWNSTREAM_LOCAL_PORT%"
        setting = {
            "object_key": "envoy.network.transport_socket.original_dst_address",
            "format_string": {"text_format_source": {"inline_string": address}},
        }
        config = typed(f"{_NETWORK}.set_filter_state.v3.Config", on_new_connection=[setting])
        redirected = {"name": "envoy.filters.network.set_filter_state", "typed_config": config}
        filters = chain["filters"]
        assert isinstance(filters, list)
        return {**chain, "filters": [redirected, *filters]}

    def _chain(self, match: Message, cluster: str) -> Message:
        proxy = typed(
            f"{_NETWORK}.tcp_proxy.v3.TcpProxy",
            stat_prefix=cluster,
            idle_timeout=_IDLE,
            access_log=[self.access_log],
            cluster=cluster,
        )
        name = "inbound-blackhole" if cluster == BLACKHOLE_CLUSTER else "inbound"
        chain: Message = {"name": "-".join([name, *map(str, _named(match))])}
        if match:
            chain["filter_chain_match"] = match
        return {**chain, "filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]}


def _named(match: Message) -> Iterator[object]:
    """What tells chains of one listener apart."""
    if "destination_port" in match:
        yield match["destination_port"]
    ranges = match.get("prefix_ranges", [])
    assert isinstance(ranges, list)
    families = {"ipv6" if ":" in each["address_prefix"] else "ipv4" for each in ranges}
    yield from sorted(families)


def _prefixes(ranges: Iterable[tuple[str, int]]) -> Message:
    return {"prefix_ranges": [{"address_prefix": address, "prefix_len": length} for address, length in ranges]}


def _logical(host: Host, port: int, chain: Message) -> Message:
    return {
        "name": f"inbound_{host}_{port}",
        "address": socket_address(str(host), port),
        "bind_to_port": False,
        "traffic_direction": "INBOUND",
        "filter_chains": [chain],
    }
