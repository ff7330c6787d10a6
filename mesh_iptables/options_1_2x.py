"""The options of dialect `istio-1.2x`: where its settings come from, what each is called, what it may hold.

Of several sources the strongest wins: option, additional variable, own variable, default. A variable that is set to
nothing counts as not set. The original passes over a variable that it cannot read and hands most values to iptables
unread; here both are refused before anything is touched.
"""

from __future__ import annotations

import _socket

from mesh_iptables import spelling
from mesh_iptables.config import NetworkSelection, Number, PortSelection
from mesh_iptables.config_1_2x import Config, DnsCapture, OwnerGroups, RunSettings
from mesh_iptables.errors import UsageError, shown
from mesh_iptables.model import UNKNOWN_ID, Network, Owner
from mesh_iptables.options import Option, Setting, list_file, understand
from mesh_iptables.spelling import Misspelt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Protocol, TypeVar

    from mesh_iptables.config import Mode
    from mesh_iptables.model import OwnerKind, PortRange
    from mesh_iptables.options import ReadFile
    from mesh_iptables.spelling import Names

    T = TypeVar("T")
    Settings = Mapping[str, Setting]

    class Surroundings(Protocol):
        """What the original finds out by itself about the machine it runs on; see `dialects`."""

        def addresses(self) -> tuple[tuple[int, int], ...]: ...
        def nameservers(self) -> tuple[str, ...]: ...


