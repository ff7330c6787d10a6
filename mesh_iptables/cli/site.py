"""Where the proxy runs, for `proxy` and `policy envoy` alike: what they give Envoy must be one and the same."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import wraps
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
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


@dataclass(frozen=True, slots=True)
class Serving:
    """The options about what is opened. `admin` is an address and a port, 0 for none; `access_log` empty: none."""

    admin: tuple[str, int]
    access_log: str
    json_log: bool
    inbound_port: int
    transparent: bool
    max_connections: int  # 0: half as many as there may be open files


def serving_options(command: Callable[..., object]) -> Callable[..., object]:
    """Give a click command the options `inbound_port`, `transparent` and `max_connections`."""
    for option in (
        click.option(
            "--max-connections",
            type=click.IntRange(0),
            default=0,
            help="Open connections at a time, beyond which new ones wait, with engine envoy are closed; 0, the "
            "default: half as many as there may be open files, since most take two.",
        ),
        click.option(
            "--transparent", is_flag=True, help="Listen for connections brought by TPROXY (needs CAP_NET_ADMIN)."
        ),
        click.option(
            "--inbound-port",
            type=click.IntRange(0, 65535),
            default=15006,
            show_default=True,
            help="Port for connections to the pod itself, which are passed through; 0: none.",
        ),
    ):
        command = option(command)
    return command


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


def site(place: Place, serving: Serving, *, ipv6: bool) -> Site:
    """What the bootstrap says about where Envoy runs, as far as the options tell."""
    from mesh_iptables.policy.envoy import Site

    pod = ip_network(place.pod_address) if _is_address(place.pod_address) else None
    return Site(
        *serving.admin,
        access_log=serving.access_log or os.devnull,
        json_log=serving.json_log,
        pod_address=place.pod_address,
        pod_name=place.pod_name,
        ca_bundle=place.ca_bundle or system_ca_bundle(),
        ipv6=ipv6,
        own_addresses=() if pod is None or pod.is_loopback else (str(pod),),
        inbound_port=serving.inbound_port,
        transparent=serving.transparent,
        max_connections=serving.max_connections,
    )


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def site_here(place: Place, serving: Serving) -> Site:
    """The same for the network namespace we are in: it says whether there is IPv6, and which addresses are ours."""
    from mesh_iptables.proxy.own_addresses import own_networks

    found = site(place, serving, ipv6=Path(IF_INET6).exists())
    own = (str(network) for network in own_networks() if not network.is_loopback)
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    return replace(
        found,
        own_addresses=tuple(dict.fromkeys((*own, *found.own_addresses))),
        max_connections=found.max_connections or files // 2,
    )


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
