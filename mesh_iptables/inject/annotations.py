"""What annotations of Istio, Linkerd, Kuma, Consul and OSM say about a Pod's traffic, in our own settings. Pure.

A value that cannot be read, and a wish that the chosen dialect cannot fulfil, is a refusal: captured or not, that
traffic would go another way than the manifest says. Other annotations of these meshes are warned about.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network

from mesh_iptables.dialects import dialect
from mesh_iptables.errors import shown
from mesh_iptables.inject.values import PROXY_ID, STATUS, Data, Path, Remark, Settings

MESHES = ("istio.io", "linkerd.io", "kuma.io", "consul.hashicorp.com", "openservicemesh.io")
ISTIO_STATUS = "sidecar.istio.io/status"
INJECT = "sidecar.istio.io/inject"
SWITCH = {
    **dict.fromkeys(("true", "yes", "y", "on", "1"), True),
    **dict.fromkeys(("false", "no", "n", "off", "0"), False),
}

Ranges = tuple[tuple[int, int], ...]


class _Wrong(ValueError):
    """A value that is none; the text goes on behind the value."""


# --- single values -----------------------------------------------------------------------------------------


def _entries(text: str, separator: str = ",") -> list[str]:
    entries = [entry.strip() for entry in text.split(separator)]
    if entries[-1] == "":  # one comma at the end is fine, and so is nothing at all
        entries.pop()
    if "" in entries:
        raise _Wrong("has an empty entry")
    return entries


_PORTS = re.compile(r"([0-9]{1,5})(?:[-:]([0-9]{1,5}))?")


def parse_ports(text: str) -> tuple[str, ...]:
    """`80,8000-8010,9000:9010` as iptables writes it. Raises ValueError."""
    return tuple(_port(entry) for entry in _entries(text))


def _port(entry: str) -> str:
    found = _PORTS.fullmatch(entry)
    low, high = (int(found[1]), int(found[2] or found[1])) if found and found[0].isascii() else (1, 0)
    if not low <= high <= 65535:
        raise _Wrong("expected ports from 0 to 65535, or ranges like 8000-8010")
    return str(low) if low == high else f"{low}:{high}"


def _ports_or_all(text: str) -> tuple[str, ...]:
    return ("*",) if text.strip() == "*" else parse_ports(text)


def _ranges(text: str) -> tuple[str, ...]:
    return tuple(map(_range, _entries(text)))


def _range(entry: str) -> str:
    try:
        network = ip_network(entry, strict=False)
    except ValueError:
        raise _Wrong("expected networks like 10.0.0.0/8") from None
    return entry if "/" in entry else f"{entry}/{network.prefixlen}"  # one of the dialects wants it said


def _ranges_or_all(text: str) -> tuple[str, ...]:
    return ("*",) if text.strip() == "*" else _ranges(text)


_INTERFACE = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,14}")


def _interfaces(text: str) -> tuple[str, ...]:
    entries = _entries(text)
    if not all(_INTERFACE.fullmatch(entry) for entry in entries):
        raise _Wrong("expected names of interfaces like eth1")
    return tuple(entries)


def _uids(text: str) -> tuple[str, ...]:
    entries = _entries(text)
    if not all(entry.isascii() and entry.isdigit() and int(entry[:12]) < 2**32 - 1 for entry in entries):
        raise _Wrong("expected numbers of users")
    return tuple(str(int(entry)) for entry in entries)


_KUMA = re.compile(r"(?:(?:(?:tcp|\*):)?\*:)?([0-9]{1,10})(?:-([0-9]{1,10}))?")


def _uids_of_all_ports(text: str) -> tuple[str, ...]:
    """Kuma's `[[protocol:]ports:]uids;…`, of which we can only say: all ports of these users."""
    found = []
    for entry in _entries(text, ";"):
        match = _KUMA.fullmatch(entry)
        low, high = (int(match[1]), int(match[2] or match[1])) if match and entry.isascii() else (1, 0)
        if not low <= high < 2**32 - 1:
            raise _Wrong(
                "names single ports or is none: only all ports of a user can be left alone, like 1000 or *:1000"
            )
        found.append(str(low) if low == high else f"{low}-{high}")
    return tuple(found)


def _mode(text: str) -> tuple[str, ...]:
    if text == "NONE":
        raise _Wrong(f'means no capture at all; say {INJECT}: "false"')
    if text not in ("REDIRECT", "TPROXY"):
        raise _Wrong("expected REDIRECT or TPROXY")
    return (text,)


def _nothing(text: str) -> tuple[str, ...]:
    if text.strip():
        raise _Wrong("cannot be done: no dialect leaves inbound connections alone by their source")
    return ()