# Names and defaults are istio-iptables's. No metavar: true or false. No words: by variable only.
ISTIO_1_2X = (
    Option(
        "proxy_port",
        ("-p", "--envoy-port"),
        "",  # ENVOY_PORT is only printed
        "15001",
        "PORT",
        "Port of the proxy, to which outbound connections are sent.",
    ),
    Option(
        "capture_port",
        ("-z", "--inbound-capture-port"),
        "INBOUND_CAPTURE_PORT",
        "15006",
        "PORT",
        "Port of the proxy, to which inbound connections are sent.",
    ),
    Option(
        "tunnel_port",
        ("-e", "--inbound-tunnel-port"),
        "INBOUND_TUNNEL_PORT",
        "15008",
        "PORT",
        "Inbound port that reaches the proxy directly.",
    ),
    Option(
        "proxy_uid",
        ("-u", "--proxy-uid"),
        "PROXY_UID",
        "",
        "UIDS",
        "Users whose traffic is left alone: numbers, ranges or names. Unset: the proxy's user.",
        is_list=True,
    ),
    Option(
        "proxy_gid",
        ("-g", "--proxy-gid"),
        "PROXY_GID",
        "",
        "GIDS",
        "Groups whose traffic is left alone. Unset: the numbers of -u.",
        is_list=True,
    ),
    Option(
        "mode",
        ("-m", "--istio-inbound-interception-mode"),
        "ISTIO_INBOUND_INTERCEPTION_MODE",
        "",
        "MODE",
        "How inbound connections reach the proxy: REDIRECT (also when empty) or TPROXY.",
    ),
    Option(
        "inbound_ports",
        ("-b", "--istio-inbound-ports"),
        "ISTIO_INBOUND_PORTS",
        "",
        "PORTS",
        "Inbound ports to capture: a list, '*' for all, empty for none.",
        is_list=True,
    ),
    Option(
        "exclude_inbound_ports",
        ("-d", "--istio-local-exclude-ports"),
        "ISTIO_LOCAL_EXCLUDE_PORTS",
        "",
        "PORTS",
        "Inbound ports to leave alone; only with -b '*'.",
        is_list=True,
    ),
    Option(
        "exclude_interfaces",
        ("-c", "--istio-exclude-interfaces"),
        "ISTIO_EXCLUDE_INTERFACES",
        "",
        "NAMES",
        "Interfaces to leave alone, inbound and outbound.",
        is_list=True,
    ),
    Option(
        "outbound_ranges",
        ("-i", "--istio-service-cidr"),
        "ISTIO_SERVICE_CIDR",
        "",
        "CIDRS",
        "Destinations to capture, IPv4 and IPv6: a list, '*' for all, empty for none.",
        is_list=True,
    ),
    Option(
        "exclude_outbound_ranges",
        ("-x", "--istio-service-exclude-cidr"),
        "ISTIO_SERVICE_EXCLUDE_CIDR",
        "",
        "CIDRS",
        "Destinations to leave alone.",
        is_list=True,
    ),
    Option(
        "outbound_ports",
        ("-q", "--istio-outbound-ports"),
        "ISTIO_OUTBOUND_PORTS",
        "",
        "PORTS",
        "Outbound ports to capture whatever the destination.",
        is_list=True,
    ),
    Option(
        "exclude_outbound_ports",
        ("-o", "--istio-local-outbound-ports-exclude"),
        "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE",
        "",
        "PORTS",
        "Outbound TCP and UDP ports to leave alone.",
        is_list=True,
    ),
    Option(
        "virtual_interfaces",
        ("-k", "--kube-virt-interfaces"),
        "KUBE_VIRT_INTERFACES",
        "",
        "NAMES",
        "Interfaces of virtual machines: what comes in by them is treated as outbound.",
        is_list=True,
    ),
    Option(
        "tproxy_mark",
        ("-t", "--istio-inbound-tproxy-mark"),
        "ISTIO_INBOUND_TPROXY_MARK",
        "1337",
        "MARK",
        "Mark of packets that TPROXY delivers; a decimal number.",
    ),
    Option(
        "tproxy_route_table",
        ("-r", "--istio-inbound-tproxy-route-table"),
        "ISTIO_INBOUND_TPROXY_ROUTE_TABLE",
        "133",
        "TABLE",
        "Routing table for them; a decimal number.",
    ),
    Option("dry_run", ("-n", "--dry-run"), "DRY_RUN", "false", "", "Print the plan and touch nothing."),
    Option(
        "probe_port",
        ("--iptables-probe-port",),
        "IPTABLES_PROBE_PORT",
        "15002",
        "PORT",
        "Port that --run-validation connects to.",
    ),
    Option("probe_timeout", ("--probe-timeout",), "PROBE_TIMEOUT", "5s", "DURATION", "How long that may take."),
    Option("skip_rule_apply", ("--skip-rule-apply",), "SKIP_RULE_APPLY", "false", "", "Make no rules and no routes."),
    Option(
        "run_validation",
        ("--run-validation",),
        "RUN_VALIDATION",
        "false",
        "",
        "Prove with a connection that the rules are in force; exit status 126 where they are not.",
    ),
    Option(
        "redirect_dns",
        ("--redirect-dns",),
        "REDIRECT_DNS",
        "false",
        "",
        "Capture the DNS of applications.",
        other_variable="ISTIO_META_DNS_CAPTURE",
    ),
    Option(
        "capture_all_dns",
        ("--capture-all-dns",),
        "CAPTURE_ALL_DNS",
        "false",
        "",
        "With --redirect-dns: to whatever resolver it goes.",
    ),
    Option(
        "drop_invalid",
        ("--drop-invalid",),
        "DROP_INVALID",
        "false",
        "",
        "Drop inbound packets that belong to no connection.",
        other_variable="INVALID_DROP",
    ),
    Option(
        "dual_stack",
        ("--dual-stack",),
        "DUAL_STACK",
        "false",
        "",
        "Capture IPv6 where any address is IPv6, not only where the first one is.",
        other_variable="ISTIO_DUAL_STACK",
    ),
    Option(
        "network_namespace",
        ("--network-namespace",),
        "NETWORK_NAMESPACE",
        "",
        "PATH",
        "Act in this network namespace, as --netns does.",
    ),
    Option(
        "cni_mode",
        ("--cni-mode",),
        "CNI_MODE",
        "false",
        "",
        "Run for a CNI plug-in: the host's files, a Pod's network.",
    ),
    Option("reconcile", ("--reconcile",), "RECONCILE", "false", "", "Without effect: every run repairs what it finds."),
    Option("cleanup_only", ("--cleanup-only",), "CLEANUP_ONLY", "false", "", "Do what `clean` does."),
    Option("force_apply", ("--force-apply",), "FORCE_APPLY", "false", "", "Without effect: see --reconcile."),
    Option(
        "native_nftables",
        ("--native-nftables",),
        "NATIVE_NFTABLES",
        "false",
        "",
        "Use nft and tables of our own, as --backend nft does.",
    ),
    Option(
        "force_iptables_binary",
        ("--force-iptables-binary",),
        "FORCE_IPTABLES_BINARY",
        "",
        "NAME",
        "Flavour of the iptables programs, as --iptables: legacy or nft.",
    ),
    Option(
        "ip_family",
        ("--ip-family",),
        "",
        "auto",
        "auto|ipv4|dual",
        "Whether IPv6 is captured as well; auto asks the interfaces, and in a dry run means IPv4.",
    ),
    Option(
        "dns_servers",
        ("--dns-servers",),
        "",
        "",
        "ADDRESSES",
        "Resolvers whose DNS --redirect-dns captures, or none. Unset: those of /etc/resolv.conf.",
        is_list=True,
    ),
    Option(
        "fix",
        ("--fix",),
        "",
        "",
        "NAMES",
        "Correct listed quirks of the original (N1, N2, N8, N9, N12, N15, N17), or all.",
        is_list=True,
    ),
    Option(
        "owner_groups",
        (),
        "ISTIO_OUTBOUND_OWNER_GROUPS",
        "*",
        "GROUPS",
        "Groups whose outbound traffic is captured.",
        is_list=True,
    ),
    Option(
        "exclude_owner_groups",
        (),
        "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE",
        "",
        "GROUPS",
        "Groups whose outbound traffic is left alone.",
        is_list=True,
    ),
    Option(
        "loopback",
        (),
        "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR",
        "127.0.0.1/32",
        "CIDR",
        "IPv4 destinations that count as localhost.",
    ),
    # What Istio's programs take about their log; the injector passes the first two.
    Option("log_output_level", ("--log_output_level",), "", "", "LEVELS", "Without effect: warnings and errors only."),
    Option("log_as_json", ("--log_as_json",), "", "false", "", "Without effect."),
    Option("log_target", ("--log_target",), "", "", "FILES", "Without effect."),
    Option("log_caller", ("--log_caller",), "", "", "SCOPES", "Without effect."),
    Option("log_stacktrace_level", ("--log_stacktrace_level",), "", "", "LEVELS", "Without effect."),
    Option("dry_run_file", (), "DRY_RUN_FILE_PATH", "", "FILE", "File for what a dry run would do."),
    Option("envoy_user", (), "ENVOY_USER", "istio-proxy", "NAME", "User to leave alone where there is no -u."),
    Option("envoy_port", (), "ENVOY_PORT", "", "PORT", "Only printed; the port is that of -p."),
)

