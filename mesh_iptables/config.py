"""The checked settings of one run."""

from __future__ import annotations

from mesh_iptables.model import Network, Owner, PortRange
from mesh_iptables.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Mode = Literal["REDIRECT", "TPROXY"]


class PortSelection(Value):
    """Everything but `exclude` with `wildcard`, else only `include`."""

    wildcard: bool
    include: tuple[PortRange, ...]
    exclude: tuple[PortRange, ...]

    def __bool__(self) -> bool:
        return self.wildcard or bool(self.include)


class NetworkSelection(Value):
    """Everything with `wildcard`, else only `include`; in both cases but `exclude`."""

    wildcard: bool
    include: tuple[Network, ...]
    exclude: tuple[Network, ...]


class Number(Value):
    """A mark or the number of a routing table, as the kernel reads it and as it was written."""

    _silent = ("spelled",)
    value: int
    spelled: str


class Config(Value):
    """All that a rule program of dialect `istio-1.0` asks; every field checked, nothing left to default."""

    proxy_port: PortRange
    inbound_capture_port: PortRange
    proxy_uids: tuple[Owner, ...]
    proxy_gids: tuple[Owner, ...]
    mode: Mode
    inbound_ports: PortSelection
    outbound_ranges: NetworkSelection
    tproxy_mark: Number
    tproxy_route_table: Number
    ipv6_lockdown: bool
