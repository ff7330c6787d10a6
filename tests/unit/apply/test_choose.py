"""The chosen backend works; the others are emptied behind it."""

from __future__ import annotations

import pytest

from mesh_iptables.apply import Applied
from mesh_iptables.apply.choose import Alone
from mesh_iptables.errors import ApplyError, MachineError, MeshIptablesError
from mesh_iptables.model import Plan
from mesh_iptables.ruleset import Ruleset

from ..argument_sets import ARGUMENT_SETS, plan_for

PLAN = plan_for(ARGUMENT_SETS["worked example"])
NOTHING = Plan(PLAN.dialect, (), ())


class Place:
    """A backend that keeps what it was asked for in a diary it shares with others."""

    def __init__(self, name: str, diary: list[str], failure: MeshIptablesError | None = None) -> None:
        self._name = name
        self._diary = diary
        self._failure = failure

    def apply(self, plan: Plan) -> Applied:
        self._diary.append(f"{self._name} {'applies' if plan.setup else 'empties'}")
        if self._failure:
            raise self._failure
        return Applied((f"{self._name} old",), (f"{self._name} new",) if plan.setup else (), (f"{self._name} warns",))

    def read(self) -> Ruleset:
        raise AssertionError

    def dump(self) -> str:
        return self._name

    def marks(self) -> frozenset[int]:
        if self._failure:
            raise self._failure
        return frozenset({len(self._name)})


def test_the_new_rules_are_there_before_the_old_ones_go() -> None:
    diary: list[str] = []
    alone = Alone(Place("nft", diary), (Place("legacy", diary), Place("other", diary)))
    assert alone.apply(PLAN) == Applied(
        ("nft old", "legacy old", "other old"), ("nft new",), ("nft warns", "legacy warns", "other warns")
    )
    assert diary == ["nft applies", "legacy empties", "other empties"]


def test_nothing_is_emptied_when_the_new_rules_are_refused() -> None:
    diary: list[str] = []
    with pytest.raises(ApplyError):
        Alone(Place("nft", diary, ApplyError("no")), (Place("legacy", diary),)).apply(PLAN)
    assert diary == ["nft applies"]


def test_what_cannot_be_emptied_is_a_warning_unless_cleaning_is_all_there_is_to_do() -> None:
    alone = Alone(Place("nft", []), (Place("legacy", [], MachineError("no program")), Place("other", [])))
    assert alone.apply(PLAN).warnings == (
        "nft warns",
        "rules of an earlier run may still be in force: no program",
        "other warns",
    )
    with pytest.raises(MachineError):
        alone.apply(NOTHING)


def test_marks_are_those_of_all_that_can_be_looked_at() -> None:
    alone = Alone(Place("nft", []), (Place("legacy", [], MachineError("no program")), Place("other", [])))
    assert alone.marks() == {3, 5}


def test_what_is_shown_is_the_chosen_ones() -> None:
    assert Alone(Place("nft", []), (Place("legacy", []),)).dump() == "nft"
