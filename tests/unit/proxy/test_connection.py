from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from mesh_iptables.policy.model import (
    ANY_ADDRESS,
    Chain,
    ChainMatch,
    Cluster,
    ClusterKind,
    Endpoint,
    Limits,
    Listener,
    TcpAction,
    WeightedCluster,
)
from mesh_iptables.proxy.cluster import Resolution
from mesh_iptables.proxy.wire import Failure

from .test_sniff import client_hello
from .world import ORIGINAL, SITE, World, http_policy, policy, static, tcp_policy


def sni_policy(timeout: float = 0.0) -> Listener:
    """Port 443 knows example.com."""
    chain = Chain("tls", ChainMatch(sni=("example.com",), transport="tls"), TcpAction((WeightedCluster("site"),)))
    return Listener("0.0.0.0_443", ANY_ADDRESS, 443, (chain,), inspect_tls=True, inspect_timeout=timeout)


def test_an_unknown_destination_is_closed_without_a_byte() -> None:
    world = World()
    client = world.accept(world.activate(policy()))
    assert client.closed
    assert client.take() == b""
    assert [record.reason for record in world.records] == ["no_listener"]


def test_an_unknown_destination_passes_where_the_policy_says_so() -> None:
    world = World()
    client = world.accept(world.activate(policy(passthrough=True)), ("203.0.113.9", 9000))
    assert world.upstream.remote == ("203.0.113.9", 9000)
    world.upstream.connects()
    assert world.relayed == [(client, world.upstream)]


@pytest.mark.parametrize("address", ["127.0.0.1", "192.0.2.10", "::1"])
def test_the_redirect_port_itself_is_no_destination(address: str) -> None:
    world = World()
    client = world.accept(world.activate(policy(passthrough=True)), (address, 15001))
    assert client.closed
    assert not world.upstreams
    assert world.records[0].reason == "loop"


def test_a_plain_tcp_chain_connects_before_the_client_says_anything() -> None:
    world = World()
    world.accept(world.activate(tcp_policy()))
    assert world.upstream.remote == SITE


def test_a_refused_upstream_closes_the_client() -> None:
    world = World()
    client = world.accept(world.activate(tcp_policy()))
    world.upstream.breaks(Failure.CONNECT)
    assert client.closed
    assert world.records[0].flags == "UF,URX"


def test_a_client_that_goes_while_we_connect_ends_the_attempt() -> None:
    world = World()
    active = world.activate(tcp_policy())
    client = world.accept(active)
    client.breaks()
    assert world.upstream.aborted
    cluster = active.surroundings.clusters.get("site")
    assert cluster is not None
    assert cluster.connections == 0
    assert not cluster.hosts


def test_tcp_connections_over_the_limit_are_closed() -> None:
    world = World()
    limited = replace(ORIGINAL, limits=Limits(max_connections=1))
    active = world.activate(tcp_policy(clusters=(limited,)))
    world.accept(active)
    assert world.accept(active).closed
    world.upstream.connects()
    world.relay_done(1, 2)
    assert not world.accept(active).closed
    assert [record.flags for record in world.records] == ["UO", ""]


def test_a_cluster_without_hosts_closes() -> None:
    world = World()
    assert world.accept(world.activate(tcp_policy(clusters=(static("site"),)))).closed
    assert world.records[0].flags == "UH"


def test_an_unknown_cluster_closes() -> None:
    world = World()
    assert world.accept(world.activate(tcp_policy(WeightedCluster("nowhere")))).closed
    assert world.records[0].flags == "NC"


def test_weights_divide_connections() -> None:
    world = World()
    clusters = (static("a", "192.0.2.1"), static("b", "192.0.2.2"))
    active = world.activate(tcp_policy(WeightedCluster("a", 80), WeightedCluster("b", 20), clusters=clusters))
    for fraction, address in ((0.79, "192.0.2.1"), (0.81, "192.0.2.2")):
        world.fraction = fraction
        world.accept(active)
        assert world.upstream.remote[0] == address


def test_the_server_name_chooses_the_chain_and_nothing_is_lost() -> None:
    world = World()
    client = world.accept(world.activate(policy((sni_policy(),), (ORIGINAL,))), ("192.0.2.10", 443))
    hello = client_hello("example.com", [])
    client.says(hello[:100])
    assert not world.upstreams
    client.says(hello[100:])
    world.upstream.connects()
    assert world.upstream.take() == hello


