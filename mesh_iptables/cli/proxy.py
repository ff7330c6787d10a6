"""`mesh-iptables proxy`: the proxy on the redirected port."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import TYPE_CHECKING

import click

from mesh_iptables.cli.policy_options import PolicyRequest, policy_options
from mesh_iptables.cli.site import (
    Place,
    Serving,
    admin_address,
    family_here,
    place_options,
    serving_options,
    site_here,
)
from mesh_iptables.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh_iptables.policy.complaint import Complaint
    from mesh_iptables.policy.envoy import Site
    from mesh_iptables.policy.model import EgressPolicy
    from mesh_iptables.proxy.listeners import Listening

ENGINES = ("python", "envoy")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@policy_options
@click.option("--engine", type=click.Choice(ENGINES), default="python", show_default=True, help="Who does the work.")
@serving_options
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

    A rejected document is left out, as a cluster would refuse it, and the others count; with --strict it stops the
    start. Rejected settings of the whole mesh, or a Sidecar, always do.

    SIGHUP reads the policy anew; a broken one leaves the running policy in force. SIGTERM drains and ends.
    """
    from mesh_iptables.policy.model import DefaultAction

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])  # until somebody hears it: it would end us
    request = request.resolving(family_here())
    policy = request.policy(_report)
    if not (request.paths or request.allow) and policy.default is DefaultAction.PASSTHROUGH:
        _say("warning: neither --policy nor --allow: every destination is let through")
    json_log = access_log_format == "json"
    serving = Serving(admin_address(admin), access_log, json_log, inbound_port, transparent, max_connections)
    as_envoy = partial(site_here, place, serving)
    if engine == "envoy":
        return _run_envoy(request, policy, as_envoy, fds, drain_time)

    from mesh_iptables.proxy.access_log import LogFormat
    from mesh_iptables.proxy.listeners import Role, open_port
    from mesh_iptables.proxy.runtime import Runtime, Settings

    identity = f"{policy.identity.namespace}/{policy.identity.service_account}"
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


def _run_envoy(
    request: PolicyRequest,
    policy: EgressPolicy,
    site: Callable[[], Site],
    fds: tuple[int, ...],
    drain_time: float,
) -> int:
    from mesh_iptables.policy.envoy_guard import greeted_unseen
    from mesh_iptables.proxy.envoy import EnvoyEngine
    from mesh_iptables.proxy.listeners import check_transparent, is_handed_in

    if fds or is_handed_in(os.environ):
        what = f"--listen-fd: {fds[0]}" if fds else "LISTEN_FDS"
        raise UsageError(f"{what}: Envoy opens its ports itself; leave that out, or choose --engine python")
    here = site()
    if here.transparent:
        check_transparent()
    for origin in greeted_unseen(policy):
        _say(f"note: {origin}: a site that speaks first is heard before Envoy looks at its address")
    return EnvoyEngine(lambda: request.policy(_report), here, _say, drain=drain_time).run(policy)


def _report(complaint: Complaint) -> None:
    _say(f"{complaint.severity.value}: {complaint}")


def _say(text: str) -> None:
    click.echo(f"mesh-iptables: proxy: {text}", err=True)
