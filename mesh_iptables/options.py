"""Where settings come from (arguments, environment, env files), in which order, and what each is called.

Of several sources the strongest wins: option, sidecar file, cluster file, environment, default. That the files beat
the environment is istio-iptables.sh's: it sourced them into the running shell.
"""

from __future__ import annotations

from mesh_iptables import spelling
from mesh_iptables.config import Config, NetworkSelection, PortSelection
from mesh_iptables.envfile import parse_env_file
from mesh_iptables.errors import UsageError, shown
from mesh_iptables.spelling import Misspelt
from mesh_iptables.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import TypeVar

    from mesh_iptables.config import Mode
    from mesh_iptables.model import Network, Owner, OwnerKind
    from mesh_iptables.spelling import Names

    T = TypeVar("T")
    ReadFile = Callable[[str], bytes | None]  # None: there is no such file, or it cannot be read


class Option(Value):
    """One setting of the rules: what it is called on the command line and in the environment."""

    name: str
    words: tuple[str, ...]
    variable: str
    default: str
    metavar: str
    help: str
    is_list: bool = False
    other_variable: str = ""  # an additional one, stronger than `variable`


class RunOption(Value):
    """One option about the run itself, not about the rules; a flag where it has no `metavar`."""

    name: str
    words: tuple[str, ...]
    metavar: str
    help: str
    choices: tuple[str, ...] = ()


class Setting(Value):
    """A value as it was given, and where."""

    text: str
    source: str


class Request(Value):
    """A command line, taken apart but not yet understood."""

    rules: Mapping[str, Setting]
    run: Mapping[str, str]


class UnknownOption(UsageError):
    """There is no option `word`."""

    def __init__(self, word: str) -> None:
        super().__init__(f"{shown(word)}: there is no such option; --help lists them")
        self.word = word


DIALECTS = ("istio-1.0", "istio-1.2x")
FORMATS = ("shell", "restore", "nft", "json", "table", "golden")
BACKENDS = ("auto", "restore", "nft", "iptc")
FLAVOURS = ("legacy", "nft")
CLUSTER_FILE = "/var/lib/istio/envoy/cluster.env"
SIDECAR_FILE = "/var/lib/istio/envoy/sidecar.env"

# Names and defaults are istio-iptables.sh's; the long names are ours. Settings without words come by variable only.
ISTIO_1_0 = (
    Option(
        "proxy_port",
        ("-p", "--proxy-port"),
        "ENVOY_PORT",
        "15001",
        "PORT",
        "Port of the proxy, to which outbound (and inbound) connections are sent.",
    ),
    Option(
        "proxy_uid",
        ("-u", "--proxy-uid"),
        "",
        "",
        "UIDS",
        "Users whose traffic is left alone: numbers, ranges or names. Unset: the proxy's user, and root.",
        is_list=True,
    ),
    Option(
        "proxy_gid",
        ("-g", "--proxy-gid"),
        "",
        "",
        "GIDS",
        "Groups whose traffic is left alone. Unset: the numbers of -u.",
        is_list=True,
    ),
    Option(
        "mode",
        ("-m", "--mode"),
        "ISTIO_INBOUND_INTERCEPTION_MODE",
        "",
        "MODE",
        "How inbound connections reach the proxy: REDIRECT (also when empty) or TPROXY.",
    ),
    Option(
        "inbound_ports",
        ("-b", "--inbound-ports"),
        "ISTIO_INBOUND_PORTS",
        "",
        "PORTS",
        "Inbound ports to capture: a list, '*' for all, empty for none.",
        is_list=True,
    ),
    Option(
        "exclude_inbound_ports",
        ("-d", "--exclude-inbound-ports"),
        "ISTIO_LOCAL_EXCLUDE_PORTS",
        "",
        "PORTS",
        "Inbound ports to leave alone; only with -b '*'.",
        is_list=True,
    ),
    Option(
        "outbound_ranges",
        ("-i", "--outbound-ranges"),
        "ISTIO_SERVICE_CIDR",
        "",
        "CIDRS",
        "Destinations to capture: a list, '*' for all, empty for none.",
        is_list=True,
    ),
    Option(
        "exclude_outbound_ranges",
        ("-x", "--exclude-outbound-ranges"),
        "ISTIO_SERVICE_EXCLUDE_CIDR",
        "",
        "CIDRS",
        "Destinations to leave alone.",
        is_list=True,
    ),
    Option("capture_port", (), "INBOUND_CAPTURE_PORT", "", "PORT", "Port for inbound REDIRECT. Unset: that of -p."),
    Option("tproxy_mark", (), "ISTIO_INBOUND_TPROXY_MARK", "1337", "MARK", "Mark of packets that TPROXY delivers."),
    Option("tproxy_route_table", (), "ISTIO_INBOUND_TPROXY_ROUTE_TABLE", "133", "TABLE", "Routing table for them."),
    Option("enable_inbound_ipv6", (), "ENABLE_INBOUND_IPV6", "", "TEXT", "Any text: inbound IPv6 is not refused."),
    Option("envoy_user", (), "ENVOY_USER", "istio-proxy", "NAME", "User to leave alone where there is no -u."),
    Option("cluster_file", (), "ISTIO_CLUSTER_CONFIG", CLUSTER_FILE, "FILE", "First file of NAME=value lines."),
    Option("sidecar_file", (), "ISTIO_SIDECAR_CONFIG", SIDECAR_FILE, "FILE", "Second one; beats the first."),
)

