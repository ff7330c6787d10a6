"""`--allow`: what it takes, and that nothing else passes."""

from __future__ import annotations

import pytest

from mesh_iptables.errors import UsageError
from mesh_iptables.policy.compile import compile_sources
from mesh_iptables.policy.compile_fence import compile_fence, parse_allow
from mesh_iptables.policy.explain import Explanation, Question, explain
from mesh_iptables.policy.model import ClusterKind, DefaultAction, EgressPolicy, Profile
from mesh_iptables.policy.routing import Reason, Request
from mesh_iptables.policy.settings import Settings


def _fence(*entries: str) -> EgressPolicy:
    return compile_fence(entries, Settings(Profile.FENCE))


def _http(policy: EgressPolicy, host: str, port: int = 80) -> Explanation:
    return explain(policy, Question("198.51.100.9", port, Request("GET", host, "/")))


def _tls(policy: EgressPolicy, sni: str, port: int = 443) -> Explanation:
    return explain(policy, Question("198.51.100.9", port, sni=sni))


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("packages.example.org", [("packages.example.org", 80, "http"), ("packages.example.org", 443, "tls")]),
        ("Packages.example.org:443", [("packages.example.org", 443, "tls")]),
        ("a.x:8080", [("a.x", 8080, "http"), ("a.x", 8080, "tls")]),
        ("*.a.x:8443/https", [("*.a.x", 8443, "tls")]),
        ("a.x:22/tcp", [("a.x", 22, "tcp")]),
        ("192.0.2.1", [("192.0.2.1", 80, "tcp"), ("192.0.2.1", 443, "tcp")]),
        ("[2001:DB8::1]:22", [("2001:db8::1", 22, "tcp")]),
        ("2001:db8::1", [("2001:db8::1", 80, "tcp"), ("2001:db8::1", 443, "tcp")]),
    ],
)
def test_an_entry_allows_its_ports_and_protocols(text: str, allowed: list[tuple[str, int, str]]) -> None:
    assert [(each.host, each.port, each.protocol) for each in parse_allow(text)] == allowed


@pytest.mark.parametrize(
    "text",
    [
        *("", "*", "a b", ":80", "a.x:0", "a.x:65536", "a.x:", "a.x:²"),
        *("a.x:80/udp", "a.x/tcp", "*.a.x:22/tcp", "192.0.2.1:80/http", "http://a.x", "10.0.0.0/8"),
    ],
)
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match="--allow"):
        parse_allow(text)


def test_the_requested_name_is_resolved_by_the_proxy_whatever_the_address() -> None:
    policy = _fence("a.x", "*.b.x")
    for found in (_http(policy, "a.x"), _http(policy, "c.b.x"), _tls(policy, "a.x"), _tls(policy, "d.c.b.x")):
        assert found.allowed
        assert [target.cluster.kind for target in found.targets if target.cluster] == [ClusterKind.FORWARD]


def test_every_other_name_is_refused() -> None:
    policy = _fence("a.x", "*.b.x")
    for host in ("b.x", "x.a.x", "a.x.evil.x", "a.x:8080", "", "192.0.2.1", "a.x,b.x"):
        found = _http(policy, host)
        assert (found.allowed, found.status, found.reason) == (False, 403, Reason.BLOCKED_HOST)
    for sni in ("b.x", "x.a.x", ""):
        assert _tls(policy, sni).action == "close"


def test_other_ports_and_first_bytes_are_closed() -> None:
    policy = _fence("a.x")
    assert policy.default is DefaultAction.BLACKHOLE
    assert _http(policy, "a.x", 8080).action == "close"
    assert _http(policy, "a.x", 443).action == "close"
    assert _tls(policy, "a.x", 80).action == "close"
    assert explain(policy, Question("198.51.100.9", 80)).action == "close"


def test_the_port_in_the_host_header_never_chooses_the_port() -> None:
    policy = _fence("*.a.x:8080/http", "*.a.x:80/http")
    assert _http(policy, "b.a.x:8080", 8080).allowed
    assert not _http(policy, "b.a.x", 8080).allowed
    assert not _http(policy, "b.a.x:22", 80).allowed


def test_a_tcp_entry_takes_its_port_for_one_name_alone() -> None:
    found = explain(_fence("db.x:5432/tcp"), Question("198.51.100.9", 5432))
    assert found.targets[0].cluster is not None
    assert found.targets[0].cluster.kind is ClusterKind.STRICT_DNS
    for other in ("b.x:5432/tcp", "b.x:5432", "*.x:5432/http"):
        with pytest.raises(UsageError, match="both want port 5432"):
            _fence("db.x:5432/tcp", other)


def test_an_address_is_allowed_as_a_destination() -> None:
    policy = _fence("192.0.2.1:22")
    assert explain(policy, Question("192.0.2.1", 22)).allowed
    assert not explain(policy, Question("192.0.2.2", 22)).allowed


def test_an_entry_given_twice_counts_once() -> None:
    assert _fence("a.x", "a.x:443", "a.x") == _fence("a.x")


def test_allow_does_not_go_with_documents() -> None:
    with pytest.raises(UsageError, match="--policy"):
        compile_sources([("p.yaml", "")], ["a.x"], Settings())