FIXES = {
    "N1": "a call of the Pod to itself reaches the proxy whichever of its owners makes it",
    "N2": "a group's DNS over TCP to the Pod's own address is not taken for such a call",
    "N8": "an empty list of owner groups means all groups, not none",
    "N9": "owner groups that this machine does not know are left out",
    "N12": "TPROXY without inbound ports makes no rules that mark packets",
    "N15": "invalid packets are dropped only of TCP, as by native nft",
    "N17": "DNS of a family without a resolver is left alone altogether",
}
BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}
SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
MAX_GROUPS = 64
LONGEST_INTERFACE = 15


def gather(given: Settings, environment: Mapping[str, str], read_file: ReadFile) -> dict[str, Setting]:
    """Every setting from its strongest source; `@FILE` lists read."""
    settings: dict[str, Setting] = {}
    for option in ISTIO_1_2X:
        setting = given.get(option.name)
        if setting is None:
            setting = _variable(option, environment)
        elif setting.source[1:2] != "-" and setting.text.startswith("="):
            setting = Setting(setting.text[1:], setting.source)  # `-b=80` is `-b 80` here
        if option.is_list and setting.text.startswith("@"):
            setting = list_file(setting, read_file)
        settings[option.name] = setting
    return settings


def _variable(option: Option, environment: Mapping[str, str]) -> Setting:
    for name in (option.other_variable, option.variable):
        if name and environment.get(name):
            return Setting(environment[name], name)
    if option.name == "owner_groups" and option.variable in environment:
        return Setting("", option.variable)  # the one variable whose being empty means something
    return Setting(option.default, option.variable or option.words[-1])


