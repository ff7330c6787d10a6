"""The checked settings of one run of dialect `istio-1.2x`."""

from __future__ import annotations

from mesh_iptables.config import NetworkSelection, Number, PortSelection
from mesh_iptables.model import Network, Owner, PortRange
from mesh_iptables.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mesh_iptables.config import Mode


class DnsCapture(Value):
    """Whether the applications' DNS goes to the proxy: all of it with `everything`, else that to `servers`."""

    enabled: bool
    everything: bool
    servers: tuple[Network, ...]


class OwnerGroups(Value):
    """The groups whose outbound traffic is captured: with `wildcard` all but `exclude`, else only `include`."""

    wildcard: bool
    include: tuple[Owner, ...]
    exclude: tuple[Owner, ...]


class Config(Value):
    """All that the rule program asks; every field checked, nothing left to default.

    `outbound_loopback` says that a network of -i, as it was written, begins with a loopback address. `fixes` names the
    listed quirks (`N1` …) that are to be corrected.
    """

    proxy_port: PortRange
    inbound_capture_port: PortRange
    tunnel_port: PortRange
    proxy_uids: tuple[Owner, ...]
    proxy_gids: tuple[Owner, ...]
    mode: Mode
    inbound_ports: PortSelection
    outbound_ranges: NetworkSelection
    outbound_loopback: bool
    outbound_ports: tuple[PortRange, ...]
    exclude_outbound_ports: tuple[PortRange, ...]
    exclude_interfaces: tuple[str, ...]
    virtual_interfaces: tuple[str, ...]
    owner_groups: OwnerGroups
    loopback: Network
    dns: DnsCapture
    drop_invalid: bool
    tproxy_mark: Number
    tproxy_route_table: Number
    ipv6: bool
    fixes: frozenset[str]


class RunSettings(Value):
    """What the options of this dialect say about the run itself; `namespace` is "" for the present one."""

    dry_run: bool
    dry_run_file: str
    skip_rule_apply: bool
    cleanup_only: bool
    namespace: str
    cni_mode: bool
    native_nftables: bool
    iptables: str
    run_validation: bool
    probe_port: int
    probe_seconds: float
