"""What dialect `istio-1.0` makes of a command line."""

from __future__ import annotations

from mesh_iptables.dialect import FORMATS, Dialect, Task
from mesh_iptables.options import ISTIO_1_0, Request, configure, gather, warnings
from mesh_iptables.plan import istio_1_0

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mesh_iptables.config import Config
    from mesh_iptables.dialect import Surroundings
    from mesh_iptables.options import ReadFile, Setting
    from mesh_iptables.spelling import Names


def understand(
    request: Request,
    environment: Mapping[str, str],
    read_file: ReadFile,
    names: Names,
    here: Callable[[], Surroundings],  # noqa: ARG001  # this dialect asks nothing
    *,
    dry_run: bool,
) -> Task:
    """Check all settings; raises UsageError."""
    settings = gather(request.rules, environment, read_file, dry_run=dry_run)
    config = configure(settings, names, dry_run=dry_run)
    return Task(
        plan=istio_1_0.plan(config),
        warnings=tuple(warnings(config, settings)),
        report=_report(config, settings),
        marks=frozenset({config.tproxy_mark.value}),
        tables=frozenset({config.tproxy_route_table.value}),
        run=request.run,
    )


# What the script reports first, in its order: names of variables, then its own names for what it made of them.
ENVIRONMENT = ("proxy_port", "mode", "tproxy_mark", "tproxy_route_table", "inbound_ports", "exclude_inbound_ports",
    "outbound_ranges", "exclude_outbound_ranges")  # fmt: skip


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
    return "\n".join(["Environment:", "------------", *given, "", "Variables:", "----------", *variables, ""])


OLD = Dialect(
    istio_1_0.DIALECT, ISTIO_1_0, {name: f"mesh_iptables.render.{name}" for name in FORMATS}, understand, "own"
)
