"""`mesh-iptables proxy`: the proxy on the redirected port."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from mesh_iptables.cli.policy_options import PolicyRequest, policy_options
from mesh_iptables.cli.site import Place, admin_address, family_here, place_options, site_here
from mesh_iptables.errors import UsageError

if TYPE_CHECKING:
    from mesh_iptables.policy.complaint import Complaint
    from mesh_iptables.policy.model import EgressPolicy
    from mesh_iptables.proxy.listeners import Listening

ENGINES = ("python", "envoy")
_FOR_ENGINE_PYTHON = ("inbound_port", "fds", "transparent", "max_connections", "drain_time")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@policy_options
@click.option("--engine", type=click.Choice(ENGINES), default="python", show_default=True, help="Who does the work.")
@click.option(
    "--inbound-port",
    type=click.IntRange(0, 65535),
    default=15006,
    show_default=True,
    help="Port for connections to the pod itself, which are passed through; 0: none.",
)
@click.option(
    "--admin",
    metavar="ADDRESS:PORT",
    default="127.0.0.1:15000",
    show_default=True,
    help="Where the admin endpoints listen; empty: nowhere.",
)
@click.option("--access-log", metavar="FILE|-", default="-", show_default=True, help="Access log; empty: none.")
@click.option(
    "--access-log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Its form."
)
@click.option(
    "--listen-fd",
    "fds",
    type=click.IntRange(3),
    multiple=True,
    metavar="N",
    help="Serve this listening socket, opened by the caller, instead of opening ports; may be repeated.",
)
@click.option("--transparent", is_flag=True, help="Listen for connections brought by TPROXY (needs CAP_NET_ADMIN).")
@click.option(
    "--max-connections",
    type=click.IntRange(0),
    default=0,
    help="Open connections at a time, beyond which new ones wait; 0, the default: half as many as there may be open "
    "files, since most take two.",
)
@click.option(
    "--drain-time",
    type=click.FloatRange(0),
    default=5.0,
    show_default=True,
    help="Seconds that SIGTERM leaves to requests under way and to TCP connections, which look alike busy or idle. "
    "HTTP connections without a request, and clients that have said nothing, are closed at once.",
)
@place_options
def proxy(
    request: PolicyRequest,
    engine: str,
    inbound_port: int,
    admin: str,
    access_log: str,
    access_log_format: str,
    fds: tuple[int, ...],
    transparent: bool,
    max_connections: int,
    drain_time: float,
    place: Place,
) -> int:
    """Decide for every redirected connection where it may go.

    A rejected document stops the start: without it more could be allowed than was written. Only those that open
    and never close are left out: WorkloadEntry, and of profile osm all but MeshConfig.

    SIGHUP reads the policy anew; a broken one leaves the running policy in force. SIGTERM drains and ends.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])  # until somebody hears it: it would end us
    request = request.resolving(family_here())
    policy = request.policy(_report)
    if engine == "envoy":
        _tell_of_options_without_effect(click.get_current_context())
        return _run_envoy(request, policy, place, admin, access_log, json_log=access_log_format == "json")

    from mesh_iptables.proxy.access_log import LogFormat
    from mesh_iptables.proxy.listeners import Role, open_port
    from mesh_iptables.proxy.runtime import Runtime, Settings

    identity = f"{policy.identity.namespace}/{policy.identity.service_account}"
    as_envoy = partial(site_here, place, admin_address(admin), access_log, json_log=access_log_format == "json")
    settings = Settings(access_log, LogFormat(access_log_format), identity, max_connections, drain_time, as_envoy)
    listening = _listening(policy, inbound_port, admin, fds, transparent=transparent)

    def open_outbound() -> list[Listening]:
        return open_port(Role.OUTBOUND, policy.redirect_port, transparent=transparent)

    own = all(item.own for item in listening)
    try:
        runtime = Runtime(policy, lambda: request.policy(_report), listening, settings, open_outbound if own else None)
    except OSError as error:
        raise UsageError(f"--access-log: {access_log}: {error.strerror}") from error
    runtime.run()
    return 0


def _listening(
    policy: EgressPolicy, inbound_port: int, admin: str, fds: tuple[int, ...], *, transparent: bool
) -> list[Listening]:
    """The sockets to serve: those handed in, and what is then still missing."""
    from mesh_iptables.proxy.listeners import Role, handed_in, open_port
    from mesh_iptables.proxy.runtime import opens_outbound

    address, port = admin_address(admin)
    found = handed_in(fds, {inbound_port: Role.INBOUND, port: Role.ADMIN}, os.environ)
    if not found:
        if opens_outbound(policy):
            found += open_port(Role.OUTBOUND, policy.redirect_port, transparent=transparent)
        if inbound_port:
            found += open_port(Role.INBOUND, inbound_port, transparent=transparent)
    if admin and not any(item.role is Role.ADMIN for item in found):
        found += open_port(Role.ADMIN, port, address)
    return found


def _tell_of_options_without_effect(context: click.Context) -> None:
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") is not ParameterSource.DEFAULT
        if given and parameter.name in _FOR_ENGINE_PYTHON:
            _say(f"note: {parameter.opts[0]} has no effect with --engine envoy")


def _run_envoy(
    request: PolicyRequest, policy: EgressPolicy, place: Place, admin: str, access_log: str, *, json_log: bool
) -> int:
    from mesh_iptables.policy.envoy_guard import greeted_unseen
    from mesh_iptables.proxy.envoy import EnvoyEngine

    site = site_here(place, admin_address(admin), access_log, json_log=json_log)
    for origin in greeted_unseen(policy):
        _say(f"note: {origin}: a site that speaks first is heard before Envoy looks at its address")
    return EnvoyEngine(lambda: request.policy(_report), site, _say).run(policy)


def _report(complaint: Complaint) -> None:
    _say(f"{complaint.severity.value}: {complaint}")


def _say(text: str) -> None:
    click.echo(f"mesh-iptables: proxy: {text}", err=True)
