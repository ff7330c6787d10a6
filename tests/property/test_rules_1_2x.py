"""Statements that hold for every configuration of istio-1.2x."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh_iptables.model import Jump, Owner, Plan, RuleOperation
from mesh_iptables.options import split_words
from mesh_iptables.options_1_2x import FIXES, ISTIO_1_2X, configure, gather
from mesh_iptables.plan import istio_1_2x
from mesh_iptables.render import nft_1_2x, restore_1_2x
from mesh_iptables.render.restore import FAMILIES, saved_lines
from mesh_iptables.ruleset import Ruleset, after
from mesh_iptables.saved import read_ruleset
from mesh_iptables.transition import change_text, own_part, parse_saved, table_changes

from ..unit.names import FewNames

PORTS = st.integers(0, 65535).map(str)
IPV4 = st.tuples(st.ip_addresses(v=4), st.integers(0, 32)).map(lambda pair: f"{pair[0]}/{pair[1]}")
IPV6 = st.tuples(st.ip_addresses(v=6), st.integers(0, 128)).map(lambda pair: f"{pair[0]}/{pair[1]}")
OWNERS = st.integers(0, 2**32 - 2).map(str)
INTERFACES = st.sampled_from(["eth1", "net1", "net2", "vlan+"])


def listed(entries: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(entries, max_size=3, unique=True).map(",".join)


ARGUMENTS = st.fixed_dictionaries(
    {"--ip-family": st.sampled_from(["ipv4", "dual"])},
    optional={
        "-u": listed(OWNERS),
        "-g": listed(OWNERS),
        "-m": st.sampled_from(["", "REDIRECT", "TPROXY"]),
        "-b": st.one_of(st.just("*"), listed(PORTS)),
        "-d": listed(PORTS),
        "-i": st.one_of(st.just("*"), listed(st.one_of(IPV4, IPV6))),
        "-x": listed(st.one_of(IPV4, IPV6)),
        "-q": listed(PORTS),
        "-o": listed(PORTS),
        "-c": listed(INTERFACES),
        "-k": listed(INTERFACES),
        "-t": st.integers(1, 2**32 - 1).map(str),
        "--redirect-dns=true": st.just("--capture-all-dns"),
        "--drop-invalid": st.just("--reconcile"),
        "--fix": st.lists(st.sampled_from(sorted(FIXES)), max_size=3).map(",".join),
        "--dns-servers": st.lists(st.ip_addresses().map(str), max_size=3).map(",".join),
    },
).map(lambda given: [word for pair in given.items() for word in pair])


def plan_for(words: list[str]) -> Plan:
    chosen = gather(split_words(words, ISTIO_1_2X).rules, {}, lambda _: None)
    return istio_1_2x.plan(configure(chosen, FewNames(), None))


@given(ARGUMENTS)
def test_setup_is_never_refused_and_cleanup_takes_all_of_it_back(words: list[str]) -> None:
    plan = plan_for(words)
    ruleset = Ruleset().run(plan.setup)
    assert not ruleset.run(plan.cleanup).chains


@given(ARGUMENTS)
def test_what_iptables_would_save_reads_back_as_the_same(words: list[str]) -> None:
    ruleset = after(plan_for(words))
    for family in FAMILIES:
        tables = saved_lines(ruleset, family)
        text = "".join(
            f"*{table}\n" + "".join(f"-A {chain} {rule}\n" for chain, rules in chains.items() for rule in rules)
            for table, chains in tables.items()
        )
        assert parse_saved(text) == {table: {c: r for c, r in chains.items() if r} for table, chains in tables.items()}
        assert saved_lines(read_ruleset({family: text}), family) == tables


@given(ARGUMENTS)
def test_a_second_run_finds_nothing_to_do_and_clean_finds_everything(words: list[str]) -> None:
    ruleset = after(plan_for(words))
    for family in FAMILIES:
        tables = saved_lines(ruleset, family)
        assert table_changes(family, tables, tables) == []
        for table, chains in tables.items():
            assert own_part(family, table, chains) == chains


@given(ARGUMENTS, ARGUMENTS)
@settings(max_examples=50)
def test_from_any_settings_to_any_others_only_our_part_changes(first: list[str], second: list[str]) -> None:
    foreign = "-p tcp -m tcp --dport 9 -j RETURN"
    for family in FAMILIES:
        here = {table: dict(chains) for table, chains in saved_lines(after(plan_for(first)), family).items()}
        there = saved_lines(after(plan_for(second)), family)
        here.setdefault("nat", {})["OUTPUT"] = [foreign, *here.get("nat", {}).get("OUTPUT", [])]
        text = change_text(table_changes(family, here, there))
        assert foreign not in text


@given(ARGUMENTS)
def test_no_rule_redirects_what_an_owner_of_the_proxy_sends_out(words: list[str]) -> None:
    plan = plan_for(words)
    for operation in plan.setup:
        if not isinstance(operation, RuleOperation):
            continue
        owners = [match for match in operation.rule.matches if isinstance(match, Owner) and not match.negated]
        assert not (owners and operation.rule.target == Jump("ISTIO_REDIRECT"))


@given(ARGUMENTS)
def test_nft_and_restore_have_the_same_rules(words: list[str]) -> None:
    plan = plan_for(words)
    operations = [found for found in plan.setup if isinstance(found, RuleOperation)]
    lines = sum(restore_1_2x.family_text(plan, family).count(" -j ") for family in FAMILIES)
    assert lines == len(operations)
    shown = {(found.table, found.chain, found.rule) for found in operations}
    kept = {
        (table, operation.chain, operation.rule)
        for table in nft_1_2x.TABLES
        for rules in nft_1_2x.table_rules(plan, table).values()
        for operation in rules
    }
    assert kept == shown