def run_settings(settings: Settings) -> RunSettings:
    """What is said about the run itself; raises UsageError."""
    binary = settings["force_iptables_binary"]
    if binary.text not in ("", "legacy", "nft"):
        raise UsageError(f"{binary.source}: {shown(binary.text)} is not a flavour; expected legacy or nft")
    return RunSettings(
        dry_run=_flag(settings["dry_run"]),
        dry_run_file=settings["dry_run_file"].text,
        skip_rule_apply=_flag(settings["skip_rule_apply"]),
        cleanup_only=_flag(settings["cleanup_only"]),
        namespace=settings["network_namespace"].text,
        cni_mode=_flag(settings["cni_mode"]),
        native_nftables=_flag(settings["native_nftables"]),
        iptables=binary.text,
        run_validation=_flag(settings["run_validation"]),
        probe_port=understand(_probe_port, settings["probe_port"]),
        probe_seconds=understand(parse_duration, settings["probe_timeout"]),
    )


def configure(settings: Settings, names: Names, surroundings: Surroundings | None) -> Config:
    """Check every setting; raises UsageError at the first that cannot be. A dry run has no `surroundings`."""
    dry_run = surroundings is None
    fixes = _fixes(settings["fix"])
    mode = _mode(settings["mode"])
    inbound = settings["inbound_ports"]
    read_capture_port = spelling.parse_tproxy_port if mode == "TPROXY" else spelling.parse_redirect_ports
    uids, gids = _owners(settings, names, dry_run=dry_run)
    for name in ("reconcile", "force_apply"):
        _flag(settings[name])
    return Config(
        proxy_port=understand(lambda text: spelling.parse_redirect_ports(text, names), settings["proxy_port"]),
        inbound_capture_port=understand(lambda text: read_capture_port(text, names), settings["capture_port"]),
        tunnel_port=understand(lambda text: spelling.parse_port_range(text, names), settings["tunnel_port"]),
        proxy_uids=uids,
        proxy_gids=gids,
        mode=mode,
        inbound_ports=PortSelection(
            inbound.text == "*",
            () if inbound.text == "*" else _ports(inbound, names),
            _ports(settings["exclude_inbound_ports"], names),
        ),
        outbound_ranges=_ranges(settings["outbound_ranges"], settings["exclude_outbound_ranges"]),
        outbound_loopback=any(_is_loopback(text) for text in entries(settings["outbound_ranges"])),
        outbound_ports=_ports(settings["outbound_ports"], names),
        exclude_outbound_ports=_list(lambda text: _port_of_both(text, names), settings["exclude_outbound_ports"]),
        exclude_interfaces=_list(parse_interface, settings["exclude_interfaces"]),
        virtual_interfaces=_list(parse_interface, settings["virtual_interfaces"]),
        owner_groups=_owner_groups(settings, names, fixes, dry_run=dry_run),
        loopback=understand(_parse_loopback, settings["loopback"]),
        dns=_dns(settings, surroundings),
        drop_invalid=_flag(settings["drop_invalid"]),
        tproxy_mark=understand(_decimal_mark, settings["tproxy_mark"]),
        tproxy_route_table=understand(_decimal_table, settings["tproxy_route_table"]),
        ipv6=_ipv6(settings, surroundings),
        fixes=fixes,
    )


def entries(setting: Setting) -> list[str]:
    """The entries of a comma list; empty ones do not count."""
    return [entry for entry in setting.text.split(",") if entry]


def _list(read: Callable[[str], T], setting: Setting) -> tuple[T, ...]:
    return tuple(understand(lambda entry: read(entry.strip(" \t")), setting, entry) for entry in entries(setting))


