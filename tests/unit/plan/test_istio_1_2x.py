"""The rule program of istio-1.2x: which settings make which rules, where, and which quirks a fix takes away.

The whole of it, to the letter, is in the golden files.
"""

from __future__ import annotations

import pytest

from mesh_iptables.model import LoopbackAddress, Plan, RouteMarked, RuleOperation
from mesh_iptables.options import split_words
from mesh_iptables.options_1_2x import FIXES, ISTIO_1_2X, configure, gather
from mesh_iptables.plan import istio_1_2x
from mesh_iptables.render import golden, nft_1_2x, restore_1_2x
from mesh_iptables.render.restore import FAMILIES, saved_lines
from mesh_iptables.ruleset import Ruleset, after
from mesh_iptables.saved import read_ruleset
from mesh_iptables.transition import change_text, own_part, table_changes

from ..names import FewNames

SETS: dict[str, list[str]] = {
    "nothing": [],
    "injector": ["-b", "*", "-d", "15090,15021,15020", "-i", "*"],
    "dual": ["--ip-family", "dual", "-b", "80,443", "-i", "10.0.0.0/8,fd00::/8", "-x", "10.1.0.0/16,fd01::/16"],
    "tproxy": ["--ip-family", "dual", "-m", "TPROXY", "-b", "*", "-d", "22", "-c", "eth1,eth2"],
    "tproxy without inbound": ["-m", "TPROXY", "-c", "eth1"],
    "dns": ["--ip-family", "dual", "-u", "1,2", "--redirect-dns", "--dns-servers", "10.96.0.10,fd00::10"],
    "dns of one family": ["--ip-family", "dual", "--redirect-dns", "--dns-servers", "10.96.0.10"],
    "all dns": ["--ip-family", "dual", "--redirect-dns", "--capture-all-dns"],
    "machines": ["--ip-family", "dual", "-k", "net1,net2", "-i", "10.0.0.0/8,fd00::/8", "-b", "80"],
    "machines alone": ["-k", "net1,net2"],
    "ports": ["-q", "80,443", "-o", "3306", "-i", "*", "--drop-invalid"],
}
EVERY = pytest.mark.parametrize("words", SETS.values(), ids=SETS.keys())


def plan_for(*words: str, **environment: str) -> Plan:
    settings = gather(split_words(words, ISTIO_1_2X).rules, environment, lambda _: None)
    return istio_1_2x.plan(configure(settings, FewNames(), None))


def lines(table: str, *words: str, family: str = "ipv4", **environment: str) -> list[str]:
    """The rules of one table as iptables-save prints them."""
    chains = saved_lines(after(plan_for(*words, **environment)), family).get(table, {})  # type: ignore[arg-type]
    return [f"{chain} {rule}" for chain, rules in chains.items() for rule in rules]


@EVERY
@pytest.mark.parametrize("fixes", [(), ("--fix", "all")])
def test_the_kernel_would_take_every_operation_and_the_cleanup_takes_all_of_it_back(
    words: list[str], fixes: tuple[str, ...]
) -> None:
    plan = plan_for(*words, *fixes)
    assert Ruleset().run(plan.setup).run(plan.cleanup).chains == {}


@EVERY
def test_the_saved_form_reads_back_as_the_same_rules(words: list[str]) -> None:
    tables = {family: saved_lines(after(plan_for(*words)), family) for family in FAMILIES}
    texts = {
        family: "".join(_save_text(table, chains) for table, chains in tables[family].items()) for family in tables
    }
    read = read_ruleset(texts)
    assert {family: saved_lines(read, family) for family in FAMILIES} == tables


def _save_text(table: str, chains: dict[str, list[str]]) -> str:
    return f"*{table}\n" + "".join(f"-A {chain} {rule}\n" for chain, rules in chains.items() for rule in rules)


@EVERY
@pytest.mark.parametrize("family", FAMILIES)
def test_all_that_a_run_left_is_known_without_its_settings(words: list[str], family: str) -> None:
    tables = saved_lines(after(plan_for(*words)), family)  # type: ignore[arg-type]
    for table, chains in tables.items():
        assert own_part(family, table, dict(chains)) == chains  # type: ignore[arg-type]
    assert [change.table for change in table_changes(family, tables, {})] == sorted(tables)  # type: ignore[arg-type]


def test_rules_that_anybody_could_have_written_stay_without_ours_beside_them() -> None:
    foreign = {
        "PREROUTING": ["-i eth1 -j RETURN", "-p tcp -m mark --mark 0x539 -j CONNMARK --save-mark --nfmask 0xffffffff"],
        "OUTPUT": ["-o eth1 -j RETURN", "-o lo -p tcp -m mark --mark 0x539 -j RETURN"],
    }
    for table in ("nat", "mangle", "raw"):
        assert own_part("ipv4", table, foreign) == {}


