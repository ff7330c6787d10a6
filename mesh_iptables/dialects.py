"""The dialects: which there are, which one a command line means, and what it makes of the settings.

Only the module of the chosen one is loaded; an init container pays for nothing else.
"""

from __future__ import annotations

from mesh_iptables.errors import UsageError, shown
from mesh_iptables.model import Plan
from mesh_iptables.options import (
    DIALECTS,
    ISTIO_1_0,
    Option,
    Request,
    Setting,
    UnknownOption,
    configure,
    gather,
    split_words,
    warnings,
)
from mesh_iptables.plan import istio_1_0
from mesh_iptables.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Literal, Protocol

    from mesh_iptables.config import Config
    from mesh_iptables.options import ReadFile
    from mesh_iptables.spelling import Names

    class Surroundings(Protocol):
        """What a dialect may ask about the network namespace and the machine it acts in; never in a dry run."""

        def move(self, namespace: str) -> None:
            """Ask about another network namespace, by name or path, from now on; "" means no other."""

        def addresses(self) -> tuple[tuple[int, int], ...]:
            """IP version and address of every interface, in the kernel's order."""

        def nameservers(self) -> tuple[str, ...]:
            """The resolvers of /etc/resolv.conf."""

    class Understand(Protocol):
        """Makes a task of a request: checks its settings, raises UsageError. A dry run does not call `here`."""

        def __call__(
            self,
            request: Request,
            environment: Mapping[str, str],
            read_file: ReadFile,
            names: Names,
            here: Callable[[], Surroundings],
            *,
            dry_run: bool,
        ) -> Task: ...

    Native = Literal["own", "original"]

PROGRAM_1_2X = "istio-iptables"


class Probe(Value):
    """A connection that proves the rules: made by the proxy's user `uid`, to `port`, seen at one of the proxy's ports.

    It may take `seconds`. `loopback_mask` is that of the addresses that count as localhost.
    """

    outbound_port: int
    inbound_port: int
    port: int
    seconds: float
    version: int
    loopback_mask: int
    uid: int


class Task(Value):
    """What a command line asks for, understood and checked.

    `run` holds the options about the run itself, with what the dialect's own options say about it. `marks` and
    `tables` are the settings by which policy rules of ours are known. With `clean` nothing of ours is to be left, with
    `skip_rules` what is there stays; `probe` is made at the end.
    """

    plan: Plan
    warnings: tuple[str, ...]
    report: str
    marks: frozenset[int]
    tables: frozenset[int]
    run: Mapping[str, str]
    clean: bool = False
    skip_rules: bool = False
    probe: Probe | None = None
    dry_run_file: str = ""


class Dialect(Value):
    """One dialect: its options, the modules that print its plans, and what makes a task of a request.

    `native` says whose tables its rules go to with nft: of this program's `own` layout, or the `original` one.
    """

    name: str
    options: tuple[Option, ...]
    formats: Mapping[str, str]
    understand: Understand
    native: Native


def dialect(name: str) -> Dialect:
    """The dialect of that name; UsageError where there is none."""
    if name == istio_1_0.DIALECT:
        return OLD
    if name == "istio-1.2x":
        from mesh_iptables.dialect_1_2x import NEW

        return NEW
    raise UsageError(f"--dialect: {shown(name)} is not one of {', '.join(DIALECTS)}")


def dialect_name(words: Sequence[str], environment: Mapping[str, str], program: str) -> str:
    """Which dialect is meant: as an option says, the environment, or the name that the program was called by."""
    for place in range(len(words) - 1, -1, -1):
        name, equals, value = words[place].partition("=")
        if name == "--dialect" and (equals or place + 1 < len(words)):
            return value if equals else words[place + 1]
    by_name = "istio-1.2x" if program.rpartition("/")[2] == PROGRAM_1_2X else istio_1_0.DIALECT
    return environment.get("MESH_IPTABLES_DIALECT") or by_name


def split(words: Sequence[str], chosen: Dialect) -> Request:
    """Take a command line apart; UsageError, which names the other dialect where only that one has an option."""
    try:
        return split_words(words, chosen.options)
    except UnknownOption as error:
        for name in DIALECTS:
            known = {word for option in dialect(name).options for word in option.words}
            word = next((found for found in (error.word, error.word[:2]) if found in known), "")
            if word:
                raise UsageError(f"{word}: only dialect {name} has this option, and this is {chosen.name}") from None
        raise


def understand_1_0(
    request: Request,
    environment: Mapping[str, str],
    read_file: ReadFile,
    names: Names,
    here: Callable[[], Surroundings],  # noqa: ARG001  # this dialect asks nothing
    *,
    dry_run: bool,
) -> Task:
    """Check the settings of dialect `istio-1.0`; raises UsageError."""
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


FORMATS = ("shell", "restore", "nft", "json", "table")
OLD = Dialect(
    istio_1_0.DIALECT, ISTIO_1_0, {name: f"mesh_iptables.render.{name}" for name in FORMATS}, understand_1_0, "own"
)