def _flag(setting: Setting) -> bool:
    if setting.text not in BOOLEANS:
        raise UsageError(f"{setting.source}: {shown(setting.text)} is neither true nor false; expected one of the two")
    return BOOLEANS[setting.text]


def parse_duration(text: str) -> float:
    """Seconds of a duration like `5s`, `1m30s` or `1.5h`."""
    seconds, rest = 0.0, text.removeprefix("+")
    while rest and rest != "0":
        number = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        unit = rest[len(number) :]
        unit = unit[: len(unit) - len(unit.lstrip("hmnsuµ"))]
        if unit not in SECONDS or number.count(".") > 1 or not number.strip("."):
            raise Misspelt("is not a duration: expected one like 5s, 500ms or 1m30s")
        seconds += float(number) * SECONDS[unit]
        rest = rest[len(number) + len(unit) :]
    if not text:
        raise Misspelt("is not a duration: expected one like 5s, 500ms or 1m30s")
    return seconds


def _probe_port(text: str) -> int:
    port = spelling.parse_number(text, spelling.MAX_PORT)
    if not port:
        raise Misspelt("is not a port: expected a number from 1 to 65535")
    return port


def _mode(setting: Setting) -> Mode:
    # istio-iptables takes any other text for REDIRECT
    if setting.text not in ("", "REDIRECT", "TPROXY"):
        raise UsageError(f"{setting.source}: {shown(setting.text)} is not a mode; expected REDIRECT or TPROXY")
    return "TPROXY" if setting.text == "TPROXY" else "REDIRECT"


def _ports(setting: Setting, names: Names) -> tuple[PortRange, ...]:
    return _list(lambda text: spelling.parse_port_range(text, names), setting)


def _port_of_both(text: str, names: Names) -> PortRange:
    """Ports for a rule of TCP and one of UDP, which reads `0120` otherwise than TCP does, and `0x50` not at all."""
    for part in text.split(":"):
        number = part.lstrip(" ")
        if number[:1] in ("0", "+") and number != "0":
            raise Misspelt("is not a plain decimal number, and rules for UDP read no other")
    return spelling.parse_port_range(text, names)


def parse_interface(text: str) -> str:
    """The name of an interface, or the beginning of some with a `+` behind it."""
    if not 0 < len(text) <= LONGEST_INTERFACE or "/" in text or not text.isprintable() or " " in text or text[0] == "!":
        raise Misspelt(f"is not the name of an interface: expected at most {LONGEST_INTERFACE} letters like eth0")
    return text


def parse_cidr(text: str) -> Network:
    """An address with a prefix length behind it, either family; host bits stay in the spelling, as istio keeps them."""
    body, _, length = text.partition("/")
    version, family, masks = (6, _socket.AF_INET6, MASKS[6]) if ":" in body else (4, _socket.AF_INET, MASKS[4])
    try:
        packed = _socket.inet_pton(family, body)
    except (OSError, ValueError):
        raise Misspelt("is not a network: expected one like 10.0.0.0/8 or fd00::/8") from None
    mask = masks.get(length)
    if mask is None:
        raise Misspelt(f"has no prefix length behind the address: expected one like /{len(masks) - 1}")
    spelled = text if version == 4 else f"{_socket.inet_ntop(family, packed)}/{length}"
    return Network(version, int.from_bytes(packed) & mask, mask, spelled, False)


MASKS = {
    version: {str(length): ((1 << length) - 1) << (bits - length) for length in range(bits + 1)}
    for version, bits in ((4, 32), (6, 128))
}


def _ranges(include: Setting, exclude: Setting) -> NetworkSelection:
    if exclude.text == "*":
        raise UsageError(f"{exclude.source}: '*' would exclude every destination; expected networks like 10.0.0.0/8")
    wildcard = include.text == "*"
    return NetworkSelection(wildcard, () if wildcard else _list(parse_cidr, include), _list(parse_cidr, exclude))


