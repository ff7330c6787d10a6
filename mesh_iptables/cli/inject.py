"""`mesh-iptables inject`: workload manifests in, the same with init container and proxy out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mesh_iptables.errors import MachineError, UsageError, shown
from mesh_iptables.options import DIALECTS

if TYPE_CHECKING:
    from mesh_iptables.inject.values import Settings


def _default(name: str) -> str:
    return {"init": "mesh-iptables-init", "proxy": "mesh-iptables-proxy", "policy": "mesh-iptables-policy"}[name]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "-f", "--filename", "files", metavar="FILE", multiple=True, required=True, help="Manifests; - is standard input."
)
@click.option(
    "--dialect",
    type=click.Choice(DIALECTS),
    default="istio-1.0",
    envvar="MESH_IPTABLES_DIALECT",
    show_default=True,
    show_envvar=True,
    help="Whose rules.",
)
@click.option(
    "--mode",
    type=click.Choice(["REDIRECT", "TPROXY"]),
    default="REDIRECT",
    show_default=True,
    help="How inbound connections reach the proxy.",
)
@click.option(
    "--sidecar",
    type=click.Choice(["native", "classic"]),
    default="native",
    show_default=True,
    help="The proxy as an init container that keeps running (Kubernetes 1.29), or among the containers.",
)
@click.option(
    "--order",
    type=click.Choice(["last", "first"]),
    default="last",
    show_default=True,
    help="Behind the Pod's own init containers, which keep their network, or in front: they are governed too.",
)
@click.option("--init-image", metavar="IMAGE", default=_default("init"), show_default=True)
@click.option("--proxy-image", metavar="IMAGE", default=_default("proxy"), show_default=True)
@click.option("--pull-policy", type=click.Choice(["Always", "IfNotPresent", "Never"]), help="Of both images.")
@click.option(
    "--config-map",
    metavar="NAME",
    default=_default("policy"),
    show_default=True,
    help="Holds the policy files; must be in the Pod's namespace.",
)
@click.option("--net-raw", is_flag=True, help="NET_RAW for the init container: nodes with iptables-legacy.")
@click.option("--probes/--no-probes", default=True, show_default=True, help="Ask the proxy whether it is ready.")
@click.option(
    "--proxy-arg",
    "proxy_words",
    metavar="WORD",
    multiple=True,
    help="One more argument for the proxy; with --allow=HOST it takes no policy files.",
)
@click.option("--quiet", is_flag=True, help="No warnings.")
def inject(files: Sequence[str], *, quiet: bool, pull_policy: str | None, **said: object) -> int:
    """Add the init container and the proxy to Pods and what makes Pods; YAML on standard output.

    Whatever is not added stays to the byte, comments and other documents included. A second run changes nothing, one
    with other options replaces what the first one added.
    """
    try:
        from mesh_iptables.inject import manifest
        from mesh_iptables.inject.values import Settings
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("ruamel"):
            raise
        raise MachineError("inject needs ruamel.yaml: pip install 'mesh-iptables[proxy]'") from error
    settings = _checked(Settings(pull_policy=pull_policy or "", **said))  # type: ignore[arg-type]  # click's, of these types
    results = [(name, manifest.inject(_read(name), settings)) for name in files]
    if not quiet:
        _say([f"{_name(name)}:{line}" for name, result in results for line in result.warnings])
    refusals = [f"{_name(name)}:{line}" for name, result in results for line in result.refusals]
    if refusals:
        _say(refusals[:-1])
        raise UsageError(refusals[-1])
    sys.stdout.buffer.write(manifest.joined([result.text for _, result in results]).encode())
    sys.stdout.buffer.flush()
    return 0


def _checked(settings: Settings) -> Settings:
    """Raises UsageError for options that exclude each other, and names that Kubernetes would not take."""
    if settings.order == "first" and settings.sidecar == "classic":
        raise UsageError("--order: with a classic sidecar no proxy runs before the Pod's own init containers")
    if settings.mode == "TPROXY" and settings.dialect == "istio-1.0":
        raise UsageError("--mode: TPROXY brings inbound connections to the outbound port in dialect istio-1.0")
    for option, value in (("--init-image", settings.init_image), ("--proxy-image", settings.proxy_image)):
        if not value or value != "".join(value.split()):
            raise UsageError(f"{option}: {shown(value)} is not the name of an image")
    name = settings.config_map
    if (
        not 0 < len(name) < 254
        or not all(part.isalnum() and part.isascii() for part in _parts(name))
        or name != name.lower()
    ):
        raise UsageError(f"--config-map: {shown(name)} is not the name of a ConfigMap")
    return settings


def _parts(name: str) -> list[str]:
    return [name[0], name[-1], *name.replace("-", "").split(".")]


def _read(name: str) -> str:
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return data.decode()
    except OSError as error:
        raise UsageError(f"-f: {shown(name)}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"-f: {shown(name)}: byte {error.start} is not UTF-8") from error
    except ValueError as error:
        raise UsageError(f"-f: {shown(name)}: {error}") from error


def _name(name: str) -> str:
    return "standard input" if name == "-" else name


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(f"mesh-iptables: {line}", err=True)
