from __future__ import annotations

import pytest

from mesh_iptables.policy import hosts


@pytest.mark.parametrize("name", ["a", "httpbin.org", "a-b.c0", "example.com.", "192.0.2.1", "x" * 63])
def test_dns_names(name: str) -> None:
    assert hosts.is_name(name)


@pytest.mark.parametrize("name", ["", ".", "a..b", "-a", "a_b", "*.a", "a b", "x" * 64, "a." * 127 + "ab", "ä.de"])
def test_not_dns_names(name: str) -> None:
    assert not hosts.is_name(name)


def test_a_wildcard_covers_names_below_it_at_any_depth_but_not_its_suffix() -> None:
    assert hosts.covers("*.wild.example.com", "a.b.wild.example.com")
    assert not hosts.covers("*.wild.example.com", "wild.example.com")
    assert not hosts.covers("*.wild.example.com", "notwild.example.com")


def test_a_wildcard_covers_narrower_wildcards() -> None:
    assert hosts.covers("*.b", "*.a.b")
    assert not hosts.covers("*.a.b", "*.b")
    assert hosts.overlap("*.a.b", "*.b")


def test_exact_names_come_before_longer_and_shorter_wildcards() -> None:
    found = hosts.HostMap([("*.b", 1), ("*.a.b", 2), ("x.a.b", 3), ("x.a.b", 4)])
    assert [found.find(name) for name in ("x.a.b", "y.a.b", "y.b", "a.b", "b")] == [3, 2, 1, 1, None]
    assert [found.find(name) for name in ("*.a.b", "*.c.b", "*.b", "*.x")] == [2, 1, 1, None]


def test_host_bits_of_a_network_are_cut_off() -> None:
    assert str(hosts.network("192.192.192.192/24")) == "192.192.192.0/24"
    assert hosts.network("fe80::1%eth0") is None
    assert hosts.network("x") is None
