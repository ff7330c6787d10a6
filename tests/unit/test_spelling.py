"""Every accepted spelling, as iptables 1.8.9 and iproute2 6.1 were seen to read it, and what they refuse.

`tests/netns/test_spelling.py` asks the tools themselves about the same values.
"""

from __future__ import annotations

import pytest

from mesh_iptables.model import Network, Owner, PortRange
from mesh_iptables.render.iptables import network_text
from mesh_iptables.spelling import (
    Misspelt,
    parse_mark,
    parse_networks,
    parse_owner,
    parse_port_range,
    parse_redirect_ports,
    parse_routing_table,
    parse_tproxy_port,
)

from .names import FewNames

NAMES = FewNames()
PORT_RANGES = {
    "80": (80, 80),
    " 80": (80, 80),
    "+80": (80, 80),
    "0x50": (80, 80),
    "0X50": (80, 80),
    "0120": (80, 80),
    "00": (0, 0),
    "0": (0, 0),
    "65535": (65535, 65535),
    "http": (80, 80),
    "http:https": (80, 443),
    "8000:8010": (8000, 8010),
    "8000: 8010": (8000, 8010),
    ":443": (0, 443),
    "80:": (80, 65535),
    ":": (0, 65535),
    "80:80": (80, 80),
}
NO_PORT_RANGES = (
    *("80 ", "-80", "-0", "080", "0x", "", "HTTP", " http", "80-90", "443:80", "65536", "0x1ffff", "1e3", "0b11"),
    *("\uff11\uff12", "80::", "80:81:82", "8000 :8010", "80\n", "\n80", "80;id", "$(id)", "9" * 5000, "\udcff", "a\0b"),
)


@pytest.mark.parametrize(("text", "expected"), PORT_RANGES.items())
def test_port_ranges_are_read_as_dport_reads_them(text: str, expected: tuple[int, int]) -> None:
    found = parse_port_range(text, NAMES)
    assert found == PortRange(*expected)
    assert found.spelled == text


@pytest.mark.parametrize("text", NO_PORT_RANGES)
def test_what_dport_refuses_is_refused(text: str) -> None:
    with pytest.raises(Misspelt):
        parse_port_range(text, NAMES)


REDIRECT_PORTS = {
    "15001": (15001, 15001),
    " 15001": (15001, 15001),
    "0x50": (80, 80),
    "0120": (80, 80),
    "http": (80, 80),
    "domain-s": (853, 853),
    "15001-15003": (15001, 15003),
    "80- 90": (80, 90),
    "80-80": (80, 80),
    "0": (0, 0),
}


@pytest.mark.parametrize(("text", "expected"), REDIRECT_PORTS.items())
def test_redirect_ports_are_read_as_to_port_reads_them(text: str, expected: tuple[int, int]) -> None:
    assert parse_redirect_ports(text, NAMES) == PortRange(*expected)


NO_REDIRECT = (
    *("", "80 ", "080", "-80", "80-", "15003-15001", "http-https", "15001-http", "15001:15003", "65536", "80-90/2"),
)


@pytest.mark.parametrize("text", NO_REDIRECT)
def test_what_to_port_refuses_is_refused(text: str) -> None:
    with pytest.raises(Misspelt):
        parse_redirect_ports(text, NAMES)


@pytest.mark.parametrize("text", ["15001", " 15001", "+15001", "http", "0"])
def test_tproxy_takes_one_decimal_port(text: str) -> None:
    assert parse_tproxy_port(text, NAMES) == parse_redirect_ports(text, NAMES)


@pytest.mark.parametrize("text", ["0x3a99", "015001", "15001-15003", "65536", "70000", ""])
def test_tproxy_refuses_what_it_would_read_as_another_port(text: str) -> None:
    with pytest.raises(Misspelt):
        parse_tproxy_port(text, NAMES)


