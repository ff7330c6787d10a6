"""Host names, wildcards, addresses and networks as policies write them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Generic, TypeVar

_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_LONGEST_NAME = 253

_Value = TypeVar("_Value")


def is_name(text: str) -> bool:
    """Whether `text` is a full DNS name without wildcard; one trailing dot is allowed."""
    text = text.removesuffix(".")
    labels = text.split(".")
    return 0 < len(text) <= _LONGEST_NAME and all(_LABEL.fullmatch(label) for label in labels)


def is_wildcard(text: str) -> bool:
    """Whether `text` is `*.suffix`."""
    return text.startswith("*.") and is_name(text[2:])


def has_partial_wildcard(text: str) -> bool:
    """Whether a label holds a star beside other characters (`a*.example.com`), which matches nothing."""
    return any("*" in label and label != "*" for label in text.split("."))


def canonical(host: str) -> str:
    """Lower case, without a trailing dot."""
    return host.lower().removesuffix(".")


def covers(pattern: str, name: str) -> bool:
    """Whether all names that `name` stands for are among those of `pattern`; both may be wildcards."""
    if pattern == "*" or pattern == name:
        return True
    return pattern.startswith("*.") and len(name) > len(pattern) - 1 and name.endswith(pattern[1:])


def overlap(one: str, other: str) -> bool:
    return covers(one, other) or covers(other, one)


class HostMap(Generic[_Value]):
    """Values by host pattern; a name finds the most specific pattern that covers it.

    That is the name itself, else the longest `*.suffix`; of values for one pattern the first stays.
    """

    __slots__ = ("_exact", "_suffixes")

    def __init__(self, pairs: Iterable[tuple[str, _Value]]) -> None:
        self._exact: dict[str, _Value] = {}
        self._suffixes: dict[str, _Value] = {}
        for pattern, value in pairs:
            self._exact.setdefault(pattern, value)
            if pattern.startswith("*."):
                self._suffixes.setdefault(pattern[1:], value)

    def find(self, name: str) -> _Value | None:
        """The value for a name, which may be a wildcard itself."""
        found = self._exact.get(name)
        return by_suffix(self._suffixes, name) if found is None else found


def by_suffix(suffixes: Mapping[str, _Value], name: str) -> _Value | None:
    """The value of the longest `.suffix` that `name` ends with; a suffix alone is not covered by itself."""
    dot = name.find(".", 1)
    while dot != -1:
        found = suffixes.get(name[dot:])
        if found is not None:
            return found
        dot = name.find(".", dot + 1)
    return None


def is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text  # a zone would name an interface of this machine


def network(text: str) -> IPv4Network | IPv6Network | None:
    """An address or CIDR (host bits are cut off), or None."""
    if "%" in text:
        return None
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def is_single(net: IPv4Network | IPv6Network) -> bool:
    return net.prefixlen == net.max_prefixlen
