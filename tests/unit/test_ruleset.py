"""The kernel in miniature refuses what the kernel refuses."""

from __future__ import annotations

import pytest

from mesh_iptables.model import RETURN, ChainOperation, Jump, Operation, Protocol, Rule, RuleOperation
from mesh_iptables.ruleset import Refused, Ruleset

NEW, FLUSH, DELETE = (ChainOperation(verb, "ipv4", "nat", "MINE") for verb in ("new", "flush", "delete"))
RULE = Rule((Protocol("tcp"),), RETURN)


def append(chain: str, rule: Rule = RULE) -> RuleOperation:
    return RuleOperation("append", "ipv4", "nat", chain, rule)


def test_rules_keep_their_order_and_insertions_their_place() -> None:
    first, second = Rule((), RETURN), Rule((Protocol("udp"),), RETURN)
    insert = RuleOperation("insert", "ipv4", "nat", "MINE", second, 2)
    ruleset = Ruleset().run([NEW, append("MINE"), append("MINE", first), insert])
    assert ruleset.chains["ipv4", "nat", "MINE"] == [RULE, second, first]


@pytest.mark.parametrize(
    "operations",
    [
        [NEW, NEW],
        [FLUSH],
        [DELETE],
        [append("MINE")],
        [NEW, append("MINE"), DELETE],
        [NEW, append("OUTPUT", Rule((), Jump("MINE"))), DELETE],
        [append("OUTPUT", Rule((), Jump("MINE")))],
        [NEW, RuleOperation("delete", "ipv4", "nat", "MINE", RULE)],
        [ChainOperation("new", "ipv4", "nat", "OUTPUT")],
    ],
)
def test_the_last_operation_is_refused(operations: list[Operation]) -> None:
    ruleset = Ruleset().run(operations[:-1])
    with pytest.raises(Refused):
        ruleset.run(operations[-1:])
    ruleset.run(operations[-1:], ignore_refused=True)


def test_a_chain_goes_once_it_is_empty_and_nothing_jumps_to_it() -> None:
    jump = Rule((), Jump("MINE"))
    operations: list[Operation] = [NEW, append("MINE"), append("OUTPUT", jump), FLUSH]
    operations += [RuleOperation("delete", "ipv4", "nat", "OUTPUT", jump), DELETE]
    assert Ruleset().run(operations) == Ruleset()


def test_flushing_a_built_in_chain_empties_it() -> None:
    assert Ruleset().run([append("OUTPUT"), ChainOperation("flush", "ipv4", "nat", "OUTPUT")]) == Ruleset()


def test_tables_come_in_the_order_of_iptables_save() -> None:
    ruleset = Ruleset().run([ChainOperation("new", "ipv4", "nat", name) for name in ("Z", "A")])
    ruleset.run([append("POSTROUTING"), append("PREROUTING")])
    assert list(ruleset.tables("ipv4")["nat"]) == ["PREROUTING", "POSTROUTING", "A", "Z"]
    assert ruleset.tables("ipv6") == {}
