"""The kernel in miniature: what chains a sequence of operations leaves behind, and which it would refuse. Pure."""

from __future__ import annotations

from mesh_iptables.model import (
    BUILT_IN,
    ChainOperation,
    Jump,
    LoopbackAddress,
    RouteMarked,
    RuleOperation,
)
from mesh_iptables.value import assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mesh_iptables.model import Family, Operation, Plan, Rule, Table

    Key = tuple[Family, Table, str]


class Refused(Exception):
    """The kernel would refuse an operation."""


class Ruleset:
    """Chains by family, table and name, the marks that are delivered locally, and further addresses of `lo`.

    Built-in chains are there without being made, but are listed in `chains` only once they hold a rule. `heads` says
    how many of their rules were inserted in front; that is how they came to be, and plays no part in comparison.
    """

    def __init__(self) -> None:
        self.chains: dict[Key, list[Rule]] = {}
        self.policies: dict[Key, str] = {}
        self.heads: dict[Key, int] = {}
        self.routes: list[RouteMarked] = []
        self.addresses: list[LoopbackAddress] = []

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ruleset) and vars(self) | {"heads": {}} == vars(other) | {"heads": {}}

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"Ruleset({self.chains!r}, routes={self.routes!r})"

    def run(self, operations: Iterable[Operation], *, ignore_refused: bool = False) -> Ruleset:
        """Carry out operations in turn; raises Refused at the first that the kernel would not take."""
        for operation in operations:
            try:
                self._run_one(operation)
            except Refused:
                if not ignore_refused:
                    raise
        return self

    def _run_one(self, operation: Operation) -> None:
        match operation:
            case ChainOperation():
                self._change_chain(operation)
            case RuleOperation():
                self._change_rules(operation)
            case RouteMarked():
                if operation not in self.routes:
                    self.routes.append(operation)
            case LoopbackAddress():
                if operation not in self.addresses:
                    self.addresses.append(operation)
            case _:
                assert_never(operation)

    def _change_chain(self, operation: ChainOperation) -> None:
        key = (operation.family, operation.table, operation.chain)
        if operation.verb == "new":
            if key in self.chains or operation.chain in BUILT_IN:
                raise Refused(f"chain {operation.chain} exists already")
            self.chains[key] = []
            return
        if operation.verb == "flush" and operation.chain in BUILT_IN:
            self.chains.pop(key, None)
            return
        if key not in self.chains:
            raise Refused(f"there is no chain {operation.chain}")
        if operation.verb == "flush":
            self.chains[key].clear()
            return
        if self.chains[key] or self._is_referenced(key):
            raise Refused(f"chain {operation.chain} is in use")
        del self.chains[key]

    def _change_rules(self, operation: RuleOperation) -> None:
        key = (operation.family, operation.table, operation.chain)
        if key not in self.chains and operation.chain not in BUILT_IN:
            raise Refused(f"there is no chain {operation.chain}")
        if operation.verb == "delete":
            self._delete_rule(key, operation.rule)
            return
        target = operation.rule.target
        if isinstance(target, Jump) and (operation.family, operation.table, target.chain) not in self.chains:
            raise Refused(f"there is no chain {target.chain} to jump to")
        rules = self.chains.setdefault(key, [])
        rules.insert(len(rules) if operation.verb == "append" else operation.position - 1, operation.rule)
        if operation.verb == "insert" and operation.position == 1 and operation.chain in BUILT_IN:
            self.heads[key] = self.heads.get(key, 0) + 1

    def _delete_rule(self, key: Key, rule: Rule) -> None:
        rules = self.chains.get(key, [])
        if rule not in rules:
            raise Refused(f"chain {key[2]} has no such rule")
        if rules.index(rule) < self.heads.get(key, 0):
            self.heads[key] -= 1
        rules.remove(rule)
        if not rules and key[2] in BUILT_IN:
            del self.chains[key]

    def _is_referenced(self, key: Key) -> bool:
        family, table, chain = key
        return any(
            isinstance(rule.target, Jump) and rule.target.chain == chain
            for (other_family, other_table, _), rules in self.chains.items()
            if (other_family, other_table) == (family, table)
            for rule in rules
        )

    def tables(self, family: Family) -> dict[Table, dict[str, list[Rule]]]:
        """The chains of one family: table to chain to rules; tables by name, chains as iptables-save prints them."""
        tables: dict[Table, dict[str, list[Rule]]] = {}
        for found_family, table, chain in sorted(self.chains, key=_saved_order):
            if found_family == family:
                tables.setdefault(table, {})[chain] = self.chains[found_family, table, chain]
        return tables


def _saved_order(key: Key) -> tuple[str, str, int, str]:
    family, table, chain = key
    return family, table, BUILT_IN.index(chain) if chain in BUILT_IN else len(BUILT_IN), chain


def after(plan: Plan) -> Ruleset:
    """What a plan leaves behind where nothing was before."""
    return Ruleset().run(plan.setup)