def _is_loopback(text: str) -> bool:
    address = text.strip(" \t").partition("/")[0]
    return address.startswith("127.") or (":" in address and parse_cidr(f"{address}/128").address == 1)


def _parse_loopback(text: str) -> Network:
    network = parse_cidr(text)
    if network.version != 4 or network.address >> 24 != 127 or network.mask.bit_count() < 8:
        raise Misspelt("is not part of 127.0.0.0/8: expected a network like 127.0.0.1/32")
    return network


def _decimal_mark(text: str) -> Number:
    number = _decimal(text)
    if not 0 < number <= spelling.MAX_MARK:
        raise Misspelt("is not a mark: expected a decimal number from 1 to 4294967295")
    return Number(number, text)


def _decimal_table(text: str) -> Number:
    number = _decimal(text)
    if not 0 < number <= spelling.MAX_MARK or number in spelling.KERNEL_TABLES:
        raise Misspelt("is not a free routing table: expected a decimal number that nobody uses, like 133")
    return Number(number, text)


def _decimal(text: str) -> int:
    """A decimal number without zeros in front, which iptables would read as octal; 0 for any other text."""
    return int(text) if text.isascii() and text.isdigit() and text[0] != "0" and len(text) < 11 else 0


def _owners(settings: Settings, names: Names, *, dry_run: bool) -> tuple[tuple[Owner, ...], tuple[Owner, ...]]:
    uids, gids = settings["proxy_uid"], settings["proxy_gid"]
    if not uids.text:
        user = settings["envoy_user"]
        given = user.text != "istio-proxy"
        found = names.user(user.text) if (given or not dry_run) and spelling.is_word(user.text) else None
        uids = Setting(str(1337 if found is None else found), user.source)
    if not gids.text:
        gids = Setting(uids.text, f"{uids.source} (for the groups too)")
    return _read_owners("uid", uids, names, dry_run=dry_run), _read_owners("gid", gids, names, dry_run=dry_run)


def _read_owners(kind: OwnerKind, setting: Setting, names: Names, *, dry_run: bool) -> tuple[Owner, ...]:
    return _list(lambda text: _owner(kind, text, names, dry_run=dry_run), setting)


def _owner(kind: OwnerKind, text: str, names: Names, *, dry_run: bool) -> Owner:
    """One owner. A dry run takes names that this machine does not know: it may not be the one that counts."""
    try:
        return spelling.parse_owner(kind, text, names)
    except Misspelt:
        if not dry_run or not spelling.is_word(text) or text[0] in "0123456789+":
            raise
        return Owner(kind, UNKNOWN_ID, UNKNOWN_ID, spelled=text)


def _owner_groups(settings: Settings, names: Names, fixes: frozenset[str], *, dry_run: bool) -> OwnerGroups:
    included, excluded = settings["owner_groups"], settings["exclude_owner_groups"]
    if "N8" in fixes and not included.text:
        included = Setting("*", included.source)
    wildcard = included.text == "*"
    if not wildcard and len(entries(included)) > MAX_GROUPS:
        raise UsageError(f"{included.source}: {shown(included.text)} has more than {MAX_GROUPS} groups")
    if "N9" in fixes and not dry_run:
        included, excluded = (_known_groups(setting, names) for setting in (included, excluded))
    return OwnerGroups(
        wildcard,
        () if wildcard else _read_owners("gid", included, names, dry_run=dry_run),
        _read_owners("gid", excluded, names, dry_run=dry_run) if wildcard else (),
    )


def _known_groups(setting: Setting, names: Names) -> Setting:
    """The list without names that this machine does not know; a list of nothing else is not made an empty one."""
    known = [text for text in entries(setting) if not spelling.is_word(text) or _is_group(text, names)]
    return Setting(",".join(known), setting.source) if known else setting


def _is_group(text: str, names: Names) -> bool:
    try:
        spelling.parse_owner("gid", text, names)
    except Misspelt:
        return False
    return True


