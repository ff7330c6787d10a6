"""A plan as the commands of the original script, in its spelling and order. Pure."""

from __future__ import annotations

from mesh_iptables.model import ChainOperation, LoopbackAddress, RouteMarked, RuleOperation
from mesh_iptables.render.iptables import written
from mesh_iptables.render.restore import address_command, route_commands
from mesh_iptables.value import assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mesh_iptables.model import Operation, Plan

PROGRAMS = {"ipv4": "iptables", "ipv6": "ip6tables"}
CHAIN_OPTIONS = {"new": "-N", "flush": "-F", "delete": "-X"}
RULE_OPTIONS = {"append": "-A", "insert": "-I", "delete": "-D"}
TO_PORT = {"istio-1.0": "--to-port", "istio-1.2x": "--to-ports"}
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:,+-=@%")


def render(plan: Plan) -> str:
    """A POSIX shell script: clean-up, in which nothing is an error, then the rules; it ends at the first failure."""
    lines = ["#!/bin/sh", "{"]
    lines += [command for operation in plan.cleanup for command, _ in _commands(operation, plan.dialect)]
    lines += ["} 2>/dev/null", "set -e"]
    forgiving = False
    for operation in plan.setup:
        for command, is_optional in _commands(operation, plan.dialect):
            if is_optional != forgiving:
                forgiving = is_optional
                lines.append("set +e  # the original goes on when this fails" if forgiving else "set -e")
            lines.append(command)
    return "\n".join([*lines, "exit 0\n"])


def _commands(operation: Operation, dialect: str) -> Iterator[tuple[str, bool]]:
    """The commands of one operation, each with whether its failure is forgiven."""
    match operation:
        case ChainOperation(verb, family, table, chain, optional):
            yield _command(family, table, CHAIN_OPTIONS[verb], chain), optional
        case RuleOperation(verb, family, table, chain, rule, position, optional):
            if not rule.has_further_address:
                place = (chain, str(position)) if verb == "insert" else (chain,)
                words = written(rule, TO_PORT[dialect])
                yield _command(family, table, RULE_OPTIONS[verb], *place, *words), optional
        case RouteMarked():
            rule_words, route_words = route_commands(operation)
            yield _line(rule_words), False
            yield _line(route_words), True  # it is there already after an earlier run
        case LoopbackAddress():
            yield _line(address_command(operation)), True  # it is there already after an earlier run
        case _:
            assert_never(operation)


def _command(family: str, table: str, *words: str) -> str:
    # The script names no table where it is filter, the default.
    named = () if table == "filter" else ("-t", table)
    return _line((PROGRAMS[family], *named, *words))


def _line(words: Iterable[str]) -> str:
    return " ".join(quote(word) for word in words)


def quote(word: str) -> str:
    """A word for a shell, in quotes where it needs them."""
    if word == "!" or (word and _PLAIN.issuperset(word)):
        return word
    return "'" + word.replace("'", "'\"'\"'") + "'"
