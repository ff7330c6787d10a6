"""The rules of dialect `istio-1.2x` as istio-iptables hands them to the restore programs, to the letter. Pure.

IPv4 first, then IPv6: a table that comes a second time belongs to `ip6tables-restore`.
"""

from __future__ import annotations

from mesh_iptables.model import ChainOperation, RuleOperation
from mesh_iptables.render.iptables import written

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mesh_iptables.model import Family, Plan

FAMILIES: tuple[Family, ...] = ("ipv4", "ipv6")


def render(plan: Plan) -> str:
    """Both restore texts, one behind the other."""
    return "".join(family_text(plan, family) for family in FAMILIES)


def family_text(plan: Plan, family: Family) -> str:
    """What one restore program is given on its standard input, with `--noflush`; "" for a family that is off."""
    made: dict[str, list[str]] = {}
    for operation in plan.setup:
        if isinstance(operation, ChainOperation | RuleOperation) and operation.family == family:
            made.setdefault(operation.table, []).append(_line(operation))
    return "".join("\n".join([f"* {table}", *lines, "COMMIT\n"]) for table, lines in sorted(made.items()))


def _line(operation: ChainOperation | RuleOperation) -> str:
    if isinstance(operation, ChainOperation):
        return f"-N {operation.chain}"
    place = f"-I {operation.chain} {operation.position}" if operation.verb == "insert" else f"-A {operation.chain}"
    return " ".join([place, *written(operation.rule)])
