"""Choose one host of several; each strategy is a small object with a `pick`. Pure, chance is handed in."""

from __future__ import annotations

import zlib
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, assert_never

from mesh_iptables.policy.model import LoadBalancing

Chance = Callable[[], float]
"""A random number from 0 up to, but not including, 1."""

_RING_POINTS = 160  # of each host; a number that depended on how many there are would move everybody


class Balanced(Protocol):
    """What a strategy looks at."""

    weight: int
    active: int  # requests or connections under way

    @property
    def key(self) -> str:
        """The same for the same endpoint in every process."""


HostT = TypeVar("HostT", bound=Balanced)


class Strategy(Protocol[HostT]):
    """Picks one of `hosts`, which is never empty; `digest` is the request's hash, if a policy gives it one."""

    def pick(self, hosts: Sequence[HostT], digest: int | None) -> HostT: ...


class Random(Strategy[HostT]):
    """Any of them, by weight."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance

    def pick(self, hosts: Sequence[HostT], digest: int | None) -> HostT:  # noqa: ARG002
        return weighted(hosts, self._chance())


class LeastRequest(Strategy[HostT]):
    """The less busy of two drawn at random, as Envoy does: busy ones are avoided without a herd on one."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance

    def pick(self, hosts: Sequence[HostT], digest: int | None) -> HostT:  # noqa: ARG002
        if len(hosts) == 1:
            return hosts[0]
        first = weighted(hosts, self._chance())
        second = weighted(hosts, self._chance())
        return second if second.active * first.weight < first.active * second.weight else first


class RoundRobin(Strategy[HostT]):
    """One after the other, by weight."""

    def __init__(self) -> None:
        self._turn = 0

    def pick(self, hosts: Sequence[HostT], digest: int | None) -> HostT:  # noqa: ARG002
        total = sum(host.weight for host in hosts)
        self._turn = (self._turn + 1) % total
        point = self._turn
        for host in hosts:
            point -= host.weight
            if point < 0:
                return host
        return hosts[-1]


class RingHash(Strategy[HostT]):
    """The same host for the same digest, and for most digests also after a host came or went."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
        self._keys: tuple[str, ...] = ()
        self._ring: list[tuple[int, int]] = []

    def pick(self, hosts: Sequence[HostT], digest: int | None) -> HostT:
        if digest is None:
            return weighted(hosts, self._chance())
        keys = tuple(host.key for host in hosts)
        if keys != self._keys:
            self._keys, self._ring = keys, _ring(keys)
        at = bisect_left(self._ring, (digest, -1))
        return hosts[self._ring[at % len(self._ring)][1]]


def strategy_for(lb: LoadBalancing, chance: Chance) -> Strategy[HostT]:
    """The strategy of a cluster; CLUSTER_PROVIDED never has more than one host to choose from."""
    match lb:
        case LoadBalancing.LEAST_REQUEST:
            return LeastRequest(chance)
        case LoadBalancing.ROUND_ROBIN:
            return RoundRobin()
        case LoadBalancing.RING_HASH:
            return RingHash(chance)
        case LoadBalancing.RANDOM | LoadBalancing.CLUSTER_PROVIDED:
            return Random(chance)
    assert_never(lb)


def weighted(hosts: Sequence[HostT], fraction: float) -> HostT:
    """The host that a `fraction` in [0, 1) falls on."""
    point = fraction * sum(host.weight for host in hosts)
    for host in hosts:
        point -= host.weight
        if point < 0:
            return host
    return hosts[-1]


def digest(text: str) -> int:
    """A hash that every process agrees on."""
    return zlib.crc32(text.encode("utf-8", "surrogateescape")) * 2654435761 & 0xFFFFFFFF


def _ring(keys: Sequence[str]) -> list[tuple[int, int]]:
    turns = range(_RING_POINTS)
    return sorted((digest(f"{key}_{turn}"), number) for number, key in enumerate(keys) for turn in turns)