def test_a_foreign_rule_of_that_kind_stays_beside_ours() -> None:
    chains = {table: dict(found) for table, found in saved_lines(after(plan_for(*SETS["tproxy"])), "ipv4").items()}
    chains["nat"]["PREROUTING"] = ["-p tcp -j ACCEPT", *chains["nat"]["PREROUTING"], "-i docker0 -j RETURN"]
    ours = own_part("ipv4", "nat", chains["nat"])["PREROUTING"]
    assert ours == ["-i eth1 -j RETURN", "-i eth2 -j RETURN"]


def test_inserted_rules_go_in_front_of_foreign_ones_and_appended_ones_behind() -> None:
    ruleset = after(plan_for("-k", "net1", "-i", "*", "-b", "80"))
    heads: dict[tuple[str, str], int] = {(table, chain): count for (_, table, chain), count in ruleset.heads.items()}
    changes = table_changes("ipv4", {}, saved_lines(ruleset, "ipv4"), heads)
    text = change_text(changes).splitlines()
    assert [line for line in text if "PREROUTING" in line] == [
        "-I PREROUTING -i net1 -j RETURN",
        "-I PREROUTING -i net1 -j ISTIO_REDIRECT",
        "-A PREROUTING -p tcp -j ISTIO_INBOUND",
    ]


def test_ipv6_has_the_rules_of_ipv4_with_its_own_addresses() -> None:
    plan = plan_for("--ip-family", "dual", "-b", "*", "-i", "*")
    ipv4, ipv6 = (restore_1_2x.family_text(plan, family) for family in FAMILIES)
    assert ipv4.replace("127.0.0.6/32", "::6/128").replace("127.0.0.1/32", "::1/128") == ipv6
    assert restore_1_2x.family_text(plan_for("-b", "*", "-i", "*"), "ipv6") == ""


def test_a_port_reaches_the_proxy_directly_and_ssh_is_not_special() -> None:
    inbound = [line for line in lines("nat", "-b", "*", "-e", "15018") if line.startswith("ISTIO_INBOUND ")]
    assert inbound == [
        "ISTIO_INBOUND -p tcp -m tcp --dport 15018 -j RETURN",
        "ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT",
    ]


def test_tproxy_uses_the_inbound_port_and_is_routed_only_with_inbound_ports() -> None:
    words = ("-m", "TPROXY", "-z", "15106", "-t", "77", "-r", "200", "--ip-family", "dual")
    assert [line for line in lines("mangle", *words, "-b", "*") if "--on-port 15106 " in line]
    routes = after(plan_for(*words, "-b", "*")).routes
    assert routes == [RouteMarked("ipv4", 77, 200), RouteMarked("ipv6", 77, 200)]
    assert after(plan_for(*words)).routes == []


def test_lo_gets_the_address_of_the_pass_through_where_ipv6_is_captured() -> None:
    assert after(plan_for("--ip-family", "dual")).addresses == [
        LoopbackAddress("ipv6", istio_1_2x.PASS_THROUGH["ipv6"])
    ]
    assert after(plan_for()).addresses == []


def test_exclusions_come_before_calls_of_the_pod_to_itself_and_destinations_behind() -> None:
    output = [
        line for line in lines("nat", "-o", "3306", "-x", "10.0.0.0/8", "-q", "80", "-i", "*") if "OUTPUT " in line
    ]
    places = [
        next(number for number, line in enumerate(output) if part in line)
        for part in ("--dport 3306", "127.0.0.6", "--uid-owner", "-d 127.0.0.1/32 -j", "10.0.0.0/8", "--dport 80 -j")
    ]
    assert places == sorted(places)
    assert output[-1] == "ISTIO_OUTPUT -j ISTIO_REDIRECT"


def test_loopback_destinations_leave_out_the_rules_for_the_applications_own_calls() -> None:
    assert [line for line in lines("nat", "-i", "10.0.0.0/8") if "! --uid-owner" in line]
    assert not [line for line in lines("nat", "-i", "10.0.0.0/8,127.0.0.1/32") if "! --uid-owner" in line]


def test_virtual_machines_are_inserted_each_in_front_of_the_one_before() -> None:
    assert lines("nat", "-k", "net1,net2", "-i", "10.0.0.0/8")[:4] == [
        "PREROUTING -d 10.0.0.0/8 -i net2 -j ISTIO_REDIRECT",
        "PREROUTING -d 10.0.0.0/8 -i net1 -j ISTIO_REDIRECT",
        "PREROUTING -i net2 -j RETURN",
        "PREROUTING -i net1 -j RETURN",
    ]


