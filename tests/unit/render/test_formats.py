"""Every format shows every rule, the same on every machine."""

from __future__ import annotations

import json
from importlib import import_module

import pytest

from mesh_iptables.model import Rule, RuleOperation
from mesh_iptables.options import FORMATS
from mesh_iptables.render import json as json_format
from mesh_iptables.render import restore, table

from ..argument_sets import ARGUMENT_SETS, plan_for

TPROXY = plan_for(ARGUMENT_SETS["tproxy listed"])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("words", ARGUMENT_SETS.values(), ids=ARGUMENT_SETS)
def test_a_format_is_stable_and_ends_with_a_newline(name: str, words: list[str]) -> None:
    render = import_module(f"mesh_iptables.render.{name}").render
    assert render(plan_for(words)) == render(plan_for(words))
    assert render(plan_for(words)).endswith("\n")


def test_restore_names_the_program_of_each_family_and_what_is_for_neither() -> None:
    text = restore.render(TPROXY)
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# iptables-restore --noflush",
        "# ip6tables-restore --noflush",
        "# ip -f inet rule add fwmark 1337 lookup 133",
        "# ip -f inet route add local default dev lo table 133",
    ]
    assert text.count("COMMIT\n") == text.count("\n*") + 0


def test_json_has_every_operation_with_its_option() -> None:
    document = json.loads(json_format.render(TPROXY))
    assert document["dialect"] == "istio-1.0"
    assert len(document["operations"]) == len(TPROXY.cleanup) + len(TPROXY.setup)
    last = document["operations"][-3]
    assert (last["verb"], last["family"], last["chain"]) == ("flush", "ipv6", "INPUT")
    socket = next(o for o in document["operations"] if {"kind": "socket"} in o.get("matches", []))
    assert socket["matches"][:2] == [
        {"kind": "protocol", "name": "tcp", "negated": False},
        {"kind": "ports", "side": "destination", "ranges": [[80, 80]], "negated": False},
    ]
    assert socket["target"] == {"kind": "jump", "chain": "ISTIO_DIVERT", "goto": False}
    assert socket["option"] == "-b"


def test_the_table_tells_why_and_which_option() -> None:
    text = table.render(TPROXY)
    for operation in TPROXY.setup:
        if isinstance(operation, RuleOperation):
            assert _words(operation.rule) <= set(text.split())
    assert "ip -f inet rule add fwmark 1337 lookup 133" in text


def _words(rule: Rule) -> set[str]:
    return {*rule.why.split(), rule.option or "-"}


def test_a_narrow_terminal_loses_no_rule() -> None:
    wide, narrow = table.render(TPROXY), table.render(TPROXY, width=60)
    assert max(len(line) for line in narrow.splitlines()) <= 60
    assert "".join(narrow.split()).count("uid-owner") == "".join(wide.split()).count("uid-owner")
