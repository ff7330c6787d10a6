"""The rule program of istio-1.0, against the lines that iptables-save printed after the original ran."""

from __future__ import annotations

from mesh_iptables.model import RouteMarked
from mesh_iptables.render.restore import saved_lines
from mesh_iptables.ruleset import after

from ..argument_sets import plan_for

WORKED_EXAMPLE = ["-p", "15001", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "9080,", "-d", ""]


def lines(words: list[str], table: str, family: str = "ipv4", **environment: str) -> list[str]:
    """The rules of one table as iptables-save prints them."""
    chains = saved_lines(after(plan_for(words, **environment)), family).get(table, {})  # type: ignore[arg-type]
    return [f"{chain} {rule}" for chain, rules in chains.items() for rule in rules]


def test_the_worked_example() -> None:
    assert lines(WORKED_EXAMPLE, "nat") == [
        "PREROUTING -p tcp -j ISTIO_INBOUND",
        "OUTPUT -p tcp -j ISTIO_OUTPUT",
        "ISTIO_INBOUND -p tcp -m tcp --dport 9080 -j ISTIO_IN_REDIRECT",
        "ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
        "ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -j ISTIO_REDIRECT",
        "ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN",
        "ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN",
        "ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN",
        "ISTIO_OUTPUT -j ISTIO_REDIRECT",
        "ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
    ]
    assert lines(WORKED_EXAMPLE, "mangle") == []


def test_without_options_nothing_inbound_is_captured_and_root_is_exempt() -> None:
    nat = lines([], "nat")
    assert not [line for line in nat if "ISTIO_INBOUND" in line]
    assert "ISTIO_OUTPUT -m owner --uid-owner 0 -j RETURN" in nat
    assert "ISTIO_OUTPUT -m owner --gid-owner 0 -j RETURN" in nat


def test_ssh_is_left_alone_where_all_inbound_ports_are_captured() -> None:
    inbound = [line for line in lines(["-b", "*", "-d", "80,81"], "nat") if line.startswith("ISTIO_INBOUND")]
    assert [line.partition("--dport ")[2] for line in inbound] == ["22 -j RETURN", "80 -j RETURN", "81 -j RETURN", ""]


def test_excluded_ports_count_only_with_all_inbound_ports() -> None:
    assert lines(["-b", "80", "-d", "81"], "nat") == lines(["-b", "80"], "nat")


def test_tproxy_writes_the_socket_rule_twice_for_a_listed_port_and_once_for_all() -> None:
    listed = lines(["-m", "TPROXY", "-b", "80"], "mangle")
    everything = lines(["-m", "TPROXY", "-b", "*"], "mangle")
    assert sum("-m socket" in line for line in listed) == 2
    assert sum("-m socket" in line for line in everything) == 1


def test_tproxy_takes_the_outbound_port_and_ignores_the_capture_port() -> None:
    mangle = lines(["-m", "TPROXY", "-b", "*"], "mangle", INBOUND_CAPTURE_PORT="15006")
    nat = lines(["-m", "TPROXY", "-b", "*"], "nat", INBOUND_CAPTURE_PORT="15006")
    assert [line for line in mangle if "--on-port 15001 " in line]
    assert "ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006" in nat


def test_tproxy_routes_its_mark_and_redirect_routes_nothing() -> None:
    environment = {"ISTIO_INBOUND_TPROXY_MARK": "0x2a", "ISTIO_INBOUND_TPROXY_ROUTE_TABLE": "200"}
    assert after(plan_for(["-m", "TPROXY", "-b", "80"], **environment)).routes == [RouteMarked("ipv4", 42, 200)]
    assert after(plan_for(["-m", "TPROXY"], **environment)).routes == []
    assert after(plan_for(["-b", "80"], **environment)).routes == []


def test_a_list_of_destinations_ends_with_a_return_and_all_or_none_do_not() -> None:
    listed = lines(["-u", "5", "-i", "10.0.0.0/8"], "nat")
    assert [line for line in listed if line == "ISTIO_OUTPUT -j RETURN"]
    for ranges in ("*", ""):
        assert "ISTIO_OUTPUT -j RETURN" not in lines(["-u", "5", "-i", ranges], "nat")


def test_excluded_destinations_come_before_included_ones() -> None:
    output = [line for line in lines(["-u", "5", "-i", "10.0.0.0/8", "-x", "10.1.0.0/16"], "nat") if "-d 10." in line]
    assert output == ["ISTIO_OUTPUT -d 10.1.0.0/16 -j RETURN", "ISTIO_OUTPUT -d 10.0.0.0/8 -j ISTIO_REDIRECT"]


def test_inbound_ipv6_is_refused_unless_it_is_enabled() -> None:
    assert lines([], "filter", "ipv6") == [
        "INPUT -m state --state ESTABLISHED -j ACCEPT",
        "INPUT -j REJECT --reject-with icmp6-port-unreachable",
    ]
    assert lines([], "filter", "ipv6", ENABLE_INBOUND_IPV6="false") == []