RUN_OPTIONS = (
    RunOption(
        "dialect",
        ("--dialect",),
        "NAME",
        "Whose rules. Default: istio-1.0. Variable: MESH_IPTABLES_DIALECT.",
        DIALECTS,
    ),
    RunOption("dry_run", ("-n", "--dry-run"), "", "Print the plan and touch nothing, as `render` does."),
    RunOption("format", ("--format",), "NAME", "How a plan is printed. Default: shell.", FORMATS),
    RunOption("backend", ("--backend",), "NAME", "The way into the kernel. Default: auto.", BACKENDS),
    RunOption("iptables", ("--iptables",), "NAME", "Flavour of the restore programs.", FLAVOURS),
    RunOption("wait", ("--wait",), "SECONDS", "How long to wait for another run or tool to end. Default: 30."),
    RunOption("netns", ("--netns",), "NAME|PATH", "Act in this network namespace."),
    RunOption("host", ("--host",), "", "Allow to act in the machine's first network namespace."),
    RunOption("quiet", ("--quiet",), "", "Say nothing about the run itself."),
)


def split_words(words: Sequence[str], rules: Sequence[Option] = ISTIO_1_0) -> Request:
    """Take a command line apart as POSIX getopt does: `-u1337`, `-u 1337`, `--proxy-uid=1337`; the last one wins.

    Where istio-iptables.sh went on in silence (an option without its value, words behind the options) this refuses.
    """
    known: dict[str, Option | RunOption] = {word: option for option in RUN_OPTIONS for word in option.words}
    known |= {word: option for option in rules for word in option.words}
    given: dict[str, Setting] = {}
    run: dict[str, str] = {}
    rest = list(reversed(words))
    if rest[:1] == ["--"]:  # the end of the options, where it is the end
        rest.pop(0)
    while rest:
        word, value = _option_word(rest.pop(), known)
        option = known[word]
        if option.metavar and value is None:
            if not rest:
                raise UsageError(f"{word}: has no value behind it; expected {option.metavar}")
            value = rest.pop()
        if isinstance(option, Option):
            given[option.name] = Setting("true" if value is None else value, word)
        elif not option.metavar and value is not None:
            raise UsageError(f"{word}: takes no value, and {shown(value)} was given")
        elif isinstance(option, RunOption) and option.choices and value not in option.choices:
            raise UsageError(f"{word}: {shown(value or '')} is not one of {', '.join(option.choices)}")
        else:
            run[option.name] = value or ""
    return Request(given, run)


