"""Rules as input for `iptables-restore --noflush` and `ip6tables-restore --noflush`. Pure."""

from __future__ import annotations

from mesh_iptables.model import BUILT_IN
from mesh_iptables.render.iptables import network_text, saved
from mesh_iptables.ruleset import after

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mesh_iptables.model import Family, LoopbackAddress, Plan, RouteMarked
    from mesh_iptables.ruleset import Ruleset

    Lines = dict[str, dict[str, list[str]]]  # table to chain to rules, without `-A CHAIN`

FAMILIES: tuple[Family, ...] = ("ipv4", "ipv6")
PROGRAMS = {"ipv4": "iptables-restore --noflush", "ipv6": "ip6tables-restore --noflush"}


def saved_lines(ruleset: Ruleset, family: Family) -> Lines:
    """Every rule of one family as `iptables-save` would print it."""
    return {
        table: {chain: [saved(rule, family) for rule in rules] for chain, rules in chains.items()}
        for table, chains in ruleset.tables(family).items()
    }


def restore_text(lines: Lines) -> str:
    """Input for one restore program: our chains made anew, rules of built-in chains behind those already there."""
    return "".join(_table_text(table, chains) for table, chains in lines.items())


def _table_text(table: str, chains: dict[str, list[str]]) -> str:
    made = [f":{chain} - [0:0]" for chain in chains if chain not in BUILT_IN]
    rules = [f"-A {chain} {line}" for chain, lines in chains.items() for line in lines]
    return "\n".join([f"*{table}", *made, *rules, "COMMIT\n"])


def route_commands(route: RouteMarked) -> tuple[list[str], list[str]]:
    """What iproute2 would be told to deliver marked packets here: the rule, then the route."""
    ip = ["ip", "-f", "inet" if route.family == "ipv4" else "inet6"]
    table = route.table_spelled or str(route.table)
    rule = [*ip, "rule", "add", "fwmark", route.mark_spelled or str(route.mark), "lookup", table]
    return rule, [*ip, "route", "add", "local", "default", "dev", "lo", "table", table]


def address_command(operation: LoopbackAddress) -> list[str]:
    """What iproute2 would be told to give `lo` one more address."""
    option = "-6" if operation.family == "ipv6" else "-4"
    return ["ip", option, "addr", "add", network_text(operation.network), "dev", "lo"]


def render(plan: Plan) -> str:
    """Both families, each behind a comment that names the program it is for; then what is not for them."""
    ruleset = after(plan)
    parts = []
    for family in FAMILIES:
        if lines := saved_lines(ruleset, family):
            parts.append(f"# {PROGRAMS[family]}\n{restore_text(lines)}")
    parts += [f"# {' '.join(words)}\n" for route in ruleset.routes for words in route_commands(route)]
    return "".join(parts)
