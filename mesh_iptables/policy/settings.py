"""What the user asks of the compiler beside the documents: profile, options, identity. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeVar

from mesh_iptables.errors import UsageError
from mesh_iptables.policy.durations import parse_duration
from mesh_iptables.policy.model import HeaderStyle, Identity, Profile

PROFILES = ("istio", "osm")
COMPATS = ("1.0",)

_Choice = TypeVar("_Choice", bound=Enum)


class DnsFamily(Enum):
    """Which addresses of a name are looked up."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"


@dataclass(frozen=True, slots=True)
class Options:
    """Options that cut across profiles; None leaves the choice to the profile."""

    accept_http_10: bool = False
    listener_filter_timeout: float | None = None
    dns_refresh: float | None = None
    pin_original_dst: bool = False
    header_style: HeaderStyle | None = None
    header_timeout: float = 60.0
    dns_family: DnsFamily | None = None  # None: IPv4


@dataclass(frozen=True, slots=True)
class Settings:
    """One compilation. `redirect_port` None: what the mesh settings say, else 15001."""

    profile: Profile = Profile.ISTIO
    options: Options = Options()
    identity: Identity = field(default_factory=Identity)
    redirect_port: int | None = None


def parse_profile(profile: str, compat: str | None) -> Profile:
    """The profile two words of the command line mean. Raises UsageError."""
    if profile not in PROFILES:
        raise UsageError(f"--profile: '{profile}' is not one of {', '.join(PROFILES)}")
    if compat is None:
        return Profile(profile)
    if compat not in COMPATS:
        raise UsageError(f"--compat: '{compat}' is not one of {', '.join(COMPATS)}")
    if profile != "istio":
        raise UsageError(f"--compat: there is no '{compat}' of profile {profile}, only of istio")
    return Profile.ISTIO_1_0


def parse_options(words: Iterable[str]) -> Options:
    """`KEY=VALUE` words as options; the last of a key wins. Raises UsageError."""
    options = Options()
    for word in words:
        key, equals, value = word.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or key not in _PARSERS:
            expected = ", ".join(f"{name}=…" for name in _PARSERS)
            raise UsageError(f"--option: '{word}' is not one of {expected}")
        try:
            options = _PARSERS[key](options, value.strip())
        except ValueError as error:
            raise UsageError(f"--option {key}: {error}") from error
    return options


def parse_labels(text: str) -> tuple[tuple[str, str], ...]:
    """`k=v,…` as pairs. Raises UsageError."""
    labels: dict[str, str] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"--labels: '{word}' is not KEY=VALUE")
        labels[key] = value
    return tuple(labels.items())


def _boolean(text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in words:
        raise ValueError(f"'{text}' is not true or false")
    return words[text.lower()]


def _one_of(choices: type[_Choice], text: str) -> _Choice:
    values = [choice.value for choice in choices]
    if text not in values:
        raise ValueError(f"'{text}' is not one of {', '.join(values)}")
    return choices(text)


def _positive_duration(text: str) -> float:
    seconds = parse_duration(text)
    if seconds < 0.001:
        raise ValueError(f"'{text}' must be at least 1ms")
    return seconds


_PARSERS: Mapping[str, Callable[[Options, str], Options]] = {
    "accept_http_10": lambda options, text: replace(options, accept_http_10=_boolean(text)),
    "listener_filter_timeout": lambda options, text: replace(options, listener_filter_timeout=parse_duration(text)),
    "dns_refresh": lambda options, text: replace(options, dns_refresh=_positive_duration(text)),
    "pin_original_dst": lambda options, text: replace(options, pin_original_dst=_boolean(text)),
    "header_style": lambda options, text: replace(options, header_style=_one_of(HeaderStyle, text)),
    "header_timeout": lambda options, text: replace(options, header_timeout=_positive_duration(text)),
    "dns_family": lambda options, text: replace(options, dns_family=_one_of(DnsFamily, text)),
}
