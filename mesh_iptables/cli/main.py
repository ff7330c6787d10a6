"""The whole command line with its help and completion; what an init container runs does not come this way."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import click

from mesh_iptables import __version__
from mesh_iptables.cli import rules
from mesh_iptables.dialects import PROGRAM_1_2X, dialect, dialect_name
from mesh_iptables.errors import MeshIptablesError, UsageError
from mesh_iptables.options import ISTIO_1_0, RUN_OPTIONS, RunOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mesh_iptables.options import Option

_HELP = ("-h", "--help")
SETTINGS = {"help_option_names": [*_HELP], "max_content_width": 110}
# Commands that load more than click, imported when they are asked for.
LAZY = {
    "golden": "mesh_iptables.cli.golden:golden",
    "inject": "mesh_iptables.cli.inject:inject",
    "policy": "mesh_iptables.cli.policy:policy",
    "proxy": "mesh_iptables.cli.proxy:proxy",
}


def run(words: Sequence[str]) -> int:
    """Carry out a command line; the exit status."""
    arguments = list(words)
    if arguments and arguments[0].startswith("-") and arguments[0] not in (*_HELP, "--version"):
        arguments.insert(0, "apply")
    elif arguments[:1] in ([word] for word in _HELP) and sys.argv[0].rpartition("/")[2] == PROGRAM_1_2X:
        arguments.insert(0, PROGRAM_1_2X)  # under that name there is nothing else
    try:
        status = program.main(arguments, prog_name="mesh-iptables", standalone_mode=False)
    except MeshIptablesError as error:
        return rules.complain(error)
    except click.ClickException as error:
        return rules.complain(UsageError(error.format_message().replace("\n", " ")))
    except click.Abort:
        return 130
    return status if isinstance(status, int) else 0


class Program(click.Group):
    """The commands of this module, and those that are imported when asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, sorted."""
        return sorted({*super().list_commands(ctx), *LAZY})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One command by name."""
        if cmd_name in LAZY:
            module, _, name = LAZY[cmd_name].partition(":")
            command = getattr(import_module(module), name)
            return command if isinstance(command, click.Command) else None
        return super().get_command(ctx, cmd_name)


class RuleCommand(click.Command):
    """A command with the options of a dialect. click shows and completes them; `split_words` alone reads them."""

    def __init__(self, name: str, summary: str, left_out: Sequence[str] = ()) -> None:
        known = _options()
        taken = {word for option in known for word in option.words}
        common = [option for option in RUN_OPTIONS if not taken.intersection(option.words)]
        every: list[Option | RunOption] = [*known, *common]
        options = [_click_option(option) for option in every if option.name not in left_out]
        variables = [f"  {option.variable:<35} {option.help}" for option in known if not option.words]
        epilog = "\n".join(["\b", "By variable only:", *variables])
        shown = [option for option in options if option is not None]
        super().__init__(name, params=[*shown], help=summary, epilog=epilog, context_settings=SETTINGS)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leave the words as they are, but for a call for help."""
        if "-h" in args or "--help" in args or ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        ctx.obj = list(args)
        return []

    def invoke(self, ctx: click.Context) -> int:
        """Hand the words on."""
        return rules.run([str(self.name), *ctx.obj])


def _options() -> tuple[Option, ...]:
    """The options of the dialect that this command line means."""
    try:
        called = PROGRAM_1_2X if PROGRAM_1_2X in sys.argv[1:2] else sys.argv[0]
        return dialect(dialect_name(sys.argv[1:], os.environ, called)).options
    except UsageError:  # there is no such dialect; who reads the words will say so
        return ISTIO_1_0


def _click_option(option: Option | RunOption) -> click.Option | None:
    if not option.words:
        return None
    text = option.help
    if not isinstance(option, RunOption) and option.variable:
        text += f" Variable: {' or '.join(found for found in (option.other_variable, option.variable) if found)}."
    return click.Option(
        [*option.words, option.name], help=text, is_flag=not option.metavar, metavar=option.metavar or None
    )


@click.group(cls=Program, context_settings=SETTINGS, invoke_without_command=False)
@click.version_option(__version__, "--version", prog_name="mesh-iptables", message="%(prog)s %(version)s")
def program() -> None:
    """Istio's traffic capture rules: print them, put them into force, take them back.

    Without a command but with rule options (`mesh-iptables -p 15001 -u 1337 …`) this is `apply`, as the entry point of
    an init container that ran istio-iptables.sh. With --dialect istio-1.2x, or called as istio-iptables, it has the
    options of today's istio-iptables: `mesh-iptables apply --dialect istio-1.2x --help` lists them.
    """


RUN_ONLY = ("backend", "iptables", "wait", "netns", "host")
program.add_command(
    RuleCommand("apply", "Put the rules into force in this network namespace, all or nothing.", ("format",))
)
program.add_command(RuleCommand("render", "Print the rules as a dry run.", ("dry_run", *RUN_ONLY)))
program.add_command(
    RuleCommand("clean", "Remove all rules that this program or istio-iptables.sh left.", ("dry_run", "format"))
)
program.add_command(RuleCommand(PROGRAM_1_2X, "Do what `apply --dialect istio-1.2x` does.", ("format",)))
