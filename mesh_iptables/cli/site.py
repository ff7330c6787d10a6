"""Where the proxy runs, for `proxy` and `policy envoy` alike: what they give Envoy must be one and the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mesh_iptables.errors import UsageError

if TYPE_CHECKING:
    from mesh_iptables.policy.envoy import Site
    from mesh_iptables.policy.settings import DnsFamily

CA_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
IF_INET6 = "/proc/net/if_inet6"


@dataclass(frozen=True, slots=True)
class Place:
    """The options about the pod; `ca_bundle` None: where certificates usually are."""

    pod_name: str
    pod_address: str
    ca_bundle: str | None


def place_options(command: Callable[..., object]) -> Callable[..., object]:
    """Give a click command the options about the pod; it then has an argument `place`."""

    @wraps(command)
    def with_place(
        *arguments: object, pod_name: str, pod_address: str, ca_bundle: str | None, **options: object
    ) -> object:
        return command(*arguments, place=Place(pod_name, pod_address, ca_bundle), **options)

    decorated: Callable[..., object] = with_place
    for option in (
        click.option("--ca-bundle", metavar="FILE", help="Certificates for Envoy [default: where they usually are]."),
        click.option(
            "--pod-address",
            default="127.0.0.1",
            envvar="INSTANCE_IP",
            show_envvar=True,
            help="Its address, for the same.",
        ),
        click.option(
            "--pod-name",
            default="mesh-iptables",
            envvar="POD_NAME",
            show_envvar=True,
            help="Name of the pod, for the node id.",
        ),
    ):
        decorated = option(decorated)
    return decorated


def admin_address(text: str) -> tuple[str, int]:
    """Address and port of the option --admin; port 0 if there is to be none. Raises UsageError."""
    if not text:
        return "127.0.0.1", 0
    address, _, port = text.rpartition(":")
    address = address.strip("[]") or "127.0.0.1"
    try:
        ip_address(address)
        if not 0 < int(port) < 65536:
            raise ValueError(port)
    except ValueError as error:
        raise UsageError(f"--admin: '{text}' is not ADDRESS:PORT") from error
    return address, int(port)


def site(
    place: Place, admin: tuple[str, int], access_log: str, *, json_log: bool, ipv6: bool, own_addresses: tuple[str, ...]
) -> Site:
    """What the bootstrap says about where Envoy runs; `access_log` may be empty, for none."""
    from mesh_iptables.policy.envoy import Site

    return Site(
        *admin,
        access_log or os.devnull,
        json_log,
        place.pod_address,
        place.pod_name,
        place.ca_bundle or system_ca_bundle(),
        ipv6,
        own_addresses,
    )


def site_here(place: Place, admin: tuple[str, int], access_log: str, *, json_log: bool) -> Site:
    """The same for the network namespace we are in: it says whether there is IPv6, and which addresses are ours."""
    from mesh_iptables.proxy.own_addresses import own_networks

    own = tuple(str(network) for network in own_networks() if not network.is_loopback)
    return site(place, admin, access_log, json_log=json_log, ipv6=Path(IF_INET6).exists(), own_addresses=own)


def family_here() -> DnsFamily:
    """Which addresses of names are of use in the network namespace we are in."""
    from mesh_iptables.proxy.own_addresses import own_networks

    return family_for(own_networks())


def family_for(own: Iterable[IPv4Network | IPv6Network]) -> DnsFamily:
    """As Istio decides: IPv6 only where the pod has no IPv4 address. Not even the loopback's: nobody told us."""
    from mesh_iptables.policy.settings import DnsFamily

    mine = list(own)
    told = any(network.version == 4 for network in mine)
    useful = {network.version for network in mine if not (network.is_loopback or network.is_link_local)}
    return DnsFamily.IPV6 if told and useful == {6} else DnsFamily.IPV4


def system_ca_bundle() -> str:
    """The system's certificates as one file, which Envoy has to be told: SSL_CERT_FILE, else the usual places."""
    usual = (path for path in CA_BUNDLES if Path(path).is_file())
    return os.environ.get("SSL_CERT_FILE") or next(usual, CA_BUNDLES[0])