def _option_word(word: str, known: Mapping[str, Option | RunOption]) -> tuple[str, str | None]:
    """An option and the value that hangs on it, if any."""
    name, equals, value = word.partition("=")
    if word.startswith("--") and name in known:
        return name, value if equals else None
    if not word.startswith("--") and word[:2] in known:
        return word[:2], word[2:] or None
    if word.startswith("-") and word not in ("-", "--"):
        raise UnknownOption(name)
    raise UsageError(f"{shown(word)}: stands behind the options, where nothing is expected")


def gather(
    given: Mapping[str, Setting],
    environment: Mapping[str, str],
    read_file: ReadFile,
    *,
    dry_run: bool,
    rules: Sequence[Option] = ISTIO_1_0,
) -> dict[str, Setting]:
    """Every setting from its strongest source; `@FILE` lists read.

    A dry run depends on its arguments alone, so it reads only those env files that the environment names.
    """
    variables = {option.variable for option in rules} - {""}
    layer = {name: Setting(environment[name], name) for name in variables if name in environment}
    for file_variable, default in (("ISTIO_CLUSTER_CONFIG", CLUSTER_FILE), ("ISTIO_SIDECAR_CONFIG", SIDECAR_FILE)):
        named = file_variable in layer and layer[file_variable].text
        path = named or default
        if named or not dry_run:
            layer.update(_env_file(path, read_file, variables))
    settings: dict[str, Setting] = {}
    for option in rules:
        setting = given.get(option.name) or layer.get(option.variable) or Setting("", option.variable)
        # A variable that is set to nothing means its default, an option does not (`-p ""` is an error).
        if not setting.text and option.name not in given:
            setting = Setting(option.default, setting.source)
        if option.is_list and setting.text.startswith("@"):
            setting = list_file(setting, read_file)
        settings[option.name] = setting
    return settings


def list_file(setting: Setting, read_file: ReadFile) -> Setting:
    """The list that `@FILE` stands for: an entry a line, comments behind `#`."""
    path = setting.text[1:]
    content = read_file(path)
    if content is None:
        raise UsageError(f"{setting.source}: cannot read the list {shown(path)}; expected a file, an entry a line")
    lines = (line.partition("#")[0].strip() for line in content.decode(errors="surrogateescape").splitlines())
    return Setting(",".join(line for line in lines if line), f"{setting.source} {setting.text}")


def _env_file(path: str, read_file: ReadFile, variables: set[str]) -> dict[str, Setting]:
    """The assignments of an env file, each with its line as source; nothing where the file cannot be read."""
    content = read_file(path)
    if content is None:
        return {}
    found: dict[str, Setting] = {}
    for name, value, place in parse_env_file(content, path):
        if name in variables:
            found[name] = Setting(value, f"{place} {name}")
    return found


def split_list(setting: Setting) -> list[str]:
    """The entries of a comma list. One comma at the end is fine: the stock injector of 1.0 passes `-b 9080,`."""
    entries = setting.text.split(",")
    if entries[-1] == "":
        entries.pop()
    for position, entry in enumerate(entries, 1):
        if not entry.strip(" \t"):
            raise UsageError(
                f"{setting.source}: {shown(setting.text)} has an empty entry at position {position}; "
                "expected entries with one comma between them"
            )
        if entry.strip(" \t") == "*" and len(entries) > 1:
            raise UsageError(f"{setting.source}: {shown(setting.text)} has '*' inside a list; expected '*' alone")
    return entries


def understand(read: Callable[[str], T], setting: Setting, text: str | None = None) -> T:
    """Read one value (the whole setting unless `text` is one entry of it), and complain as a person would."""
    entry = setting.text if text is None else text
    try:
        return read(entry)
    except Misspelt as error:
        raise UsageError(f"{setting.source}: {shown(entry)} {error}") from None


def understand_list(read: Callable[[str], T], setting: Setting) -> tuple[T, ...]:
    """Read each entry of a list."""
    return tuple(understand(read, setting, entry) for entry in split_list(setting))


