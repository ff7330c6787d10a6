"""The ways into the kernel, found by name and imported when chosen.

A backend makes the rules of a plan those of this network namespace, all or nothing, and reads back what is there.
What every backend needs besides (one run at a time, policy routing, leftovers of another backend) is in `enforce`.
"""

from __future__ import annotations

from mesh_iptables.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from mesh_iptables.model import Plan
    from mesh_iptables.ruleset import Ruleset

    class Backend(Protocol):
        """One way into the kernel."""

        def apply(self, plan: Plan) -> Applied:
            """Make the plan's rules the only ones of ours, or change nothing; ApplyError, MachineError."""

        def read(self) -> Ruleset:
            """Every rule in reach of this backend, foreign ones included."""

        def dump(self) -> str:
            """The same as the kernel's own tools print it."""

        def marks(self) -> frozenset[int]:
            """The packet marks that rules of ours set: whose policy rules are ours too."""


class Applied(Value):
    """What an `apply` did: the rules taken away and put in, a line each, and what to tell the user."""

    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
