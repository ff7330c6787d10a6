"""`mesh-iptables policy`: what a proxy with the same options would do, without running it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

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
from mesh_iptables.cli.site import site as described
from mesh_iptables.errors import UsageError

if TYPE_CHECKING:
    from mesh_iptables.policy.complaint import Complaint
    from mesh_iptables.policy.envoy_routes import Message
    from mesh_iptables.policy.explain import Explanation, Question
    from mesh_iptables.policy.model import EgressPolicy, Origin

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
_PORTS = {"http": 80, "https": 443, "tcp": 0}


@click.group(context_settings=SETTINGS)
def policy() -> None:
    """Read policy files and show what the proxy makes of them."""


# --- check -------------------------------------------------------------------------------------------------


@policy.command()
@policy_options
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def check(request: PolicyRequest, *, as_json: bool) -> int:
    """Report every problem with its file, line and field; status 1 if a document is rejected."""
    compiled = request.compiled()
    if as_json:
        _print_json({"valid": not compiled.has_errors, "complaints": [*map(_complaint, compiled.complaints)]})
    else:
        for complaint in compiled.complaints:
            click.echo(_line(complaint))
    return 1 if compiled.has_errors else 0


def _line(complaint: Complaint) -> str:
    return f"{complaint} ({complaint.severity.value} {complaint.id})"


def _complaint(complaint: Complaint) -> Message:
    return {
        "severity": complaint.severity.value,
        "id": complaint.id,
        **_origin(complaint.origin),
        "text": complaint.text,
    }


def _origin(origin: Origin) -> Message:
    return {"file": origin.file, "line": origin.line, "resource": origin.resource, "field": origin.field}


def _compiled(request: PolicyRequest) -> EgressPolicy:
    """The policy; what there is to complain goes to standard error. Raises PolicyError."""
    return request.policy(lambda complaint: click.echo(_line(complaint), err=True))


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


# --- explain -----------------------------------------------------------------------------------------------


@policy.command()
@click.argument("destination", metavar="URL|ADDRESS:PORT")
@policy_options
@click.option("--to", "address", metavar="ADDRESS", help="Where the client connects, if a URL names a host.")
@click.option("--host", help="Host header of a request.")
@click.option("--path", default="/", show_default=True, help="Path and query of a request.")
@click.option("--method", default="GET", show_default=True)
@click.option("--header", "headers", metavar="NAME:VALUE", multiple=True)
@click.option("--sni", help="Server name of a TLS hello; empty for one without.")
@click.option("--alpn", metavar="LIST", default="", help="Protocols of a TLS hello, by comma.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def explain(request: PolicyRequest, *, destination: str, as_json: bool, **said: object) -> int:
    """Say what becomes of one connection or request, and which document made it so.

    DESTINATION is a URL (http://, https://, tcp://) or the address and port a client connects to, then with --sni
    or --host for what it says there.
    """
    from mesh_iptables.policy.explain import explain as explained

    question = _question(destination, said)
    explanation = explained(_compiled(request), question)
    if as_json:
        _print_json(_explanation(explanation))
    else:
        _tell(explanation)
    return 0


def _question(destination: str, said: dict[str, object]) -> Question:
    from mesh_iptables.policy.explain import Question
    from mesh_iptables.policy.routing import Request

    scheme, host, port, path = _target(destination)
    address = said["address"] or (host if _is_address(host) else None)
    sni = said["sni"]
    if sni is None and scheme == "https":
        sni = "" if _is_address(host) else host
    authority = said["host"]
    if authority is None and scheme == "http":
        authority = host if port == _PORTS["http"] else f"{host}:{port}"
    request = None
    if authority is not None and sni is None:
        headers = [_header(str(text)) for text in _words(said["headers"])]
        target = path or str(said["path"])
        request = Request(str(said["method"]), str(authority), target, headers)
    alpn = tuple(filter(None, str(said["alpn"]).split(",")))
    # a host that was not looked up yet has some address: one that no listener names
    return Question(str(address or "0.0.0.0"), port, request, None if sni is None else str(sni), alpn)


def _target(destination: str) -> tuple[str, str, int, str]:
    """Scheme (empty for ADDRESS:PORT), host, port, path with query. Raises UsageError."""
    parts = urlsplit(destination if "://" in destination else f"//{destination}")
    try:
        port = parts.port
    except ValueError as error:
        raise UsageError(f"'{destination}': {error}") from error
    host = parts.hostname or ""
    if parts.scheme and parts.scheme not in _PORTS:
        raise UsageError(f"'{destination}': {parts.scheme} is not one of {', '.join(_PORTS)}")
    port = port or _PORTS.get(parts.scheme, 0)
    if not host or not port:
        raise UsageError(f"'{destination}' is not a URL or ADDRESS:PORT")
    query = f"?{parts.query}" if parts.query else ""
    return parts.scheme, host, port, parts.path + query if parts.path else ""


def _is_address(host: str) -> bool:
    from mesh_iptables.policy.hosts import is_address

    return is_address(host)


def _words(value: object) -> Sequence[object]:
    return value if isinstance(value, tuple) else ()


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name:
        raise UsageError(f"--header: '{text}' is not NAME:VALUE")
    return name.strip().lower(), value.strip()


def _tell(explanation: Explanation) -> None:
    verdict = "allowed" if explanation.allowed else "refused"
    click.echo(f"{verdict} ({explanation.action}, {explanation.reason.value})")
    for step in explanation.steps:
        click.echo(f"  {step}")
    for origin in explanation.origins:
        click.echo(f"  by {origin}")


def _explanation(explanation: Explanation) -> Message:
    return {
        "allowed": explanation.allowed,
        "action": explanation.action,
        "reason": explanation.reason.value,
        "status": explanation.status,
        "location": explanation.location,
        "target": explanation.target,
        "listener": explanation.listener,
        "chain": explanation.chain,
        "virtual_host": explanation.virtual_host,
        "rule": explanation.rule,
        "clusters": [
            {
                "name": target.name,
                "share": target.share,
                "exists": target.cluster is not None,
                "kind": target.cluster.kind.value if target.cluster else None,
                "endpoints": [
                    f"{each.address}:{each.port}" for each in (target.cluster.endpoints if target.cluster else ())
                ],
            }
            for target in explanation.targets
        ],
        "documents": [_origin(origin) for origin in explanation.origins],
        "steps": list(explanation.steps),
    }


# --- listeners, routes, clusters, envoy --------------------------------------------------------------------


def _dump_options(command: Callable[..., object]) -> Callable[..., object]:
    for option in (
        click.option("-o", "--output", type=click.Choice(["short", "json"]), default="short", show_default=True),
        click.option("--name", help="Only this name."),
        click.option("--fqdn", help="Only what is about this host."),
        click.option("--port", type=click.IntRange(1, 65535), help="Only this port."),
    ):
        command = option(command)
    return command


@policy.command()
@policy_options
@_dump_options
def listeners(request: PolicyRequest, *, port: int | None, name: str | None, fqdn: str | None, output: str) -> int:
    """The listeners as `istioctl proxy-config listeners` prints them."""
    from mesh_iptables.policy import dump

    found = dump.listeners(_compiled(request), port=port, fqdn=fqdn, name=name)
    _show(found, output, ("ADDRESS", "PORT", "NAME", "CHAINS"), _listener_row)
    return 0


@policy.command()
@policy_options
@_dump_options
def routes(request: PolicyRequest, *, port: int | None, name: str | None, fqdn: str | None, output: str) -> int:
    """The route configurations as `istioctl proxy-config routes` prints them."""
    from mesh_iptables.policy import dump

    found = dump.routes(_compiled(request), port=port, fqdn=fqdn, name=name)
    _show(found, output, ("NAME", "VIRTUAL HOSTS", "DOMAINS"), _route_row)
    return 0


@policy.command()
@policy_options
@_dump_options
def clusters(request: PolicyRequest, *, port: int | None, name: str | None, fqdn: str | None, output: str) -> int:
    """The clusters as `istioctl proxy-config clusters` prints them."""
    from mesh_iptables.policy import dump

    found = dump.clusters(_compiled(request), port=port, fqdn=fqdn, name=name)
    _show(found, output, ("NAME", "TYPE"), _cluster_row)
    return 0


def _show(
    found: Sequence[Message], output: str, titles: Sequence[str], row: Callable[[Message], Sequence[str]]
) -> None:
    if output == "json":
        _print_json(found)
        return
    rows = [titles, *map(row, found)]
    widths = [max(len(line[column]) for line in rows) for column in range(len(titles))]
    for line in rows:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def _listener_row(message: Message) -> Sequence[str]:
    address = _field(_field(message, "address"), "socketAddress")
    chains = [str(chain["name"]) for chain in _list(message, "filterChains")]
    return str(address["address"]), str(address["portValue"]), str(message["name"]), ", ".join(chains)


def _route_row(message: Message) -> Sequence[str]:
    vhosts = _list(message, "virtualHosts")
    domains = [str(domain) for vhost in vhosts for domain in _strings(vhost, "domains")]
    return str(message["name"]), ", ".join(str(vhost["name"]) for vhost in vhosts), ", ".join(domains)


def _cluster_row(message: Message) -> Sequence[str]:
    kind = message.get("type") or _field(message, "clusterType")["name"]
    return str(message["name"]), str(kind)


def _field(message: Message, name: str) -> Message:
    value = message[name]
    assert isinstance(value, dict)
    return value


def _list(message: Message, name: str) -> list[Message]:
    value = message.get(name, [])
    assert isinstance(value, list)
    return value


def _strings(message: Message, name: str) -> Iterable[object]:
    value = message.get(name, [])
    assert isinstance(value, list)
    return value


@policy.command()
@policy_options
@click.option("--admin", default="127.0.0.1:15000", show_default=True, metavar="ADDRESS:PORT")
@click.option("--access-log", default="-", show_default=True, metavar="FILE|-")
@click.option("--access-log-json", is_flag=True, help="Lines of JSON instead of text.")
@click.option("--ipv6", is_flag=True, help="Take IPv6 destinations too.")
@click.option("--here", is_flag=True, help="Look at this network namespace, as `proxy` does: for IPv6, own addresses.")
@serving_options
@place_options
def envoy(
    request: PolicyRequest,
    *,
    admin: str,
    access_log: str,
    access_log_json: bool,
    inbound_port: int,
    transparent: bool,
    max_connections: int,
    ipv6: bool,
    here: bool,
    place: Place,
) -> int:
    """A complete static bootstrap for Envoy (v3); with --here the one that `proxy --engine envoy` runs."""
    from mesh_iptables.policy.envoy import bootstrap

    serving = Serving(admin_address(admin), access_log, access_log_json, inbound_port, transparent, max_connections)
    if here:
        site = site_here(place, serving)
        request = request.resolving(family_here())
    else:
        site = described(place, serving, ipv6=ipv6)
    _print_json(bootstrap(_compiled(request), site))
    return 0
