"""Listener and chain for a connection, as Envoy chooses them."""

from __future__ import annotations

import pytest

from mesh_iptables.policy.engine import (
    NO_INSPECTION,
    NOTHING,
    ChainIndex,
    Inspected,
    Inspection,
    ListenerIndex,
    PolicyIndex,
)
from mesh_iptables.policy.model import (
    RAW,
    TLS,
    Behaviour,
    Chain,
    ChainMatch,
    DefaultAction,
    EgressPolicy,
    Identity,
    Listener,
    Profile,
    TcpAction,
    WeightedCluster,
)
from mesh_iptables.policy.routing import Deny, Reason

_HTTP = Inspected(RAW, "", ("http/1.1",))


def _chain(name: str, match: ChainMatch = ChainMatch()) -> Chain:  # noqa: B008
    return Chain(name, match, TcpAction((WeightedCluster(name),)))


def _listener(*chains: Chain, address: str = "0.0.0.0", port: int = 80, **fields: object) -> Listener:
    return Listener("it", address, port, chains, **fields)  # type: ignore[arg-type]  # by name, as written


def _policy(*listeners: Listener, default: DefaultAction = DefaultAction.BLACKHOLE) -> PolicyIndex:
    chain = _chain("default") if default is DefaultAction.PASSTHROUGH else None
    by_key = {(each.address, each.port): each for each in listeners}
    return PolicyIndex(EgressPolicy(Profile.ISTIO, Identity(), Behaviour(), by_key, {}, default, chain))


def _taken(index: PolicyIndex, address: str, port: int) -> str:
    found = index.listener_for(address, port)
    if isinstance(found, Deny):
        return found.reason.value
    chain = found.chain_for(address, port)
    return chain.reason.value if isinstance(chain, Deny) else chain.chain.name


def _chosen(listener: Listener, found: Inspected = NOTHING, address: str = "192.0.2.1", port: int = 80) -> str:
    chain = ListenerIndex(listener).chain_for(address, port, found)
    return chain.reason.value if isinstance(chain, Deny) else chain.chain.name


def test_an_exact_address_comes_before_any_and_any_port_last() -> None:
    index = _policy(
        _listener(_chain("exact"), address="192.0.2.1"),
        _listener(_chain("any")),
        _listener(_chain("all"), port=0),
    )
    assert [_taken(index, "192.0.2.1", 80), _taken(index, "192.0.2.2", 80)] == ["exact", "any"]
    assert [_taken(index, "192.0.2.1", 81), _taken(index, "2001:db8::1", 80)] == ["all", "any"]


@pytest.mark.parametrize(
    ("default", "outcome"),
    [
        (DefaultAction.PASSTHROUGH, "default"),
        (DefaultAction.BLACKHOLE, "no_listener"),
        (DefaultAction.REFUSE, "not_open"),
    ],
)
def test_what_no_listener_takes_gets_the_default(default: DefaultAction, outcome: str) -> None:
    assert _taken(_policy(default=default), "192.0.2.1", 80) == outcome


def test_the_redirect_port_is_a_loop_in_every_policy() -> None:
    for default in DefaultAction:
        assert _taken(_policy(_listener(_chain("x"), port=15001), default=default), "192.0.2.1", 15001) == "loop"


def test_unknown_traffic_is_reported_as_passed_through() -> None:
    found = _policy(default=DefaultAction.PASSTHROUGH).listener_for("192.0.2.1", 80)
    assert isinstance(found, ListenerIndex)
    chain = found.chain_for("192.0.2.1", 80)
    assert isinstance(chain, ChainIndex)
    assert chain.reason is Reason.PASSTHROUGH


def test_inspection_is_what_the_listener_needs_but_never_on_opaque_ports() -> None:
    index = ListenerIndex(
        _listener(inspect_tls=True, inspect_http=True, inspect_timeout=15.0, opaque_ports=frozenset({3306}))
    )
    assert index.inspection_for(80) == Inspection(True, True, 15.0)
    assert index.inspection_for(3306) is NO_INSPECTION
    assert ListenerIndex(_listener()).inspection_for(80) is NO_INSPECTION


def test_ranges_are_chosen_by_longest_prefix() -> None:
    listener = _listener(
        _chain("8", ChainMatch(dst_cidrs=("10.0.0.0/8",))),
        _chain("16", ChainMatch(dst_cidrs=("10.1.0.0/16", "2001:db8::/32"))),
        _chain("any"),
    )
    chosen = [_chosen(listener, address=each) for each in ("10.1.2.3", "10.2.2.3", "11.0.0.1", "2001:db8::1")]
    assert chosen == ["16", "8", "any", "16"]


def test_names_are_chosen_exactly_then_by_longest_wildcard_then_without_a_name() -> None:
    listener = _listener(
        _chain("a", ChainMatch(sni=("a.b.x",))),
        _chain("b", ChainMatch(sni=("*.b.x",))),
        _chain("x", ChainMatch(sni=("*.x",))),
        _chain("any"),
    )
    names = ["a.b.x", "c.b.x", "d.c.b.x", "b.x", "x", ""]
    assert [_chosen(listener, Inspected(TLS, name)) for name in names] == ["a", "b", "b", "x", "any", "any"]


def test_a_criterion_is_not_revisited_when_a_later_one_fails() -> None:
    listener = _listener(
        _chain("http", ChainMatch(protocols=("http/1.1",))),
        _chain("range", ChainMatch(dst_cidrs=("10.0.0.0/8",), sni=("a.x",))),
        default_chain=_chain("default"),
    )
    assert _chosen(listener, _HTTP, "192.0.2.1") == "http"
    assert _chosen(listener, _HTTP, "10.0.0.1") == "default"


def test_the_first_protocol_that_a_chain_names_decides() -> None:
    listener = _listener(
        _chain("h2", ChainMatch(transport=RAW, protocols=("h2c",))),
        _chain("http", ChainMatch(transport=RAW, protocols=("http/1.1",))),
    )
    assert _chosen(listener, Inspected(RAW, "", ("x", "http/1.1", "h2c"))) == "http"
    assert _chosen(listener, Inspected(TLS, "", ("http/1.1",))) == "no_chain"
    assert _chosen(listener) == "no_chain"


def test_destination_ports_choose_among_chains_of_one_listener() -> None:
    listener = _listener(_chain("80", ChainMatch(80)), _chain("443", ChainMatch(443, sni=("a.x",))), port=0)
    assert _chosen(listener) == "80"
    assert _chosen(listener, port=443) == "no_chain"
    assert _chosen(listener, port=81) == "no_chain"
