"""The few names, addresses and ports that random policies and requests are made of, so that they meet often."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeAlias, TypeVar

Document: TypeAlias = dict[str, Any]
Fields: TypeAlias = dict[str, Any]

_Value = TypeVar("_Value")

NAMES = ["api.example.com", "www.example.com", "shop.example.org", "auth.example.org", "blue.example.com"]
TENANTS = ["one.tenant.example.net", "two.deep.tenant.example.net", "thief.example.net"]
WILDCARDS = ["*.example.com", "*.tenant.example.net", "*.example.net", "*.deep.tenant.example.net"]
BROKEN = ["closed.example.com", "dead.example.com", "any.servfail.example"]
PAIR = "pair.example.com"  # the one name with two addresses
ADDRESSES = {
    "api.example.com": "192.0.2.10",
    "www.example.com": "192.0.2.11",
    "shop.example.org": "192.0.2.12",
    "auth.example.org": "192.0.2.13",
    "blue.example.com": "192.0.2.41",
}
PAIR_ADDRESSES = ["192.0.2.21", "192.0.2.22"]
CLOSED_ADDRESS = "192.0.2.60"
RANGES = ["192.0.2.8/29", "192.0.2.10/32", "192.0.2.32/27", "192.0.2.0/24"]
HTTP_PORTS = [80, 80, 80, 8080, 9080, 443, 9000]


def maybe(random: Random, chance: float, make: Callable[[], Fields]) -> Fields:
    """The fields that `make` gives, or none."""
    return make() if random.random() < chance else {}


def one_or_two(random: Random, values: Sequence[_Value]) -> list[_Value]:
    return random.sample(values, random.choice([1, 1, 2]))


def weighted(random: Random, chances: dict[_Value, int]) -> _Value:
    """One of the keys, each as likely as its number says."""
    return random.choices(list(chances), list(chances.values()))[0]
