"""What `nft -j` lists of the tables of istio-1.2x, held against what a plan would make."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pytest

from mesh_iptables.listed_1_2x import Listing, is_as_wanted, marks_set, parse_listing
from mesh_iptables.model import Plan
from mesh_iptables.options import split_words
from mesh_iptables.options_1_2x import ISTIO_1_2X, configure, gather
from mesh_iptables.plan import istio_1_2x

from .names import FewNames

Expression = Mapping[str, object]
Rules = Sequence[tuple[str, Sequence[Expression]]]

COUNTER: Expression = {"counter": {"packets": 7, "bytes": 420}}
TCP: Expression = {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}}
INVALID: Expression = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}}
BASE: Expression = {"type": "filter", "hook": "prerouting", "prio": -150, "policy": "accept"}
DROP: Rules = [
    ("prerouting", [TCP, INVALID, COUNTER, {"jump": {"target": "istio-drop"}}]),
    ("istio-drop", [COUNTER, {"drop": None}]),
]


def listing(rules: Rules, base: Expression | None = None, *others: Expression) -> Listing:
    """The table mangle with these rules."""
    entries: list[Expression] = [{"metainfo": {}}, {"table": {"name": "istio-proxy-mangle"}}]
    for name in dict.fromkeys(chain for chain, _ in rules):
        entries.append({"chain": {"name": name, **((base or BASE) if name == "prerouting" else {})}})
    entries += [{"rule": {"chain": chain, "expr": expressions}} for chain, expressions in rules]
    return parse_listing(json.dumps({"nftables": [*entries, *others]}))


def plan_for(*words: str) -> Plan:
    return istio_1_2x.plan(
        configure(gather(split_words(words, ISTIO_1_2X).rules, {}, lambda _: None), FewNames(), None)
    )


def test_the_rules_of_a_plan_are_known_whatever_their_counters() -> None:
    assert is_as_wanted(listing(DROP), plan_for("--drop-invalid"), "mangle")
    assert not is_as_wanted(listing(DROP), plan_for("-m", "TPROXY"), "mangle")


def test_an_empty_chain_of_ours_does_no_harm() -> None:
    found = listing(DROP)
    assert is_as_wanted(
        found.replace(bases=found.bases | {"istio-divert": ""}, rules=found.rules | {"istio-divert": []}),
        plan_for("--drop-invalid"),
        "mangle",
    )


@pytest.mark.parametrize(
    "found",
    [
        listing(DROP[:1]),
        listing([*DROP, DROP[1]]),
        listing([DROP[1], DROP[0], ("prerouting", [COUNTER, {"accept": None}])]),
        listing([("prerouting", [TCP, COUNTER, {"jump": {"target": "istio-drop"}}]), DROP[1]]),
        listing([("prerouting", [TCP, INVALID, {"xt": {"type": "match"}}, {"drop": None}]), DROP[1]]),
        listing(DROP, {**BASE, "policy": "drop"}),
        listing(DROP, {**BASE, "prio": -200}),
        listing(DROP, None, {"set": {"name": "foreign"}}),
        listing([*DROP, ("foreign", [{"accept": None}])]),
    ],
)
def test_anything_else_in_the_table_is_a_difference(found: Listing) -> None:
    assert not is_as_wanted(found, plan_for("--drop-invalid"), "mangle")


def test_the_marks_of_open_connections_are_known() -> None:
    mark: Expression = {"mangle": {"key": {"meta": {"key": "mark"}}, "value": 77}}
    assert marks_set(listing([("istio-divert", [COUNTER, mark]), ("istio-divert", [COUNTER, {"accept": None}])])) == {
        77
    }
    assert marks_set(listing(DROP)) == frozenset()
