"""The man page, from what click knows of the commands: `python -m mesh_iptables.cli.manual > mesh-iptables.1`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from mesh_iptables import __version__
from mesh_iptables.cli.main import program


def manual() -> str:
    """The whole page in the language of man."""
    context = click.Context(program, info_name="mesh-iptables")
    lines = [
        f'.TH MESH-IPTABLES 1 "" "mesh-iptables {__version__}"',
        ".SH NAME",
        r"mesh-iptables \- set the traffic capture rules of a Pod",
        ".SH SYNOPSIS",
        ".B mesh-iptables",
        "[COMMAND] [OPTIONS]",
        ".SH DESCRIPTION",
        *_text(program.help or ""),
        ".SH COMMANDS",
        *_commands(program, context),
    ]
    return "\n".join(lines) + "\n"


def _commands(group: click.Group, context: click.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        inner = click.Context(command, info_name=name, parent=context)
        yield f".SS {_escaped(inner.command_path)}"
        yield from _text(command.help or "")
        if isinstance(command, click.Group):
            yield from _commands(command, inner)
        else:
            yield from _options(command, inner)


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record:
            yield ".TP"
            yield f".B {_escaped(record[0])}"
            yield from _text(record[1])


def _text(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.replace("\b", "").split("\n\n")):
        if number:
            yield ".PP"
        yield _escaped(" ".join(paragraph.split()))


def _escaped(text: str) -> str:
    """Text that man takes for nothing else: no escapes, no request at the start of a line."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    print(manual(), end="")
