"""A plan for a person at a terminal: every rule, why it is there, which option made it."""

from __future__ import annotations

import io

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mesh_iptables.model import BUILT_IN
from mesh_iptables.render.iptables import saved
from mesh_iptables.render.restore import FAMILIES, address_command, route_commands
from mesh_iptables.ruleset import after

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mesh_iptables.model import Family, Plan, Rule

WIDTH = 140  # a plan must look the same on every machine; a terminal passes its own


def render(plan: Plan, *, width: int = WIDTH, colour: bool = False) -> str:
    """One table a chain, in the order of iptables-save; `colour` writes terminal codes."""
    ruleset = after(plan)
    buffer = io.StringIO()
    console = Console(file=buffer, width=width, force_terminal=colour, no_color=not colour, highlight=False)
    for family in FAMILIES:
        for table, chains in ruleset.tables(family).items():
            console.print(_table(f"{family} {table}", chains, family))
    for route in ruleset.routes:
        console.print(Text("routing of marked packets", style="bold"))
        for words in route_commands(route):
            console.print(Text(f"  {' '.join(words)}"))
    if ruleset.addresses:
        console.print(Text("addresses of lo", style="bold"))
    for address in ruleset.addresses:
        console.print(Text(f"  {' '.join(address_command(address))}"))
    return "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def _table(title: str, chains: dict[str, list[Rule]], family: Family) -> Table:
    table = Table(box=SIMPLE_HEAD, title=Text(title, style="bold"), title_justify="left", expand=True, padding=(0, 1))
    table.add_column("chain", no_wrap=True)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("rule", ratio=3, overflow="fold")
    table.add_column("why", ratio=2)
    table.add_column("option", no_wrap=True, style="dim")
    for chain, rules in chains.items():
        style = "bold" if chain in BUILT_IN else "cyan"
        for number, rule in enumerate(rules, 1):
            name = Text(chain if number == 1 else "", style=style)
            table.add_row(name, str(number), Text(saved(rule, family)), Text(rule.why), Text(rule.option or "-"))
    return table
