"""What a dialect is: its options, its formats, and what it makes of a command line."""

from __future__ import annotations

from mesh_iptables.model import Plan
from mesh_iptables.options import Option, Request
from mesh_iptables.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Literal, Protocol

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

FORMATS = ("shell", "restore", "nft", "json", "table")


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