def test_dns_goes_to_the_proxy_only_towards_the_resolvers_of_its_family() -> None:
    words = ("--ip-family", "dual", "-u", "5", "--redirect-dns", "--dns-servers", "10.96.0.10")
    assert len([line for line in lines("nat", *words) if "--to-ports 15053" in line]) == 2
    assert not [line for line in lines("nat", *words, family="ipv6") if "DNS" in line]


def owner_rules(*words: str, **environment: str) -> list[str]:
    return [line.partition(" ")[2] for line in lines("nat", *words, **environment) if "-owner" in line]


def test_n1_the_calls_of_every_owner_stand_first_where_that_is_fixed() -> None:
    words = ("-u", "1,2", "-g", "3")
    broken, fixed = owner_rules(*words), owner_rules(*words, "--fix", "N1")
    assert sorted(broken) == sorted(fixed)
    assert [number for number, line in enumerate(broken) if "IN_REDIRECT" in line] == [0, 3, 6]
    assert [number for number, line in enumerate(fixed) if "IN_REDIRECT" in line] == [0, 1, 2]


def test_n2_groups_leave_dns_out_as_users_do_where_that_is_fixed() -> None:
    words = ("-u", "1", "-g", "3", "--redirect-dns", "--capture-all-dns")

    def ports(*fixes: str) -> list[str]:
        own = [line for line in owner_rules(*words, *fixes) if "IN_REDIRECT" in line]
        return [line.partition(" ! --")[2].partition(" -m")[0] for line in own]

    assert ports() == ["dports 53,15008", "dport 15008"]
    assert ports("--fix", "N2") == ["dports 53,15008"] * 2


def test_n8_an_empty_list_of_groups_returns_everything_unless_that_is_fixed() -> None:
    assert "ISTIO_OUTPUT -j RETURN" in lines("nat", ISTIO_OUTBOUND_OWNER_GROUPS="")
    assert lines("nat", "--fix", "N8", ISTIO_OUTBOUND_OWNER_GROUPS="") == lines("nat")


def test_n12_tproxy_without_inbound_ports_marks_packets_unless_that_is_fixed() -> None:
    assert len(lines("mangle", "-m", "TPROXY", "-c", "eth1")) == 10
    assert lines("mangle", "-m", "TPROXY", "-c", "eth1", "--fix", "N12") == []


def test_n15_invalid_packets_of_all_protocols_are_dropped_by_iptables_unless_that_is_fixed() -> None:
    assert lines("mangle", "--drop-invalid")[0] == "PREROUTING -m conntrack --ctstate INVALID -j ISTIO_DROP"
    assert lines("mangle", "--drop-invalid", "--fix", "N15")[0].startswith("PREROUTING -p tcp ")
    both = [nft_1_2x.render(plan_for("--drop-invalid", *fixes)) for fixes in ((), ("--fix", "N15"))]
    assert both[0] == both[1]


def test_n17_a_family_without_resolver_has_no_zones_where_that_is_fixed() -> None:
    words = ("--ip-family", "dual", "-u", "1", "--redirect-dns", "--dns-servers", "10.96.0.10")
    assert len(lines("raw", *words, family="ipv6")) == 5
    assert lines("raw", *words, "--fix", "N17", family="ipv6") == []
    assert lines("raw", *words, "--fix", "N17") == lines("raw", *words)
    assert "output meta nfproto ipv4 counter jump istio-output-dns" in nft_1_2x.render(plan_for(*words, "--fix", "N17"))


def test_every_fix_has_a_comment_where_it_is_made() -> None:
    from pathlib import Path

    package = Path(istio_1_2x.__file__).parents[1]
    texts = [(package / name).read_text() for name in ("plan/istio_1_2x.py", "options_1_2x.py")]
    assert not [fix for fix in FIXES if not any(f'"{fix}"' in text for text in texts)]


def test_the_golden_form_is_the_restore_form_with_the_looks_at_the_kernel_around_it() -> None:
    plan = plan_for("--ip-family", "dual", "-b", "*")
    body = restore_1_2x.render(plan)
    saves = "iptables-save\nip6tables-save\n"
    assert golden.render(plan) == f"{saves}{body}{saves}"
    assert golden.render(plan_for()).endswith("COMMIT\niptables-save\n")


@EVERY
def test_native_nft_has_each_rule_once_where_both_families_share_it(words: list[str]) -> None:
    plan = plan_for(*words)
    rules = [line for line in nft_1_2x.render(plan).splitlines() if " rule " in line]
    operations = [found for found in plan.setup if isinstance(found, RuleOperation)]
    shared = {(found.table, found.chain, found.rule) for found in operations if found.family == "ipv4"} & {
        (found.table, found.chain, found.rule) for found in operations if found.family == "ipv6"
    }
    assert len(rules) == len(operations) - len(shared)
    tables = [nft_1_2x.table_rules(plan, table) for table in nft_1_2x.TABLES]
    assert sum(len(found) for chains in tables for found in chains.values()) == len(rules)