NETWORKS = {
    "10.1.2.3": ["10.1.2.3/32"],
    "10/8": ["10.0.0.0/8"],
    "10": ["10.0.0.0/32"],
    "10.1": ["10.1.0.0/32"],
    "10.0.0.1/24": ["10.0.0.0/24"],
    "10.9.9.9/255.255.0.0": ["10.9.0.0/16"],
    "10.1.2.3/255.0.255.0": ["10.0.2.0/255.0.255.0"],
    "0/0": ["0.0.0.0/0"],
    "any/0": ["0.0.0.0/0"],
    " 10.0.0.0/8": ["10.0.0.0/8"],
    "10.0.0.0/ 8": ["10.0.0.0/8"],
    "10.0.0.0/+8": ["10.0.0.0/8"],
    "10.0.0.0/0x8": ["10.0.0.0/8"],
    "010.0.0.1": ["8.0.0.1/32"],
    "10. 0.0.1": ["10.0.0.1/32"],
    "167772161": ["10.0.0.1/32"],
    "10.256": ["10.0.1.0/32"],
    "loopback": ["127.0.0.0/32"],
    "one.test": ["10.1.1.1/32"],
    "two.test": ["10.1.1.1/32", "10.1.1.2/32", "10.1.1.1/32"],
    "two.test/24": ["10.1.1.0/24"] * 3,
}
NO_NETWORKS = (
    *("any", "", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/8 ", "10.0.0.0/08", "256.1.1.1"),
    *("1.2.3.4.5", "10.0.0.0/255", "10.0.0.0/255.255", "10..1", "10.", ".10", "-b", "!", "1.2.3.4-1.2.3.9"),
    *("10.0.0.0/8/8", "fd00::/8", "::1", "nowhere.test", "10.0.0.0/8\n", "$(id)", "10.0.0.0;id", "*", "\udcff"),
)


@pytest.mark.parametrize(("text", "expected"), NETWORKS.items())
def test_networks_are_read_as_iptables_reads_them(text: str, expected: list[str]) -> None:
    assert [network_text(network) for network in parse_networks(text, NAMES)] == expected


@pytest.mark.parametrize("text", NO_NETWORKS)
def test_what_is_no_ipv4_network_is_refused(text: str) -> None:
    with pytest.raises(Misspelt):
        parse_networks(text, NAMES)


def test_only_the_first_address_of_a_host_has_a_command_of_its_own() -> None:
    assert [network.further for network in parse_networks("two.test", NAMES)] == [False, True, True]


def test_no_name_is_looked_up_where_none_was_given() -> None:
    names = FewNames()
    for text in ("10/8", "10.1.2.3", "167772161"):
        parse_networks(text, names)
    for text in ("80", "0x50", "8000:8010"):
        parse_port_range(text, names)
    for text in ("1337", "1000-2000"):
        parse_owner("uid", text, names)
    for text in ("256.1.1.1", "fd00::1", "1.2.3.4.5"):
        with pytest.raises(Misspelt):
            parse_networks(text, names)
    assert names.asked == []


OWNERS = {
    "1337": (1337, 1337),
    " 1337": (1337, 1337),
    "0x539": (1337, 1337),
    "02471": (1337, 1337),
    "root": (0, 0),
    "1000-2000": (1000, 2000),
    "1000:2000": (1000, 2000),
    "1000- 2000": (1000, 2000),
    "1000-0x7d0": (1000, 2000),
    "4294967294": (4294967294, 4294967294),
}


@pytest.mark.parametrize(("text", "expected"), OWNERS.items())
def test_owners_are_read_as_the_owner_match_reads_them(text: str, expected: tuple[int, int]) -> None:
    assert parse_owner("uid", text, NAMES) == Owner("uid", *expected)


NO_OWNERS = (
    *("", "1337 ", "ghost", "2000-1000", "root-daemon", "-1", "4294967295", "1000-", " root", "1;2", "\udcff", "1-2-3"),
)


@pytest.mark.parametrize("text", NO_OWNERS)
def test_what_is_no_owner_is_refused(text: str) -> None:
    with pytest.raises(Misspelt):
        parse_owner("uid", text, NAMES)


def test_a_user_is_not_a_group() -> None:
    assert parse_owner("uid", "nobody", NAMES).low == 65534
    with pytest.raises(Misspelt, match="no group"):
        parse_owner("gid", "nobody", NAMES)


@pytest.mark.parametrize(
    ("text", "mark"), [("1337", 1337), ("0x539", 1337), ("02471", 1337), (" 7", 7), ("0xffffffff", 2**32 - 1)]
)
def test_marks_are_read_as_all_three_tools_read_them(text: str, mark: int) -> None:
    assert parse_mark(text).value == mark


@pytest.mark.parametrize("text", ["0", "0x0", "", "-1", "4294967296", "7/1", "7 ", "abc", "1e3"])
def test_what_is_no_mark_is_refused(text: str) -> None:
    with pytest.raises(Misspelt):
        parse_mark(text)


@pytest.mark.parametrize(("text", "table"), [("133", 133), ("0x85", 133), ("0205", 133), ("mesh", 200), ("256", 256)])
def test_routing_tables_are_read_by_number_or_name(text: str, table: int) -> None:
    assert parse_routing_table(text, NAMES).value == table


@pytest.mark.parametrize(
    "text", ["0", "253", "254", "0xff", "main", "local", "default", "unspec", "all", "", "133 ", "4294967296"]
)
def test_the_kernels_own_routing_tables_are_refused(text: str) -> None:
    with pytest.raises(Misspelt):
        parse_routing_table(text, NAMES)


def test_a_mask_of_nothing_needs_no_address() -> None:
    assert parse_networks("nowhere.test/0", NAMES) == (Network(4, 0, 0),)
