"""`--allow`: what it takes, and that nothing else passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_iptables.errors import UsageError
from mesh_iptables.policy.compile import compile_sources
from mesh_iptables.policy.compile_fence import compile_fence, fence_complaints, parse_allow
from mesh_iptables.policy.complaint import Severity
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
        ("[2001:db8::]", [("2001:db8::", 80, "tcp"), ("2001:db8::", 443, "tcp")]),
        ("::ffff:192.0.2.1", [("192.0.2.1", 80, "tcp"), ("192.0.2.1", 443, "tcp")]),
        ("a.x.:80/HTTP", [("a.x", 80, "http")]),
    ],
)
def test_an_entry_allows_its_ports_and_protocols(text: str, allowed: list[tuple[str, int, str]]) -> None:
    assert [(each.host, each.port, each.protocol) for each in parse_allow(text)] == allowed


@pytest.mark.parametrize(
    "text",
    [
        *("", "*", "a b", ":80", "a.x:0", "a.x:65536", "a.x:", "a.x:²"),
        *(
            "a.x:80/udp",
            "a.x/tcp",
            "*.a.x:22/tcp",
            "192.0.2.1:80/http",
            "a.x/path",
            "a.x:80/http/",
            "a.x:-1",
            "a.x: 80",
        ),
        *("*.", "**", "**.a.x", "*.*.x", "a.*.x", "*x.y", "*:80", "*/80", "a.x:80:90", "a_b.x", "a..x", ".a.x", "-a.x"),
        *("[a.x]:80", "[10.0.0.1]:80", "[2001:db8::1", "2001:db8::1]:80", "fe80::1%eth0", "[fe80::1%eth0]:80", "[]:80"),
        *("user@a.x", "a.x,b.x", "a%2ex", "a.x:\u0668\u0660", "a\nx", "\x1b[31m.x"),
    ],
)
def test_anything_else_is_refused_by_name_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="--allow") as refusal:
        parse_allow(text)
    assert str(refusal.value).isprintable()


_PIECES = st.sampled_from(
    [
        *"*.:/[]@%-_ ,",
        "a",
        "x",
        "127.0.0.1",
        "0.0.0.0",
        "::1",
        "443",
        "15001",
        "0",
        "tls",
        "tcp",
        "udp",
        "ü",
        "\n",
        "\0",
        "0x7f",
    ]
)


@given(st.one_of(st.text(max_size=30), st.lists(_PIECES, max_size=8).map("".join)))
def test_whatever_is_given_is_refused_in_one_line_or_closed_by_construction(text: str) -> None:
    try:
        policy = _fence(text)
    except UsageError as refusal:
        assert str(refusal).isprintable()  # noqa: PT017 - it may as well be allowed
        return
    assert policy.default is DefaultAction.BLACKHOLE
    assert not any(listener.default_chain for listener in policy.listeners.values())
    for cluster in policy.clusters.values():
        assert cluster.kind is not ClusterKind.ORIGINAL_DST
        assert cluster.guarded is (cluster.kind is not ClusterKind.STATIC)
    assert explain(policy, Question("198.51.100.9", 22)).action == "close" or ":22" in text
    assert not _tls(policy, "thief.example.net").allowed


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("http://a.x", "is a URL"),
        ("https://a.x:443/", "is a URL"),
        ("10.0.0.0/8", "is a network"),
        ("2001:db8::/32", "is a network"),
        ("bücher.example", "write xn--bcher-kva.example"),
        ("127.1", "ends in a number"),
        ("2130706433", "ends in a number"),
        ("0x7f000001", "ends in a number"),
        ("*.0.0.1", "ends in a number"),
        ("1.2.3.4.", "ends in a number"),
        ("0.0.0.0", "no address that a connection can be made to"),
        ("[::]:80", "no address that a connection can be made to"),
        ("224.0.0.1", "no address that a connection can be made to"),
    ],
)
def test_common_mistakes_are_called_by_their_names(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse_allow(text)


def test_the_redirect_port_cannot_be_allowed() -> None:
    with pytest.raises(UsageError, match="wants the redirect port 15001"):
        _fence("a.x:15001")


def test_names_are_guarded_and_listed_addresses_permitted_for_their_port() -> None:
    policy = _fence("*.a.x", "b.x:5432/tcp", "127.0.0.1:80", "10.0.0.1")
    guarded = {cluster.name: cluster.permitted for cluster in policy.clusters.values() if cluster.guarded}
    assert guarded == {
        "allow|80|http|requested-name": ("127.0.0.1", "10.0.0.1"),
        "allow|443|tls|requested-name": ("10.0.0.1",),
        "allow|5432|tcp|b.x": (),
    }


@pytest.mark.parametrize(
    ("entry", "complaints"),
    [
        ("a.x", []),
        ("*.a.x", []),
        ("10.0.0.1", []),
        ("*.com", ["--allow *.com: allows every name under com, also those of whoever registers one"]),
        ("127.0.0.1", ["--allow 127.0.0.1: is loopback: names that are allowed for its ports may lead there, too"]),
    ],
)
def test_what_may_not_be_meant_is_told(entry: str, complaints: list[str]) -> None:
    assert [*map(str, fence_complaints([entry, entry]))] == complaints


def test_a_name_that_depends_on_the_search_list_is_told() -> None:
    (complaint,) = compile_sources([], ["mirror"], Settings()).complaints
    assert (complaint.id, complaint.severity) == ("allow-search", Severity.WARNING)


def test_explain_says_what_a_name_must_not_lead_to() -> None:
    policy = _fence("a.x", "127.0.0.1:443")
    assert _http(policy, "a.x").steps[-1].endswith("port 80 (no loopback, link-local or own address)")
    assert _tls(policy, "a.x").steps[-1].endswith("(no loopback, link-local or own address but 127.0.0.1)")


def test_names_with_a_dot_are_not_completed_by_a_search_list() -> None:
    assert _fence("a.x", "2001:db8::1").behaviour.absolute_names
    assert not _fence("a.x", "mirror").behaviour.absolute_names


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