# --- the table ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotation: its name, the setting of the rules it adds to, and the reader of its value.

    No setting: what it wishes for cannot be had, so that any value is refused.
    """

    name: str
    setting: str
    read: Callable[[str], tuple[str, ...]]


_ISTIO = "traffic.sidecar.istio.io/"
_CONSUL = "consul.hashicorp.com/transparent-proxy-exclude-"
ANNOTATIONS = (
    Annotation("sidecar.istio.io/interceptionMode", "mode", _mode),
    Annotation(f"{_ISTIO}includeInboundPorts", "inbound_ports", _ports_or_all),
    Annotation(f"{_ISTIO}excludeInboundPorts", "exclude_inbound_ports", parse_ports),
    Annotation(f"{_ISTIO}includeOutboundIPRanges", "outbound_ranges", _ranges_or_all),
    Annotation(f"{_ISTIO}excludeOutboundIPRanges", "exclude_outbound_ranges", _ranges),
    Annotation(f"{_ISTIO}includeOutboundPorts", "outbound_ports", parse_ports),
    Annotation(f"{_ISTIO}excludeOutboundPorts", "exclude_outbound_ports", parse_ports),
    Annotation(f"{_ISTIO}excludeInterfaces", "exclude_interfaces", _interfaces),
    Annotation(f"{_ISTIO}kubevirtInterfaces", "virtual_interfaces", _interfaces),
    Annotation("config.linkerd.io/skip-inbound-ports", "exclude_inbound_ports", parse_ports),
    Annotation("config.linkerd.io/skip-outbound-ports", "exclude_outbound_ports", parse_ports),
    Annotation("config.linkerd.io/skip-subnets", "", _nothing),
    Annotation("traffic.kuma.io/exclude-inbound-ports", "exclude_inbound_ports", parse_ports),
    Annotation("traffic.kuma.io/exclude-outbound-ports", "exclude_outbound_ports", parse_ports),
    Annotation("traffic.kuma.io/exclude-inbound-ips", "", _nothing),
    Annotation("traffic.kuma.io/exclude-outbound-ips", "exclude_outbound_ranges", _ranges),
    Annotation("traffic.kuma.io/exclude-outbound-ports-for-uids", "proxy_uid", _uids_of_all_ports),
    Annotation(f"{_CONSUL}inbound-ports", "exclude_inbound_ports", parse_ports),
    Annotation(f"{_CONSUL}outbound-ports", "exclude_outbound_ports", parse_ports),
    Annotation(f"{_CONSUL}outbound-cidrs", "exclude_outbound_ranges", _ranges),
    Annotation(f"{_CONSUL}uids", "proxy_uid", _uids),
    Annotation("openservicemesh.io/inbound-port-exclusion-list", "exclude_inbound_ports", parse_ports),
    Annotation("openservicemesh.io/outbound-port-exclusion-list", "exclude_outbound_ports", parse_ports),
    Annotation("openservicemesh.io/outbound-ip-range-exclusion-list", "exclude_outbound_ranges", _ranges),
    Annotation("openservicemesh.io/outbound-ip-range-inclusion-list", "outbound_ranges", _ranges_or_all),
)
BY_NAME = {annotation.name: annotation for annotation in ANNOTATIONS}
# Those that are read, but not as a setting of the rules.
OTHERS = (INJECT, ISTIO_STATUS, STATUS)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What annotations say, by the name of the setting: entries in their order, each once; and who said it first."""

    entries: Mapping[str, tuple[str, ...]]
    sources: Mapping[str, str]
    refusals: tuple[Remark, ...]
    warnings: tuple[Remark, ...]


def read_annotations(annotations: Mapping[str, Data], path: Path, settings: Settings) -> Wishes:
    """The wishes in a Pod's annotations; what is wrong with them is among its refusals."""
    known = {option.name for option in dialect(settings.dialect).options}
    entries: dict[str, tuple[str, ...]] = {}
    sources: dict[str, str] = {}
    refusals: list[Remark] = []
    for name, value in annotations.items():
        annotation = BY_NAME.get(name)
        if annotation is None:
            continue
        found = _read(annotation, value, known)
        if isinstance(found, str):
            refusals.append(Remark((*path, name), f"annotation {name}: {found}"))
        elif annotation.setting and not (annotation.setting not in known and not found):
            entries[annotation.setting] = _union(entries.get(annotation.setting, ()), found)
            sources.setdefault(annotation.setting, f"annotation {name}")
    return Wishes(entries, sources, tuple(refusals), tuple(_not_read(annotations, path)))


def _read(annotation: Annotation, value: Data, known: set[str]) -> tuple[str, ...] | str:
    """The entries of one annotation, or what is wrong with it."""
    if not isinstance(value, str):
        return f"{shown(str(value))} is not text; put it in quotes"
    try:
        found = annotation.read(value)
    except _Wrong as error:
        return f"{shown(value)} {error}"
    if found and annotation.setting and annotation.setting not in known:
        return f"{shown(value)} cannot be done by dialect istio-1.0; choose --dialect istio-1.2x"
    return found


def _union(first: Iterable[str], second: Iterable[str]) -> tuple[str, ...]:
    together = tuple(dict.fromkeys((*first, *second)))
    return ("*",) if "*" in together else together


def _not_read(annotations: Mapping[str, Data], path: Path) -> Iterator[Remark]:
    for name in annotations:
        if name not in BY_NAME and name not in OTHERS and is_of_a_mesh(name):
            yield Remark((*path, name), f"annotation {name}: has no effect here")


def is_of_a_mesh(name: str) -> bool:
    """Whether an annotation belongs to one of the meshes whose annotations are read."""
    domain = name.partition("/")[0]
    return "/" in name and any(domain == mesh or domain.endswith(f".{mesh}") for mesh in MESHES)


# --- ports that are left of a list -------------------------------------------------------------------------


def without(ports: Iterable[str], excluded: Iterable[str]) -> tuple[str, ...]:
    """A list of ports and ranges without others: `80,8000:8010` without `8005` is `80,8000:8004,8006:8010`."""
    left = [_bounds(port) for port in ports]
    for low, high in map(_bounds, excluded):
        left = [part for start, end in left for part in ((start, min(end, low - 1)), (max(start, high + 1), end))]
        left = list(dict.fromkeys((start, end) for start, end in left if start <= end))
    return tuple(str(low) if low == high else f"{low}:{high}" for low, high in left)


def _bounds(port: str) -> tuple[int, int]:
    low, colon, high = port.partition(":")
    return int(low), int(high) if colon else int(low)


def owners(extra: Iterable[str]) -> tuple[str, str]:
    """Users whose traffic is left alone, and groups where they are not the users' numbers: the proxy's own first."""
    users = _union((str(PROXY_ID),), extra)
    return ",".join(users), str(PROXY_ID) if len(users) > 1 else ""
