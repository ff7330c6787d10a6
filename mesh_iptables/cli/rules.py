"""`apply`, `clean` and `render`: the way of an init container, so it loads next to nothing before it needs it."""

from __future__ import annotations

import os
import sys

from mesh_iptables.errors import MachineError, MeshIptablesError, UsageError, shown
from mesh_iptables.model import Plan
from mesh_iptables.names import SystemNames
from mesh_iptables.options import ISTIO_1_0, Setting, configure, gather, split_words, warnings
from mesh_iptables.plan import istio_1_0

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mesh_iptables.apply import Applied, Backend
    from mesh_iptables.config import Config
    from mesh_iptables.options import Request

EMPTY = Plan(istio_1_0.DIALECT, (), ())
# What the script reports first, in its order: names of variables, then its own names for what it made of them.
ENVIRONMENT = ("proxy_port", "mode", "tproxy_mark", "tproxy_route_table", "inbound_ports", "exclude_inbound_ports",
    "outbound_ranges", "exclude_outbound_ranges")  # fmt: skip


def run(words: Sequence[str]) -> int:
    """Carry out one of the three; the exit status. The words are those behind the program's name."""
    command = words[0] if words and not words[0].startswith("-") else "apply"
    rest = words[1:] if words and words[0] == command else words
    try:
        request = split_words(rest)
        return COMMANDS[command](request)
    except MeshIptablesError as error:
        return complain(error)
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def complain(error: MeshIptablesError) -> int:
    """Tell what was wrong, in one line."""
    print(f"mesh-iptables: {error}", file=sys.stderr)
    return error.exit_status


def _say(request: Request, text: str) -> None:
    if "quiet" not in request.run:
        print(f"mesh-iptables: {text}", file=sys.stderr)


def render(request: Request) -> int:
    """Print the plan."""
    print(rendered(request, os.environ), end="")
    return 0


def rendered(request: Request, environment: Mapping[str, str]) -> str:
    """The plan of these settings as text; warnings go to standard error."""
    config, settings = _settle(request, environment, dry_run=True)
    for text in warnings(config, settings):
        _say(request, text)
    from importlib import import_module

    module = import_module(f"mesh_iptables.render.{request.run.get('format', 'shell')}")
    return str(module.render(istio_1_0.plan(config)))


def apply(request: Request) -> int:
    """Put the rules into force; the settings and the resulting rules go to standard output."""
    if "dry_run" in request.run:
        return render(request)
    config, settings = _settle(request, os.environ, dry_run=False)
    for text in warnings(config, settings):
        _say(request, text)
    backend = _backend(request)
    print(_report(config, settings), flush=True)
    applied = _enforce(istio_1_0.plan(config), backend, config)
    for text in applied.warnings:
        _say(request, text)
    print(backend.dump(), end="")
    return 0


def clean(request: Request) -> int:
    """Remove all that is ours, and print what that was."""
    config, _ = _settle(request, os.environ, dry_run=False)
    applied = _enforce(EMPTY, _backend(request), config)
    for text in applied.warnings:
        _say(request, text)
    print("".join(f"{line}\n" for line in applied.removed) + "Only cleaning, no new rules added")
    return 0


COMMANDS = {"apply": apply, "clean": clean, "render": render}


def read_file(path: str) -> bytes | None:
    """What a file holds; None where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError):
        return None


def _settle(request: Request, environment: Mapping[str, str], *, dry_run: bool) -> tuple[Config, Mapping[str, Setting]]:
    dialect = request.run.get("dialect") or environment.get("MESH_IPTABLES_DIALECT") or istio_1_0.DIALECT
    if dialect != istio_1_0.DIALECT:
        raise UsageError(f"--dialect: {shown(dialect)} is not known; expected {istio_1_0.DIALECT}")
    settings = gather(request.rules, environment, read_file, dry_run=dry_run)
    return configure(settings, SystemNames(), dry_run=dry_run), settings


def _backend(request: Request) -> Backend:
    """The backend asked for, in the network namespace asked for, as soon as this run is alone there."""
    from mesh_iptables.apply.choose import choose_backend
    from mesh_iptables.apply.namespace import enter_namespace, is_first_namespace

    wait = _seconds(request.run.get("wait", "30"))
    name, flavour = request.run.get("backend", "auto"), request.run.get("iptables", "")
    if flavour and name not in ("auto", "restore"):
        raise UsageError(f"--iptables: chooses the flavour of --backend restore, and not of {name}")
    if "netns" in request.run:
        enter_namespace(request.run["netns"])
    if "host" not in request.run and is_first_namespace():
        raise MachineError("this is the machine's first network namespace, not a Pod's; --host if you mean it")
    return choose_backend(name, flavour, wait=wait)


def _seconds(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise UsageError(f"--wait: {shown(text)} is not a number of seconds")
    return int(text)


def _enforce(plan: Plan, backend: Backend, config: Config) -> Applied:
    from mesh_iptables.apply.enforce import enforce

    marks, tables = frozenset({config.tproxy_mark.value}), frozenset({config.tproxy_route_table.value})
    return enforce(plan, backend, marks=marks, tables=tables)


def _report(config: Config, settings: Mapping[str, Setting]) -> str:
    """The settings as the script prints them before it works."""
    by_name = {option.name: option for option in ISTIO_1_0}
    given = [f"{by_name[name].variable}={settings[name].text}" for name in ENVIRONMENT]
    used = {
        "PROXY_PORT": settings["proxy_port"].text,
        "INBOUND_CAPTURE_PORT": settings["capture_port"].text or settings["proxy_port"].text,
        "PROXY_UID": ",".join(owner.spelled for owner in config.proxy_uids),
        "INBOUND_INTERCEPTION_MODE": settings["mode"].text,
        "INBOUND_TPROXY_MARK": settings["tproxy_mark"].text,
        "INBOUND_TPROXY_ROUTE_TABLE": settings["tproxy_route_table"].text,
        "INBOUND_PORTS_INCLUDE": settings["inbound_ports"].text,
        "INBOUND_PORTS_EXCLUDE": settings["exclude_inbound_ports"].text,
        "OUTBOUND_IP_RANGES_INCLUDE": settings["outbound_ranges"].text,
        "OUTBOUND_IP_RANGES_EXCLUDE": settings["exclude_outbound_ranges"].text,
    }
    variables = [f"{name}={value}" for name, value in used.items()]
    lines = ["Environment:", "------------", *given, "", "Variables:", "----------", *variables, ""]
    return "\n".join(lines).encode(errors="surrogateescape").decode(errors="replace")