@pytest.mark.parametrize("data", [client_hello("other.example.com", []), client_hello(None, []), b"GET / HTTP/1.1\r\n"])
def test_other_first_bytes_on_a_tls_port_are_closed(data: bytes) -> None:
    world = World()
    client = world.accept(world.activate(policy((sni_policy(),), (ORIGINAL,))), ("192.0.2.10", 443))
    client.says(data)
    assert client.closed
    assert world.records[0].reason == "no_chain"


def test_a_silent_client_is_held_without_a_timeout() -> None:
    world = World()
    client = world.accept(world.activate(policy((sni_policy(),), (ORIGINAL,))), ("192.0.2.10", 443))
    world.passes(1e6)
    assert not client.closed


def test_a_silent_client_goes_on_with_nothing_detected() -> None:
    world = World()
    client = world.accept(world.activate(policy((sni_policy(timeout=15.0),), (ORIGINAL,))), ("192.0.2.10", 443))
    world.passes(14.9)
    assert not client.closed
    world.passes(0.2)
    assert client.closed


def test_a_client_that_ends_its_hello_early_is_closed() -> None:
    world = World()
    client = world.accept(world.activate(policy((sni_policy(),), (ORIGINAL,))), ("192.0.2.10", 443))
    client.says(b"\x16\x03\x01")
    client.ends()
    assert client.closed


def test_http_on_an_inspected_port_is_served_from_its_first_byte() -> None:
    world = World()
    client = world.accept(world.activate(http_policy(inspect=True)))
    client.says(b"GET / HT")
    client.says(b"TP/1.1\r\nhost: example.com\r\n\r\n")
    world.upstream.connects()
    assert world.upstream.take().startswith(b"GET / HTTP/1.1\r\nhost: example.com\r\n")


def test_a_name_is_resolved_for_a_fence() -> None:
    world = World()
    world.names = {}
    world.resolves("example.com", "198.51.100.1")
    fence = Cluster("site", ClusterKind.FORWARD, port_override=443)
    client = world.accept(world.activate(policy((sni_policy(),), (fence,))), ("192.0.2.66", 443))
    client.says(client_hello("example.com", []))
    assert world.upstream.remote == ("198.51.100.1", 443)


@pytest.mark.parametrize(
    ("cluster", "port"),
    [
        (Cluster("site", ClusterKind.FORWARD, port_override=443, guarded=True), 443),
        (Cluster("site", ClusterKind.STRICT_DNS, endpoints=(Endpoint("example.com", 443),), guarded=True), 443),
    ],
    ids=["forward", "strict-dns"],
)
def test_a_name_of_a_fence_does_not_lead_to_a_special_address(cluster: Cluster, port: int) -> None:
    world = World()
    metadata = (("169.254.169.254", "link-local"),)
    world.names["example.com"] = Resolution(("169.254.169.254",), special=metadata)
    client = world.accept(world.activate(policy((sni_policy(),), (cluster,))), ("192.0.2.66", port))
    client.says(client_hello("example.com", []))
    assert client.closed
    assert not world.upstreams
    assert world.records[0].detail == "address_refused{169.254.169.254 is link-local}"


def test_the_other_addresses_of_a_name_are_used() -> None:
    world = World()
    world.names["example.com"] = Resolution(("127.0.0.1", "198.51.100.1"), special=(("127.0.0.1", "loopback"),))
    fence = Cluster("site", ClusterKind.FORWARD, port_override=443, guarded=True)
    world.accept(world.activate(policy((sni_policy(),), (fence,))), ("192.0.2.66", 443)).says(
        client_hello("example.com", [])
    )
    assert world.upstream.remote == ("198.51.100.1", 443)


def test_a_client_that_leaves_during_the_look_up_leaves_nothing_behind() -> None:
    world = World()
    waiting: list[Callable[[Resolution], None]] = []
    world.resolve = lambda name, told: waiting.append(told)  # type: ignore[method-assign]  # noqa: ARG005
    fence = Cluster("site", ClusterKind.FORWARD, port_override=443, guarded=True)
    active = world.activate(policy((sni_policy(),), (fence,)))
    client = world.accept(active, ("192.0.2.66", 443))
    client.says(client_hello("example.com", []))
    client.handler.broken(Failure.TERMINATION, "reset")
    waiting[0](Resolution(("198.51.100.1",)))
    assert not world.upstreams
    state = active.surroundings.clusters.get("site")
    assert state is not None
    assert state.hosts == []
