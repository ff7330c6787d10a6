"""A compiled policy as `istioctl proxy-config` prints a proxy's: listeners, routes, clusters in Envoy's names. Pure.

The values are those of the bootstrap; only field names become camelCase, and listeners name their routes instead
of holding them, as in a proxy that is told its routes by a control plane. `config_dump` is the other kind: a
proxy that was told everything at its start.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from mesh_iptables.policy.envoy import Site, bootstrap
from mesh_iptables.policy.envoy_routes import Message, route_configuration
from mesh_iptables.policy.hosts import canonical
from mesh_iptables.policy.model import ANY_PORT, EgressPolicy, HttpAction, Listener, RouteTable, TcpAction

_ADMIN = "type.googleapis.com/envoy.admin.v3"
_CONFIG = "type.googleapis.com/envoy.config"
_FIELD = re.compile(r"[a-z][a-z0-9_]*")


def listeners(
    policy: EgressPolicy, *, port: int | None = None, fqdn: str | None = None, name: str | None = None
) -> list[Message]:
    """All listeners, or those of a port, of a host that one of their chains leads to, or of a name."""
    models = {listener.name: listener for listener in policy.listeners.values()}
    found = []
    for message in map(_by_reference, _resources(policy, "listeners")):
        model = models.get(str(message["name"]))
        if name not in (None, message["name"]) or port not in (None, _port_of(message)):
            continue
        if fqdn is None or (model is not None and canonical(fqdn) in _hosts_of(model, policy)):
            found.append(_camel(message))
    return found


def routes(
    policy: EgressPolicy, *, port: int | None = None, fqdn: str | None = None, name: str | None = None
) -> list[Message]:
    """All route configurations, or those of a port, of a host they have as a domain, or of a name."""
    attempt_count = policy.behaviour.attempt_count_header
    return [
        _camel(route_configuration(table, policy.clusters, attempt_count=attempt_count))
        for table_port, table in _tables(policy)
        if name in (None, table.name)
        and port in (None, table_port)
        and (fqdn is None or canonical(fqdn) in _domains_of(table))
    ]


def config_dump(policy: EgressPolicy, site: Site) -> Message:
    """All of it as the admin page of Envoy shows what came with its bootstrap, field names included."""
    whole = bootstrap(policy, site)
    resources = whole["static_resources"]
    assert isinstance(resources, dict)
    attempt_count = policy.behaviour.attempt_count_header
    tables = [route_configuration(table, policy.clusters, attempt_count=attempt_count) for _, table in _tables(policy)]
    return {
        "configs": [
            {"@type": f"{_ADMIN}.BootstrapConfigDump", "bootstrap": whole},
            _dumped("Clusters", "static_clusters", "cluster", "cluster.v3.Cluster", resources["clusters"]),
            _dumped("Listeners", "static_listeners", "listener", "listener.v3.Listener", resources["listeners"]),
            _dumped("Routes", "static_route_configs", "route_config", "route.v3.RouteConfiguration", tables),
        ]
    }


def _dumped(kinds: str, key: str, name: str, message_type: str, messages: Sequence[Message]) -> Message:
    typed = [{name: {"@type": f"{_CONFIG}.{message_type}", **message}} for message in messages]
    return {"@type": f"{_ADMIN}.{kinds}ConfigDump", key: typed}


def _hosts_of(listener: Listener, policy: EgressPolicy) -> set[str]:
    hosts: set[str] = set()
    for chain in listener.chains:
        hosts.update(chain.match.sni)
        match chain.action:
            case HttpAction(routes=table):
                hosts.update(_domains_of(table))
            case TcpAction(targets=targets):
                clusters = [policy.clusters.get(target.cluster) for target in targets]
                hosts.update(cluster.host for cluster in clusters if cluster)
    return hosts


def _domains_of(table: RouteTable) -> set[str]:
    return {domain for vhost in table.vhosts for domain in vhost.domains}


def clusters(
    policy: EgressPolicy, *, port: int | None = None, fqdn: str | None = None, name: str | None = None
) -> list[Message]:
    """All clusters, or those of a service port, host or name."""
    models = policy.clusters
    found = []
    for message in _resources(policy, "clusters"):
        model = models.get(str(message["name"]))
        if name not in (None, message["name"]):
            continue
        if port is not None and (model is None or model.port != port):
            continue
        if fqdn is not None and (model is None or model.host != canonical(fqdn)):
            continue
        found.append(_camel(message))
    return found


def _tables(policy: EgressPolicy) -> Iterator[tuple[int, RouteTable]]:
    """Route tables with the port they are for; one may serve several chains."""
    seen: set[int] = set()
    for listener in policy.listeners.values():
        for chain in listener.chains:
            if isinstance(chain.action, HttpAction) and id(chain.action.routes) not in seen:
                seen.add(id(chain.action.routes))
                port = chain.match.dst_port if listener.port == ANY_PORT else listener.port
                yield port, chain.action.routes


def _resources(policy: EgressPolicy, kind: str) -> Sequence[Message]:
    resources = bootstrap(policy, Site())["static_resources"]
    assert isinstance(resources, dict)
    return list(resources[kind])


def _port_of(listener: Message) -> object:
    address = listener["address"]
    assert isinstance(address, dict)
    return address["socket_address"]["port_value"]


def _by_reference(value: object) -> Message:
    """A copy of a listener whose HTTP connection managers name their route configuration."""
    found = _referring(value)
    assert isinstance(found, dict)
    return found


def _referring(value: object) -> object:
    if isinstance(value, list):
        return [_referring(item) for item in value]
    if not isinstance(value, dict):
        return value
    copy = {key: _referring(item) for key, item in value.items() if key != "route_config"}
    if "route_config" in value:
        name = value["route_config"]["name"]
        copy["rds"] = {"config_source": {"ads": {}, "resource_api_version": "V3"}, "route_config_name": name}
    return copy


def _camel(message: Message) -> Message:
    renamed = _renamed(message)
    assert isinstance(renamed, dict)
    return renamed


def _renamed(value: object) -> object:
    """The value with field names in camelCase; keys that are data (filter names hold dots) stay."""
    if isinstance(value, list):
        return [_renamed(item) for item in value]
    if isinstance(value, dict):
        return {_camel_name(key): _renamed(item) for key, item in value.items()}
    return value


def _camel_name(name: str) -> str:
    if not _FIELD.fullmatch(name):
        return name
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)
