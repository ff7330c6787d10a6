"""What a dialect asks about the network namespace and the machine it acts in."""

from __future__ import annotations

from mesh_iptables.apply.namespace import enter_namespace
from mesh_iptables.apply.netlink import NETLINK_ROUTE, Netlink, interface_addresses

RESOLV_CONF = "/etc/resolv.conf"


class Here:
    """This process's network namespace, or the one it is told to move to; and this machine's files."""

    def move(self, namespace: str) -> None:
        """Go to a network namespace, by name or path; stay with ""."""
        if namespace:
            enter_namespace(namespace)

    def addresses(self) -> tuple[tuple[int, int], ...]:
        """IP version and address of every interface, in the order in which the kernel lists them: IPv4 first."""
        with Netlink(NETLINK_ROUTE) as link:
            return tuple((version, address) for _, version, address in interface_addresses(link))

    def nameservers(self) -> tuple[str, ...]:
        """The resolvers of /etc/resolv.conf; none without that file."""
        try:
            with open(RESOLV_CONF, encoding="utf-8", errors="replace") as lines:
                words = [line.split() for line in lines]
        except OSError:
            return ()
        return tuple(found[1] for found in words if len(found) > 1 and found[0] == "nameserver")
