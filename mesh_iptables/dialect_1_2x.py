"""What dialect `istio-1.2x` makes of a command line."""

from __future__ import annotations

from mesh_iptables.dialect import FORMATS, Dialect, Probe, Task
from mesh_iptables.options_1_2x import ISTIO_1_2X, configure, gather, run_settings, warnings
from mesh_iptables.plan import istio_1_2x

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mesh_iptables.config_1_2x import Config, RunSettings
    from mesh_iptables.dialect import Surroundings
    from mesh_iptables.options import ReadFile, Request, Setting
    from mesh_iptables.spelling import Names

# The variables that istio-iptables prints at its start, then the settings it goes by.
SHOWN = (
    "proxy_port", "capture_port", "tunnel_port", "proxy_uid", "proxy_gid", "mode", "tproxy_mark", "tproxy_route_table",
    "inbound_ports", "exclude_inbound_ports", "exclude_interfaces", "owner_groups", "exclude_owner_groups",
    "outbound_ranges", "exclude_outbound_ranges", "outbound_ports", "exclude_outbound_ports", "virtual_interfaces",
    "loopback",
)  # fmt: skip


def understand(
    request: Request,
    environment: Mapping[str, str],
    read_file: ReadFile,
    names: Names,
    here: Callable[[], Surroundings],
    *,
    dry_run: bool,
) -> Task:
    """Check all settings; raises UsageError. `--dry-run` may also come from the environment."""
    settings = gather(request.rules, environment, read_file)
    about_run = run_settings(settings)
    run = {**_run(about_run), **request.run}
    if run.get("backend") == "nft":
        run.setdefault("format", "nft")
    if dry_run or about_run.dry_run:
        config = configure(settings, names, None)
    else:
        surroundings = here()
        surroundings.move(run.get("netns", ""))
        config = configure(settings, names, surroundings)
    return Task(
        plan=istio_1_2x.plan(config),
        warnings=tuple(warnings(config, settings)),
        report=_report(config, settings),
        marks=frozenset({config.tproxy_mark.value}),
        tables=frozenset({config.tproxy_route_table.value}),
        run=run,
        clean=about_run.cleanup_only,
        skip_rules=about_run.skip_rule_apply,
        probe=_probe(config, about_run),
        dry_run_file=about_run.dry_run_file,
    )


def _run(about_run: RunSettings) -> dict[str, str]:
    """The options of this dialect in the words that all dialects share."""
    words = {
        "dry_run": "true" if about_run.dry_run else "",
        "netns": about_run.namespace,
        "backend": "nft" if about_run.native_nftables else "",
        "iptables": about_run.iptables,
        "cni": "true" if about_run.cni_mode else "",
    }
    return {name: word for name, word in words.items() if word}


def _probe(config: Config, about_run: RunSettings) -> Probe | None:
    if not about_run.run_validation:
        return None
    return Probe(
        outbound_port=config.proxy_port.low,
        inbound_port=config.inbound_capture_port.low,
        port=about_run.probe_port,
        seconds=about_run.probe_seconds,
        version=6 if config.ipv6 else 4,
        loopback_mask=config.loopback.mask,
        uid=config.proxy_uids[0].low if config.proxy_uids else 0,
    )


def _report(config: Config, settings: Mapping[str, Setting]) -> str:
    """The settings, a line each, by the name of their variable."""
    by_name = {option.name: option for option in ISTIO_1_2X}
    texts = {name: settings[name].text for name in SHOWN} | {
        "proxy_uid": ",".join(owner.spelled for owner in config.proxy_uids),
        "proxy_gid": ",".join(owner.spelled for owner in config.proxy_gids),
    }
    lines = [f"{by_name[name].variable or 'PROXY_PORT'}={text}" for name, text in texts.items()]
    servers = ",".join(server.spelled for server in config.dns.servers)
    used = {
        "ENABLE_IPV6": config.ipv6,
        "DNS_CAPTURE": config.dns.enabled,
        "CAPTURE_ALL_DNS": config.dns.everything,
        "DROP_INVALID": config.drop_invalid,
    }
    lines += [f"{name}={str(value).lower()}" for name, value in used.items()]
    return "\n".join(["Variables:", "----------", *lines, f"DNS_SERVERS={servers}", ""])


NEW = Dialect(
    istio_1_2x.DIALECT,
    ISTIO_1_2X,
    {name: f"mesh_iptables.render.{name}" for name in (*FORMATS, "golden")}
    | {"restore": "mesh_iptables.render.restore_1_2x", "nft": "mesh_iptables.render.nft_1_2x"},
    understand,
    "original",
)
