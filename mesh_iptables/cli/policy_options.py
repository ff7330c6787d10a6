"""The options that `proxy` and all of `policy` share: which policy, in which dialect, for whom."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from mesh_iptables.errors import PolicyError, UsageError

if TYPE_CHECKING:
    from mesh_iptables.policy.compile import Compiled
    from mesh_iptables.policy.complaint import Complaint
    from mesh_iptables.policy.model import EgressPolicy
    from mesh_iptables.policy.settings import DnsFamily, Settings

SUFFIXES = (".yaml", ".yml")

_Command = Callable[..., object]
_Decorator = Callable[[_Command], _Command]


@dataclass(frozen=True, slots=True)
class PolicyRequest:
    """The options as given; `settings` is their checked meaning."""

    paths: tuple[str, ...]
    allow: tuple[str, ...]
    strict: bool
    settings: Settings
    _pipes: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    def compiled(self) -> Compiled:
        """Read the files anew and compile them. Raises UsageError for a file that cannot be read."""
        from mesh_iptables.policy.compile import compile_sources

        return compile_sources(read_sources(self.paths, self._pipes), self.allow, self.settings, strict=self.strict)

    def resolving(self, family: DnsFamily) -> PolicyRequest:
        """The same, with names looked up in this family, unless the user said which."""
        options = self.settings.options
        if options.dns_family is not None:
            return self
        return replace(self, settings=replace(self.settings, options=replace(options, dns_family=family)))

    def policy(self, report: Callable[[Complaint], None]) -> EgressPolicy:
        """The policy, after all there is to complain went to `report`. Raises PolicyError if nothing compiles."""
        compiled = self.compiled()
        for complaint in compiled.complaints:
            report(complaint)
        if compiled.policy is None:
            raise PolicyError(
                "the policy does not compile: without what is rejected it could allow more than was written"
            )
        return compiled.policy


_OPTIONS: tuple[_Decorator, ...] = (
    click.option(
        "--policy",
        "policy_paths",
        metavar="PATH",
        multiple=True,
        envvar="MESH_IPTABLES_POLICY",
        show_envvar=True,
        help="YAML or JSON file, or a directory of them; may be repeated.",
    ),
    click.option(
        "--allow",
        metavar="HOST[:PORT[/PROTOCOL]]",
        multiple=True,
        help="Allow this host, or *.suffix, and nothing else; may be repeated. Instead of --policy.",
    ),
    click.option("--profile", default="istio", metavar="istio|osm", help="Dialect of the documents."),
    click.option("--compat", metavar="1.0", help="Behave like this version of the profile."),
    click.option("--option", "options", metavar="KEY=VALUE", multiple=True, help="An option of the profile."),
    click.option("--strict", is_flag=True, help="An unknown field is an error, and any error stops everything."),
    click.option(
        "--namespace",
        metavar="NS",
        default="default",
        envvar="POD_NAMESPACE",
        show_envvar=True,
        help="Namespace of the workload.",
    ),
    click.option(
        "--service-account",
        metavar="NAME",
        default="default",
        envvar="SERVICE_ACCOUNT",
        show_envvar=True,
        help="Service account of the workload.",
    ),
    click.option("--labels", metavar="K=V,…", default="", envvar="POD_LABELS", show_envvar=True, help="Its labels."),
    click.option("--outbound-port", type=click.IntRange(1, 65535), help="Redirect port [default: 15001]."),
)

_NAMES = (
    "policy_paths",
    "allow",
    "profile",
    "compat",
    "options",
    "strict",
    "namespace",
    "service_account",
    "labels",
    "outbound_port",
)


def policy_options(command: _Command) -> _Command:
    """Give a click command the shared options; its first argument is then a `PolicyRequest`."""

    @wraps(command)
    def with_request(*arguments: object, **options: object) -> object:
        return command(_request(options), *arguments, **options)

    decorated: _Command = with_request
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def _request(options: dict[str, object]) -> PolicyRequest:
    """Take the shared options out of `options` and check them. Raises UsageError."""
    from mesh_iptables.policy.model import Identity
    from mesh_iptables.policy.settings import Settings, parse_labels, parse_options, parse_profile

    given = {name: options.pop(name) for name in _NAMES}
    identity = Identity(
        cast(str, given["namespace"]),
        cast(str, given["service_account"]),
        parse_labels(cast(str, given["labels"])),
    )
    settings = Settings(
        parse_profile(cast(str, given["profile"]), cast("str | None", given["compat"])),
        parse_options(cast("tuple[str, ...]", given["options"])),
        identity,
        cast("int | None", given["outbound_port"]),
    )
    paths, allow = cast("tuple[str, ...]", given["policy_paths"]), cast("tuple[str, ...]", given["allow"])
    return PolicyRequest(paths, allow, bool(given["strict"]), settings)


def read_sources(paths: Iterable[str], pipes: dict[str, bytes]) -> list[tuple[str, bytes]]:
    """The content of files; a directory means every YAML file in it, by name, and `-` standard input.

    A pipe gives its content once: `pipes` keeps it for the next time, which would see an empty policy otherwise.
    Raises UsageError for what cannot be read.
    """
    return [source for path in paths for source in _read(path, pipes)]


def _read(path: str, pipes: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    try:
        if not path:
            raise ValueError("is empty")
        if path == "-" or Path(path).is_fifo():
            yield "standard input" if path == "-" else path, _read_pipe(path, pipes)
        elif Path(path).is_dir():
            for file in sorted(Path(path).iterdir()):
                if file.suffix in SUFFIXES and file.is_file():
                    yield str(file), file.read_bytes()
        else:
            yield path, Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"--policy: {path}: {reason}") from error


def _read_pipe(path: str, pipes: dict[str, bytes]) -> bytes:
    if path not in pipes:
        pipes[path] = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    return pipes[path]
