from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh_iptables.policy.chains import ChainSet
from mesh_iptables.policy.model import Chain, ChainMatch, TcpAction, WeightedCluster


def _chain(name: str, *sni: str, cidrs: tuple[str, ...] = ()) -> Chain:
    return Chain(name, ChainMatch(dst_cidrs=cidrs, sni=sni), TcpAction((WeightedCluster(name),)))


def _set(*chains: Chain) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    chosen = ChainSet()
    for chain in chains:
        chosen.add(chain)
    return [(chain.name, chain.match.sni, chain.match.dst_cidrs) for chain in chosen.chains()]


def test_the_first_of_two_equal_chains_stays_and_is_named_to_the_second() -> None:
    chosen = ChainSet()
    first = _chain("a", "x")
    assert chosen.add(first) is None
    assert chosen.add(_chain("b", "x")) is first
    assert chosen.chains() == (first,)


def test_a_later_chain_gets_the_names_that_are_left() -> None:
    assert _set(_chain("a", "x", "y"), _chain("b", "y", "z")) == [("a", ("x", "y"), ()), ("b", ("z",), ())]


def test_what_is_left_of_ranges_and_names_is_split_into_chains() -> None:
    taken = _chain("a", "x", cidrs=("10.0.0.0/8",))
    assert _set(taken, _chain("b", "x", "y", cidrs=("10.0.0.0/8", "11.0.0.0/8"))) == [
        ("a", ("x",), ("10.0.0.0/8",)),
        ("b", ("y",), ("10.0.0.0/8",)),
        ("b", ("x", "y"), ("11.0.0.0/8",)),
    ]


_NAMES = st.lists(st.sampled_from(["x", "y", "z"]), unique=True, max_size=3)
_CIDRS = st.lists(st.sampled_from(["10.0.0.0/8", "11.0.0.0/8"]), unique=True, max_size=2)


@given(st.lists(st.tuples(_NAMES, _CIDRS), max_size=6))
def test_no_two_chains_match_alike_and_nothing_is_lost(wanted: list[tuple[list[str], list[str]]]) -> None:
    result = _set(*(_chain(str(n), *names, cidrs=tuple(cidrs)) for n, (names, cidrs) in enumerate(wanted)))
    keys = [(name, cidr) for _, sni, cidrs in result for name in sni or ("",) for cidr in cidrs or ("",)]
    assert len(keys) == len(set(keys))
    asked = {(name, cidr) for names, cidrs in wanted for name in names or [""] for cidr in cidrs or [""]}
    assert set(keys) == asked
