"""Collect the chains of one listener so that no two of them can match the same connection. Pure.

Two resources may claim the same traffic. Here the first one keeps it and the later one gets what is left, which
is also what Envoy insists on: it refuses a listener with overlapping chains.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from mesh_iptables.policy.model import Chain

_Taken = tuple[int, str, str, str, str]  # port, range, server name, transport, protocol


class ChainSet:
    """Chains in the order they were added, without what an earlier one took already."""

    def __init__(self) -> None:
        self._chains: list[Chain] = []
        self._taken: dict[_Taken, Chain] = {}

    def add(self, chain: Chain) -> Chain | None:
        """Add what is free of `chain`; returns the first earlier chain that had taken a part of it."""
        free: dict[tuple[str, ...], list[str]] = defaultdict(list)  # server names -> ranges they are free in
        earlier: Chain | None = None
        for cidr in chain.match.dst_cidrs or ("",):
            names = []
            for name in chain.match.sni or ("",):
                holder = self._take(chain, cidr, name)
                earlier = earlier or holder
                if holder is None:
                    names.append(name)
            if names:
                free[tuple(names)].append(cidr)
        for sni, cidrs in free.items():
            match = replace(chain.match, sni=_named(sni), dst_cidrs=_named(tuple(cidrs)))
            self._chains.append(chain if match == chain.match else replace(chain, match=match))
        return earlier

    def _take(self, chain: Chain, cidr: str, name: str) -> Chain | None:
        match = chain.match
        keys = [(match.dst_port, cidr, name, match.transport, protocol) for protocol in match.protocols or ("",)]
        holder = next((self._taken[key] for key in keys if key in self._taken), None)
        if holder is None:
            self._taken.update(dict.fromkeys(keys, chain))
        return holder

    def chains(self) -> tuple[Chain, ...]:
        return tuple(self._chains)


def _named(values: tuple[str, ...]) -> tuple[str, ...]:
    """Without the empty text that stands for "any" inside this module."""
    return tuple(value for value in values if value)