def configure(settings: Mapping[str, Setting], names: Names, *, dry_run: bool) -> Config:
    """Check every setting of dialect `istio-1.0`; raises UsageError at the first that no tool would take."""
    mode = _mode(settings["mode"])
    ports = settings["inbound_ports"]
    uids, gids = _owners(settings, names, dry_run=dry_run)
    inbound_ports = PortSelection(
        ports.text == "*",
        () if ports.text == "*" else understand_list(lambda text: spelling.parse_port_range(text, names), ports),
        understand_list(lambda text: spelling.parse_port_range(text, names), settings["exclude_inbound_ports"]),
    )
    read_proxy_port = (
        spelling.parse_tproxy_port if mode == "TPROXY" and inbound_ports else spelling.parse_redirect_ports
    )
    proxy_port = understand(lambda text: read_proxy_port(text, names), settings["proxy_port"])
    capture_port = settings["capture_port"]
    return Config(
        proxy_port=proxy_port,
        inbound_capture_port=(
            understand(lambda text: spelling.parse_redirect_ports(text, names), capture_port)
            if capture_port.text
            else proxy_port
        ),
        proxy_uids=uids,
        proxy_gids=gids,
        mode=mode,
        inbound_ports=inbound_ports,
        outbound_ranges=_ranges(settings["outbound_ranges"], settings["exclude_outbound_ranges"], names),
        tproxy_mark=understand(spelling.parse_mark, settings["tproxy_mark"]),
        tproxy_route_table=understand(
            lambda text: spelling.parse_routing_table(text, names), settings["tproxy_route_table"]
        ),
        ipv6_lockdown=not settings["enable_inbound_ipv6"].text,
    )


def _mode(setting: Setting) -> Mode:
    # istio-iptables.sh takes any other text, `tproxy` too, for REDIRECT
    if setting.text not in ("", "REDIRECT", "TPROXY"):
        raise UsageError(f"{setting.source}: {shown(setting.text)} is not a mode; expected REDIRECT or TPROXY")
    return "TPROXY" if setting.text == "TPROXY" else "REDIRECT"


def _ranges(include: Setting, exclude: Setting, names: Names) -> NetworkSelection:
    def read(setting: Setting) -> tuple[Network, ...]:
        found = understand_list(lambda text: spelling.parse_networks(text, names), setting)
        return tuple(network for networks in found for network in networks)

    wildcard = include.text == "*"
    return NetworkSelection(wildcard, () if wildcard else read(include), read(exclude))


def _owners(
    settings: Mapping[str, Setting], names: Names, *, dry_run: bool
) -> tuple[tuple[Owner, ...], tuple[Owner, ...]]:
    uids, gids = settings["proxy_uid"], settings["proxy_gid"]
    if not uids.text:
        user = _default_user(settings["envoy_user"], names, dry_run=dry_run)
        # Root is added here, and copied to the groups below, by istio-iptables.sh (its certificate agent on VMs).
        uids = Setting(f"{user},0", settings["envoy_user"].source)
    if not gids.text:
        gids = Setting(uids.text, f"{uids.source} (for the groups too)")
    return _read_owners("uid", uids, names), _read_owners("gid", gids, names)


def _read_owners(kind: OwnerKind, setting: Setting, names: Names) -> tuple[Owner, ...]:
    return understand_list(lambda text: spelling.parse_owner(kind, text, names), setting)


def _default_user(setting: Setting, names: Names, *, dry_run: bool) -> int:
    """The proxy's uid where no -u says it; 1337 without such a user. A dry run asks only for a name it was given."""
    if (dry_run and setting.text == "istio-proxy") or not spelling.is_word(setting.text):
        return 1337
    found = names.user(setting.text)
    if found is None and setting.text.isdigit() and names.has_uid(int(setting.text)):  # as `id -u` finds it
        found = int(setting.text)
    return 1337 if found is None else found


def warnings(config: Config, settings: Mapping[str, Setting]) -> Iterable[str]:
    """Options that were given and have no effect."""
    excluded, capture = settings["exclude_inbound_ports"], settings["capture_port"]
    if excluded.text and not config.inbound_ports.wildcard:
        yield f"{excluded.source}: ports are excluded only from -b '*'; {shown(excluded.text)} has no effect"
    if capture.text and config.mode == "TPROXY" and config.inbound_ports:
        yield f"{capture.source}: TPROXY uses the port of -p for inbound too; {shown(capture.text)} has no effect"
