"""What `/etc/resolv.conf` and `/etc/hosts` say. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address

_NOBODY_NAMED = ("127.0.0.1",)  # what the C library asks then


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """Whom to ask and how; `timeout` is in seconds per try, `attempts` are rounds over all servers."""

    servers: tuple[str, ...] = _NOBODY_NAMED
    search: tuple[str, ...] = ()
    ndots: int = 1
    timeout: float = 3.0
    attempts: int = 2


def parse_resolv_conf(text: str) -> ResolvConf:
    """Lines nobody understands are skipped, as the C library does."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    options: dict[str, int] = {}
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver" and is_address(words[1].partition("%")[0]):
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            search = tuple(word.rstrip(".").lower() for word in words[1:])
        elif words[0] == "options":
            options.update(_option(word) for word in words[1:])
    return ResolvConf(
        tuple(servers[:3]) or _NOBODY_NAMED,
        search,
        min(options.get("ndots", 1), 15),
        float(min(max(options.get("timeout", 3), 1), 30)),
        min(max(options.get("attempts", 2), 1), 5),
    )


def _option(word: str) -> tuple[str, int]:
    name, _, value = word.partition(":")
    return name, int(value) if value.isdecimal() else 1


def parse_hosts(text: str) -> Mapping[str, tuple[str, ...]]:
    """Names in lower case with their addresses, in the order of the file."""
    found: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        address, *names = line.split("#")[0].split() or [""]
        if is_address(address):
            for name in names:
                found[name.lower()] = (*found.get(name.lower(), ()), address)
    return found


def is_address(text: str) -> bool:
    """Whether `text` is an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def candidates(name: str, conf: ResolvConf) -> list[str]:
    """The names to ask for, in order."""
    if name.endswith("."):
        return [name.rstrip(".")]
    searched = [f"{name}.{domain}" for domain in conf.search if domain]
    return [name, *searched] if name.count(".") >= conf.ndots else [*searched, name]
