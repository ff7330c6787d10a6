"""What the kernel says about this machine's own addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh_iptables.proxy import own_addresses
from mesh_iptables.proxy.own_addresses import is_own, parse_fib_trie, parse_if_inet6

_TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.77.0.0/24 2 0 2
        |-- 10.77.0.0
           /24 link UNICAST
        |-- 10.77.0.2
           /32 host LOCAL
        |-- 10.77.0.255
           /32 link BROADCAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.0
           /8 host LOCAL
Local:
        |-- 10.77.0.2
           /32 host LOCAL
"""


def test_local_routes_are_own_addresses() -> None:
    assert [*map(str, parse_fib_trie(_TRIE))] == ["10.77.0.2/32", "127.0.0.0/8"]
    assert [*parse_fib_trie("")] == []


def test_addresses_of_interfaces_are_own_ones() -> None:
    text = "20010db8000000000000000000000002 02 40 00 80 eth0\n"
    assert [*map(str, parse_if_inet6(text))] == ["2001:db8::2/128"]


def test_only_own_addresses_are_own() -> None:
    assert is_own("127.0.0.1")
    assert not is_own("192.0.2.1")


def test_a_machine_that_binds_any_address_is_asked_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bind").write_text("1\n")
    (tmp_path / "trie").write_text(_TRIE)
    monkeypatch.setattr(own_addresses, "_NONLOCAL_BIND", {False: str(tmp_path / "bind"), True: "/nowhere"})
    monkeypatch.setattr(own_addresses, "_LOCAL_IPV4", str(tmp_path / "trie"))
    monkeypatch.setattr(own_addresses, "_can_bind", lambda _address, *, ipv6: not ipv6)
    assert is_own("10.77.0.2")
    assert is_own("127.0.0.9")
    assert not is_own("192.0.2.1")
