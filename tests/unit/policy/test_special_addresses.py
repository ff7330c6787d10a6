"""Which addresses a name must not lead to."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_iptables.policy.special_addresses import refused_networks, special


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("169.254.169.254", "link-local"),
        ("224.0.0.251", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("100.100.100.200", "a cloud's metadata service"),
        ("fd00:ec2::254", "a cloud's metadata service"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("fe80::1", "link-local"),
        ("febf::1", "link-local"),
        ("ff02::1", "multicast"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:a9fe:a9fe", "link-local"),
        ("::127.0.0.1", "loopback"),
        ("64:ff9b::169.254.169.254", "link-local"),
        ("2002:7f00:1::", "loopback"),
    ],
)
def test_a_special_address_is_named(address: str, what: str) -> None:
    assert special(address) == what


@pytest.mark.parametrize(
    "address",
    ["192.0.2.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd00::1", "2001:db8::1", "::ffff:192.0.2.1"],
)
def test_other_addresses_are_not_private_ones_either(address: str) -> None:
    assert not special(address)


_ADDRESSES = st.one_of(st.ip_addresses(), st.sampled_from([ip_address("127.0.0.1"), ip_address("64:ff9b::7f00:1")]))


@given(_ADDRESSES)
def test_the_networks_say_the_same(address: object) -> None:
    found = [network for network in refused_networks((), ()) if ip_address(str(address)) in network]
    assert bool(found) is bool(special(str(address)))


def test_permitted_addresses_are_holes_and_own_ones_are_added() -> None:
    networks = refused_networks(("127.0.0.1", "10.0.0.7", "::1"), ("10.0.0.0/28",))
    refused = {
        text
        for text in ("127.0.0.1", "127.0.0.2", "10.0.0.7", "10.0.0.8", "10.0.0.16", "::1")
        if any(ip_address(text) in network for network in networks)
    }
    assert refused == {"127.0.0.2", "10.0.0.8"}
