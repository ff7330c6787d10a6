"""Every command and option with its variables, default and meaning; exit statuses; how values may be spelled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import click

from mesh_iptables import errors, spelling
from mesh_iptables import options_1_2x as today
from mesh_iptables.cli.main import RuleCommand, program
from mesh_iptables.cli.reference.tables import cell, code, codes, table
from mesh_iptables.config import Number
from mesh_iptables.model import Network, Owner, PortRange
from mesh_iptables.options import ISTIO_1_0, RUN_OPTIONS, Option, RunOption
from mesh_iptables.options_1_2x import ISTIO_1_2X

OPTION_TITLES = ("option", "variable", "default", "value", "meaning")


# --- commands ----------------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its name behind `mesh-iptables`."""
    yield from _below(program, click.Context(program, info_name="mesh-iptables"))


def _below(group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from _below(command, inner)
        else:
            yield inner.command_path.removeprefix("mesh-iptables "), command


def command_table() -> list[str]:
    """What each command does, in one sentence."""
    return table(("command", "does"), ((code(name), cell(_summary(command))) for name, command in commands()))


def _summary(command: click.Command) -> str:
    return (command.help or "").partition("\n\n")[0]


# --- options of rules --------------------------------------------------------------------------------------


def rule_options(options: Iterable[Option]) -> list[str]:
    """Settings of the rules, as one dialect calls them."""
    return table(OPTION_TITLES, map(_rule_option, options))


def _rule_option(option: Option) -> tuple[str, ...]:
    value = option.metavar.lower() if option.metavar else "boolean"
    return (
        codes(option.words),
        codes(name for name in (option.other_variable, option.variable) if name),
        code(option.default),
        f"list of {value}" if option.is_list else cell(value),
        cell(option.help),
    )


def run_options() -> list[str]:
    """Options about the run, and the commands that know them."""
    rule_commands = [command for _, command in commands() if isinstance(command, RuleCommand)]
    return table(("option", "value", "commands", "meaning"), (_run_option(each, rule_commands) for each in RUN_OPTIONS))


def _run_option(option: RunOption, rule_commands: Iterable[click.Command]) -> tuple[str, ...]:
    value = codes(option.choices) or cell(option.metavar.lower())
    known = [str(command.name) for command in rule_commands if option.words[-1] in _words(command)]
    return codes(option.words), value, codes(known), cell(option.help)


def _words(command: click.Command) -> set[str]:
    return {word for parameter in command.params for word in parameter.opts}


# --- options of the other commands -------------------------------------------------------------------------


def shared_options() -> list[str]:
    """What `proxy` and every `policy` command take."""
    return table(OPTION_TITLES, map(_click_option, _shared()))


def own_options(name: str) -> list[str]:
    """The options of one command, but for the shared ones."""
    command = dict(commands())[name]
    shared = {parameter.name for parameter in _shared()} if name.partition(" ")[0] in ("proxy", "policy") else set()
    own = [each for each in command.params if isinstance(each, click.Option) and each.name not in shared]
    return table(OPTION_TITLES, map(_click_option, own)) if own else ["It has no options of its own."]


def _shared() -> list[click.Option]:
    known = dict(commands())
    groups = [known[name].params for name in known if name.partition(" ")[0] in ("proxy", "policy")]
    common = set.intersection(*({str(each.name) for each in params} for params in groups))
    return [each for each in known["proxy"].params if isinstance(each, click.Option) and each.name in common]


def _click_option(option: click.Option) -> tuple[str, ...]:
    repeated = ", several times" if option.multiple else ""
    variables = [option.envvar] if isinstance(option.envvar, str) else option.envvar or ()
    return (
        codes([*option.opts, *option.secondary_opts]),
        codes(variables),
        code(_default(option)),
        _value(option) + repeated,
        cell((option.help or "").replace("; may be repeated", "")),
    )


def _default(option: click.Option) -> str:
    default = option.to_info_dict()["default"]
    if option.is_flag:
        return option.opts[0] if default and option.secondary_opts else ""
    return "" if default in (None, [], ()) else str(default)


def _value(option: click.Option) -> str:
    kind = option.type
    if option.is_flag:
        return "none"
    if isinstance(kind, click.Choice):
        return codes(map(str, kind.choices))
    if isinstance(kind, click.IntRange | click.FloatRange):
        low, high = kind.min, kind.max
        return f"number from {low:g}" + ("" if high is None else f" to {high:g}")
    return cell((option.metavar or kind.name).lower())


# --- exit statuses -----------------------------------------------------------------------------------------


def exit_statuses() -> list[str]:
    """How the program ends, from the exceptions that end it."""
    found: dict[str, list[str]] = {}
    for kind in _kinds():
        status = "2, 3, 4" if kind is errors.ApplyError else str(kind.exit_status)
        found.setdefault(status, []).append(cell(kind.__doc__ or ""))
    return table(
        ("status", "when"), [("0", "Done; nothing differs."), *((each, " ".join(found[each])) for each in found)]
    )


def _kinds() -> list[type[errors.MeshIptablesError]]:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return [
        kind for kind in kinds if issubclass(kind, errors.MeshIptablesError) and kind is not errors.MeshIptablesError
    ]


# --- spellings ---------------------------------------------------------------------------------------------


class _Names:
    """A machine with a few names, for the examples."""

    def service(self, name: str) -> int | None:
        return {"http": 80}.get(name)

    def user(self, name: str) -> int | None:
        return {"istio-proxy": 1337}.get(name)

    group = user

    def has_uid(self, uid: int) -> bool:
        return uid == 1337

    def network(self, name: str) -> int | None:  # noqa: ARG002  # it has none
        return None

    def hosts(self, name: str) -> tuple[int, ...]:
        return (0x0A010203, 0x0A010204) if name == "db.example.com" else ()

    def routing_table(self, name: str) -> int | None:
        return {"mesh": 133}.get(name)


NAMES = _Names()
Reading = tuple[Callable[[str], object], tuple[str, ...]]
_NETWORKS = ("10.0.0.0/8", "10.1.2.3", "10/8", "10.1", "10.0.0.1/24", "10.0.0.0/255.255.0.0", "db.example.com", "::1")
SPELLINGS_1_0: Mapping[str, Reading] = {
    "ports to capture or leave alone": (
        lambda text: spelling.parse_port_range(text, NAMES),
        ("80", "+80", "0x50", "0120", "http", "8000:8010", ":1023", "1024:", "8000-8010", "65536"),
    ),
    "the proxy's port, REDIRECT": (
        lambda text: spelling.parse_redirect_ports(text, NAMES),
        ("15001", "http", "15001-15003"),
    ),
    "the proxy's port, TPROXY": (
        lambda text: spelling.parse_tproxy_port(text, NAMES),
        ("15001", "0120", "15001-15003"),
    ),
    "networks": (lambda text: spelling.parse_networks(text, NAMES), _NETWORKS),
    "owners": (
        lambda text: spelling.parse_owner("uid", text, NAMES),
        ("1337", "1000-2000", "1000:2000", "istio-proxy", "nobody-here"),
    ),
    "mark": (spelling.parse_mark, ("1337", "0x539", "0")),
    "routing table": (lambda text: spelling.parse_routing_table(text, NAMES), ("133", "mesh", "main", "255")),
}
SPELLINGS_1_2X: Mapping[str, Reading] = {
    "duration": (today.parse_duration, ("5s", "500ms", "1m30s", "5")),
    "interface": (today.parse_interface, ("eth0", "net1", "a-name-of-an-interface")),
    "resolver": (today.parse_server, ("10.96.0.10", "fd00::a", "dns.example.com")),
}


def spellings(readings: Mapping[str, Reading]) -> list[str]:
    """Examples of values, and what the program's own readers make of them."""
    rows = [
        (kind if number == 0 else "", code(text), _read(read, text))
        for kind, (read, texts) in readings.items()
        for number, text in enumerate(texts)
    ]
    return table(("value", "written", "means"), rows)


def _read(read: Callable[[str], object], text: str) -> str:
    try:
        return cell(_shown(read(text)))
    except spelling.Misspelt as error:
        return f"refused: {cell(str(error))}"


def _shown(value: object) -> str:
    match value:
        case PortRange(low=low, high=high) | Owner(low=low, high=high):
            return str(low) if low == high else f"{low} to {high}"
        case Number(value=number):
            return str(number)
        case Network():
            return _network(value)
        case tuple():
            return " and ".join(map(_shown, value))
        case float():
            return f"{value:g} seconds"
    return str(value)


def _network(network: Network) -> str:
    from ipaddress import IPv4Address, IPv6Address

    address = IPv4Address(network.address) if network.version == 4 else IPv6Address(network.address)
    return f"{address}/{network.mask.bit_count()}"


def limits() -> list[str]:
    """Words and numbers of the dialect istio-1.2x."""
    true = codes(text for text, value in today.BOOLEANS.items() if value)
    false = codes(text for text, value in today.BOOLEANS.items() if not value)
    rows = [
        ("boolean", f"{true}; {false}"),
        ("units of a duration", codes(today.SECONDS)),
        ("groups in `ISTIO_OUTBOUND_OWNER_GROUPS`", f"at most {today.MAX_GROUPS}"),
        ("name of an interface", f"at most {today.LONGEST_INTERFACE} characters"),
    ]
    return table(("value", "taken"), rows)


SECTIONS: Mapping[str, Callable[[], list[str]]] = {
    "commands": command_table,
    "rule options of istio-1.0": lambda: rule_options(ISTIO_1_0),
    "rule options of istio-1.2x": lambda: rule_options(ISTIO_1_2X),
    "options about the run": run_options,
    "exit statuses": exit_statuses,
    "spellings of istio-1.0": lambda: spellings(SPELLINGS_1_0),
    "spellings of istio-1.2x": lambda: spellings(SPELLINGS_1_2X),
    "limits of istio-1.2x": limits,
    "options that proxy and policy share": shared_options,
    **{
        f"options of {name}": partial(own_options, name)
        for name, command in commands()
        if not isinstance(command, RuleCommand)
    },
}
