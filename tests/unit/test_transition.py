"""What is ours is found by its exact words, and foreign rules are never touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mesh_iptables.model import BUILT_IN
from mesh_iptables.render.restore import saved_lines
from mesh_iptables.ruleset import after
from mesh_iptables.transition import (
    change_text,
    jump_target,
    own_part,
    parse_saved,
    put_back_text,
    table_changes,
)

from .argument_sets import ARGUMENT_SETS, plan_for

if TYPE_CHECKING:
    from mesh_iptables.transition import Lines

FOREIGN = """*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KEEP - [0:0]
-A PREROUTING -p tcp -m tcp --dport 81 -j REDIRECT --to-ports 82
-A OUTPUT -d 1.2.3.4/32 -j ACCEPT
-A OUTPUT -p tcp -m comment --comment "like -j ISTIO_OUTPUT" -j KEEP
-A KEEP -j RETURN
COMMIT
"""
WORKED = ARGUMENT_SETS["worked example"]


def wanted(words: list[str]) -> Lines:
    return saved_lines(after(plan_for(words)), "ipv4")


def restored(before: Lines, text: str) -> Lines:
    """What a restore program makes of `before`, as far as our texts use it."""
    now = {table: {chain: list(rules) for chain, rules in chains.items()} for table, chains in before.items()}
    table: dict[str, list[str]] = {}
    for line in text.splitlines():
        verb, _, rest = line.partition(" ")
        chain, _, rule = rest.partition(" ")
        if line.startswith("*"):
            table = now.setdefault(line[1:], {})
        elif line.startswith(":"):
            table[verb[1:]] = []
        elif verb == "-F":
            table[chain] = []
        elif verb == "-X":
            assert table.pop(chain) == []
        elif verb == "-D":
            table[chain].remove(rule)
        elif verb == "-A":
            table.setdefault(chain, []).append(rule)
    return without_empty(now)


def without_empty(lines: Lines) -> Lines:
    """A built-in chain, or a table, without rules is as good as none."""
    filled = {
        table: {chain: rules for chain, rules in chains.items() if rules or chain not in BUILT_IN}
        for table, chains in lines.items()
    }
    return {table: chains for table, chains in filled.items() if chains}


@pytest.mark.parametrize("words", ARGUMENT_SETS.values(), ids=ARGUMENT_SETS)
def test_from_nothing_the_changes_make_what_is_wanted_and_then_there_are_none(words: list[str]) -> None:
    now = restored({}, change_text(table_changes("ipv4", {}, wanted(words))))
    assert now == wanted(words)
    assert table_changes("ipv4", now, wanted(words)) == []


@pytest.mark.parametrize("first", ARGUMENT_SETS.values(), ids=ARGUMENT_SETS)
@pytest.mark.parametrize("second", ARGUMENT_SETS.values(), ids=ARGUMENT_SETS)
def test_from_any_settings_to_any_other_foreign_rules_stay(first: list[str], second: list[str]) -> None:
    foreign = without_empty(parse_saved(FOREIGN))
    one = restored(foreign, change_text(table_changes("ipv4", foreign, wanted(first))))
    two = restored(one, change_text(table_changes("ipv4", one, wanted(second))))
    assert {table: part for table, chains in two.items() if (part := own_part("ipv4", table, chains))} == wanted(second)
    clean = restored(two, change_text(table_changes("ipv4", two, {})))
    assert clean["nat"] == foreign["nat"]


def test_a_foreign_rule_for_an_interface_is_not_taken_for_one_of_the_other_dialect() -> None:
    before = wanted(WORKED)
    before["nat"]["PREROUTING"].insert(0, "-i docker0 -j RETURN")
    clean = restored(before, change_text(table_changes("ipv4", before, {})))
    assert clean["nat"] == {"PREROUTING": ["-i docker0 -j RETURN"]}


def test_doubled_jumps_are_all_removed() -> None:
    doubled = wanted(WORKED)
    doubled["nat"]["OUTPUT"] *= 3
    assert len(table_changes("ipv4", doubled, {})[0].deleted) == 4
    assert restored(doubled, change_text(table_changes("ipv4", doubled, wanted(WORKED)))) == wanted(WORKED)


def test_a_chain_that_a_foreign_rule_jumps_to_is_emptied_and_stays() -> None:
    held = wanted(WORKED)
    held["nat"]["MINE"] = ["-p tcp -m tcp --dport 1 -j ISTIO_REDIRECT"]
    change = table_changes("ipv4", held, {})[0]
    assert change.kept == ("ISTIO_REDIRECT",)
    assert "ISTIO_REDIRECT" not in change.removed
    after_clean = restored(held, change_text([change]))
    assert after_clean["nat"] == {"MINE": held["nat"]["MINE"], "ISTIO_REDIRECT": []}
    assert table_changes("ipv4", after_clean, {}) == []


def test_a_half_of_the_lockdown_is_not_ours() -> None:
    accept, reject = wanted_lockdown()
    assert own_part("ipv6", "filter", {"INPUT": [reject]}) == {}
    assert own_part("ipv6", "filter", {"INPUT": [accept, "-i lo -j ACCEPT", reject]}) == {"INPUT": [accept, reject]}
    assert own_part("ipv6", "filter", {"INPUT": [accept, reject] * 2}) == {"INPUT": [accept, reject] * 2}


def test_of_rules_with_the_same_words_the_last_is_ours() -> None:
    accept, reject = wanted_lockdown()
    chains = {"INPUT": [accept, "-p tcp -j DROP", accept, reject]}
    text = change_text(table_changes("ipv6", {"filter": chains}, {}))
    assert [line for line in text.splitlines() if line.startswith("-D")] == ["-D INPUT 4", "-D INPUT 3"]


def wanted_lockdown() -> list[str]:
    return saved_lines(after(plan_for([])), "ipv6")["filter"]["INPUT"]


@pytest.mark.parametrize("words", ARGUMENT_SETS.values(), ids=ARGUMENT_SETS)
def test_putting_back_restores_what_was_there_to_the_letter(words: list[str]) -> None:
    for before in (without_empty(parse_saved(FOREIGN)), wanted(WORKED)):
        changes = table_changes("ipv4", before, wanted(words))
        now = restored(before, change_text(changes))
        back = restored(now, put_back_text(before, changes))
        assert back == before


def test_jump_targets_are_not_read_out_of_comments() -> None:
    assert jump_target('-m comment --comment "x \\" -j DROP" -j KEEP') == "KEEP"
    assert jump_target("-p tcp -g KEEP") == "KEEP"
    assert jump_target("-p tcp") == ""


def test_counters_in_front_of_saved_rules_are_passed_over() -> None:
    assert parse_saved("*nat\n:OUTPUT ACCEPT [5:6]\n[1:2] -A OUTPUT -p tcp -j X\n") == {
        "nat": {"OUTPUT": ["-p tcp -j X"]}
    }