def _dns(settings: Settings, surroundings: Surroundings | None) -> DnsCapture:
    wanted, everything = _flag(settings["redirect_dns"]), _flag(settings["capture_all_dns"])
    given = settings["dns_servers"]
    servers: tuple[Network, ...] = ()
    if given.text != "none":
        servers = _list(parse_server, given)
    if wanted and not everything and not given.text:
        if surroundings is None:
            raise UsageError(
                f"{settings['redirect_dns'].source}: a dry run does not read /etc/resolv.conf; "
                "expected --dns-servers with addresses or 'none', or --capture-all-dns"
            )
        servers = tuple(server for text in surroundings.nameservers() for server in _readable_server(text))
    if not wanted or everything:
        servers = ()
    return DnsCapture(wanted and (everything or bool(servers)), everything, servers)


def parse_server(text: str) -> Network:
    """The address of a resolver."""
    try:
        return parse_cidr(f"{text}/{128 if ':' in text else 32}")
    except Misspelt:
        raise Misspelt("is not the address of a resolver: expected one like 10.96.0.10, or 'none'") from None


def _readable_server(text: str) -> list[Network]:
    try:
        return [parse_server(text)]
    except Misspelt:
        return []


def _ipv6(settings: Settings, surroundings: Surroundings | None) -> bool:
    """Whether IPv6 is captured: as said, or as the addresses of this namespace are."""
    family, dual = settings["ip_family"], _flag(settings["dual_stack"])
    if family.text not in ("auto", "ipv4", "dual"):
        raise UsageError(f"{family.source}: {shown(family.text)} is not one of auto, ipv4, dual")
    if family.text != "auto":
        return family.text == "dual"
    if surroundings is None:
        return dual
    versions = [version for version, address in surroundings.addresses() if not _is_local(version, address)]
    return 6 in versions if dual else versions[:1] == [6]


def _is_local(version: int, address: int) -> bool:
    """Whether an address is a loopback or link-local one, or ::6, which an earlier run put on lo."""
    if version == 4:
        return address >> 24 == 127 or address >> 16 == 0xA9FE
    return address in (1, 6) or address >> 118 == 0xFE80 >> 6


def _fixes(setting: Setting) -> frozenset[str]:
    wanted = frozenset(entry.strip(" \t").upper() for entry in entries(setting))
    if wanted == {"ALL"}:
        return frozenset(FIXES)
    if unknown := sorted(wanted - FIXES.keys()):
        raise UsageError(f"{setting.source}: {shown(unknown[0])} is not one of {', '.join(FIXES)} or all")
    return wanted


def warnings(config: Config, settings: Settings) -> Iterable[str]:
    """Options that were given and have no effect, and what else a user should know."""
    excluded = settings["exclude_inbound_ports"]
    if excluded.text and not config.inbound_ports.wildcard:
        yield f"{excluded.source}: ports are excluded only from -b '*'; {shown(excluded.text)} has no effect"
    port = settings["envoy_port"]
    if port.text and port.text != settings["proxy_port"].text:
        yield f"{port.source}: is only printed, as by istio-iptables; the port is {settings['proxy_port'].text}, of -p"
    groups = settings["exclude_owner_groups"]
    if groups.text and not config.owner_groups.wildcard:
        yield f"{groups.source}: counts only where all groups are captured; {shown(groups.text)} has no effect"
    if not config.owner_groups.wildcard and not config.owner_groups.include:
        yield f"{settings['owner_groups'].source}: is empty, so nothing outbound is captured"
    redirect, everything = settings["redirect_dns"], settings["capture_all_dns"]
    if not _flag(redirect) and _flag(everything):
        yield f"{everything.source}: has no effect without --redirect-dns"
    if _flag(redirect) and not config.dns.enabled:
        yield f"{redirect.source}: no resolver is known, so DNS is not captured"
    if config.mode == "TPROXY" and config.inbound_ports and config.tproxy_mark.value == SELF_CALL_MARK:
        yield f"{settings['tproxy_mark'].source}: {SELF_CALL_MARK} also marks calls of the Pod to itself"


SELF_CALL_MARK = 1338  # fixed in the original
