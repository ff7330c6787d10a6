"""Statements that hold for every configuration and every command line."""

from __future__ import annotations

import contextlib
import io
import os

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh_iptables.__main__ import is_plain_run
from mesh_iptables.cli import main, rules
from mesh_iptables.model import Jump, Owner, Plan, Redirect
from mesh_iptables.options import ISTIO_1_0, RUN_OPTIONS, configure, gather, split_words
from mesh_iptables.plan import istio_1_0
from mesh_iptables.render.restore import FAMILIES, restore_text, saved_lines
from mesh_iptables.ruleset import Ruleset, after
from mesh_iptables.saved import read_ruleset
from mesh_iptables.transition import change_text, table_changes

from ..unit.names import FewNames

PORTS = st.integers(0, 65535).map(str)
RANGES = st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(lambda pair: f"{min(pair)}:{max(pair)}")
NETWORKS = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
    lambda pair: f"{pair[0] >> 24}.{pair[0] >> 16 & 255}.{pair[0] >> 8 & 255}.{pair[0] & 255}/{pair[1]}"
)
OWNERS = st.integers(0, 2**32 - 2).map(str)


def listed(entries: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(entries, max_size=4).map(",".join)


ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "-p": PORTS,
        "-u": listed(OWNERS),
        "-g": listed(OWNERS),
        "-m": st.sampled_from(["", "REDIRECT", "TPROXY"]),
        "-b": st.one_of(st.just("*"), listed(st.one_of(PORTS, RANGES))),
        "-d": listed(PORTS),
        "-i": st.one_of(st.just("*"), listed(NETWORKS)),
        "-x": listed(NETWORKS),
    },
).map(lambda given: [word for pair in given.items() for word in pair])
ENVIRONMENTS = st.fixed_dictionaries(
    {},
    optional={
        "INBOUND_CAPTURE_PORT": PORTS,
        "ISTIO_INBOUND_TPROXY_MARK": st.integers(1, 2**32 - 1).map(str),
        "ISTIO_INBOUND_TPROXY_ROUTE_TABLE": st.integers(1, 252).map(str),
        "ENABLE_INBOUND_IPV6": st.sampled_from(["", "1"]),
    },
)


def ruleset_for(words: list[str], environment: dict[str, str]) -> Ruleset:
    return after(plan_for(words, environment))


def plan_for(words: list[str], environment: dict[str, str]) -> Plan:
    found = gather(split_words(words).rules, environment, lambda _: None, dry_run=True)
    return istio_1_0.plan(configure(found, FewNames(), dry_run=True))


@given(ARGUMENTS, ENVIRONMENTS)
def test_setup_is_never_refused_and_clean_up_leaves_nothing(words: list[str], environment: dict[str, str]) -> None:
    plan = plan_for(words, environment)
    once = after(plan)
    again = after(plan).run(plan.cleanup, ignore_refused=True)
    assert not [chain for family, _, chain in again.chains if family == "ipv4" and chain.startswith("ISTIO_")]
    assert again.run(plan.setup) == once


@given(ARGUMENTS, ENVIRONMENTS)
def test_every_rule_reads_back_as_it_was_written(words: list[str], environment: dict[str, str]) -> None:
    ruleset = ruleset_for(words, environment)
    lines = {family: saved_lines(ruleset, family) for family in FAMILIES}
    back = read_ruleset({family: restore_text(found) for family, found in lines.items()})
    assert {family: saved_lines(back, family) for family in FAMILIES} == lines


@given(ARGUMENTS, ENVIRONMENTS, ARGUMENTS, ENVIRONMENTS)
def test_a_change_of_settings_is_complete_and_the_second_run_changes_nothing(
    first: list[str], first_environment: dict[str, str], second: list[str], second_environment: dict[str, str]
) -> None:
    for family in FAMILIES:
        before = saved_lines(ruleset_for(first, first_environment), family)
        wanted = saved_lines(ruleset_for(second, second_environment), family)
        assert table_changes(family, wanted, wanted) == []
        changes = table_changes(family, before, wanted)
        assert (change_text(changes) == "") == (before == wanted)


@given(ARGUMENTS, ENVIRONMENTS)
def test_each_of_the_proxys_owners_returns_before_anything_is_redirected(
    words: list[str], environment: dict[str, str]
) -> None:
    rules_of_output = ruleset_for(words, environment).chains["ipv4", "nat", "ISTIO_OUTPUT"]
    own_calls, *rest = rules_of_output  # the first rule is for calls to the Pod's own address, whoever makes them
    assert own_calls.target == Jump("ISTIO_REDIRECT")
    owners = [number for number, rule in enumerate(rest) if rule.matches and isinstance(rule.matches[0], Owner)]
    redirects = [number for number, rule in enumerate(rest) if isinstance(rule.target, Jump | Redirect)]
    assert not redirects or max(owners) < min(redirects)


WORDS = st.one_of(
    st.sampled_from([word for option in (*ISTIO_1_0, *RUN_OPTIONS) for word in option.words]),
    st.sampled_from(["render", "golden", "check", "*", "", ",", "@x", "--", "-", "=", "1337", "80,", "--format"]),
    st.text(max_size=20),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=8))
def test_no_command_line_ends_in_a_traceback(words: list[str]) -> None:
    """Outside a namespace of its own `apply` ends at the guard at the latest; the guard's option is left out."""
    words = [word for word in words if not word.startswith(("--host", "--netns", "@"))]
    if not words or words[0] in ("policy", "proxy"):
        return
    run = rules.run if is_plain_run(words) else main.run
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
        status = run(words)
    assert status in (0, 1, 10, 11)
    assert (status == 0) or err.getvalue()


def test_the_tests_above_do_not_run_with_settings_of_this_machine() -> None:
    assert not [name for name in os.environ if name.startswith("ISTIO_")]
