"""The policy documents: every kind, its fields, and everything that `policy check` can say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial

from msgspec import NODEFAULT, UNSET, inspect

from mesh_iptables.cli.reference.complaints import complaint_table
from mesh_iptables.cli.reference.tables import cell, code, codes, table
from mesh_iptables.policy import documents, istio_checks, osm_checks, settings
from mesh_iptables.policy.durations import Duration
from mesh_iptables.policy.model import RETRY_TOKENS, HeaderStyle

# --- kinds and their fields --------------------------------------------------------------------------------

_MESH_CONFIG_MAP = ("", "ConfigMap `istio`, key `data.mesh`")
_OSM_GROUPS = ("openservicemesh.io", "smi-spec.io")


def kinds() -> list[str]:
    """The kinds that are read."""
    every = {**documents._KINDS, _MESH_CONFIG_MAP: documents._MESH_CONFIG_MAP}
    rows = [
        (
            kind if kind.startswith("ConfigMap") else code(kind),
            codes("/".join(filter(None, (group, version))) for version in known.versions),
            "osm" if group.endswith(_OSM_GROUPS) else "istio",
            code(".".join(known.path)),
            "yes" if known.decisive else "",
        )
        for (group, kind), known in every.items()
    ]
    return table(("kind", "apiVersion", "profile", "its fields are in", "decisive"), rows)


# Text that must be one of a few words, by message and field.
WORDS: Mapping[tuple[str, str], Sequence[object]] = {
    ("MeshOutboundTrafficPolicy", "mode"): istio_checks.OUTBOUND_MODES,
    ("ServiceEntry", "location"): istio_checks.LOCATIONS,
    ("ServiceEntry", "resolution"): istio_checks.RESOLUTIONS,
    ("ServiceEntry", "configScope"): ("PUBLIC", "PRIVATE"),
    ("ServicePort", "protocol"): (
        *istio_checks.HTTP_PROTOCOLS,
        *istio_checks.TLS_PROTOCOLS,
        *istio_checks.TCP_PROTOCOLS,
    ),
    ("HttpRedirect", "redirectCode"): istio_checks.REDIRECT_CODES,
    ("HttpRetry", "retryOn"): (*sorted(RETRY_TOKENS), "numbers of statuses"),
    ("LoadBalancer", "simple"): istio_checks.BALANCERS,
    ("HttpPool", "h2UpgradePolicy"): istio_checks.H2_POLICIES,
    ("ClientTls", "mode"): ("DISABLE", "SIMPLE", "MUTUAL"),
    ("EgressPort", "protocol"): osm_checks.PROTOCOLS,
}
# Fields that are read and change nothing, by message.
NO_EFFECT = {
    "ServiceEndpoint": ("locality", "network", "serviceAccount"),
    "WorkloadEntry": ("locality", "network", "serviceAccount"),
    "ConsistentHash": ("minimumRingSize",),
    "SidecarEgress": ("port", "bind", "captureMode"),
    "UpstreamTrafficSetting": ("rateLimit", "httpRoutes"),
}


@dataclass(frozen=True)
class _Row:
    path: str
    value: str
    default: str
    remark: str


def fields_of(group: str, kind: str) -> list[str]:
    """All fields of one kind; a message that comes again is told by the place where it came first."""
    known = documents._KINDS[(group, kind)]
    rows = _rows(inspect.type_info(known.spec_type), "", {})
    return table(
        ("field", "value", "default", "note"),
        ((code(row.path), row.value, code(row.default), row.remark) for row in rows),
    )


def _rows(message: inspect.Type, path: str, seen: dict[type, str]) -> Iterator[_Row]:
    assert isinstance(message, inspect.StructType)
    seen[message.cls] = path
    for member in message.fields:
        name = member.encode_name
        here = f"{path}.{name}" if path else name
        suffix, inner = _inner(member.type)
        remark = "without effect" if name in NO_EFFECT.get(message.cls.__name__, ()) else ""
        if not isinstance(inner, inspect.StructType):
            yield _Row(here + suffix, _value(message.cls, name, inner), _default(member), _required(member) or remark)
        elif inner.cls in seen:
            yield _Row(here + suffix, f"as `{seen[inner.cls]}`", "", _required(member) or remark)
        else:
            yield from _rows(inner, here + suffix, seen)


def _inner(kind: inspect.Type) -> tuple[str, inspect.Type]:
    """What is behind lists, maps and "or nothing": the suffix of the path, and the type itself."""
    match kind:
        case inspect.UnionType(types=types):
            return _inner(next(each for each in types if not isinstance(each, inspect.NoneType)))
        case inspect.VarTupleType(item_type=item):
            return "[]", _inner(item)[1]
        case inspect.DictType(value_type=item) if isinstance(item, inspect.StructType):
            return ".NAME", item
    return "", kind


def _value(message: type, name: str, kind: inspect.Type) -> str:
    if words := WORDS.get((message.__name__, name)):
        return codes(map(str, words))
    match kind:
        case inspect.IntType(ge=low, le=high) if low is not None:
            return f"number from {low}" + ("" if high is None or high > 65535 else f" to {high}")
        case inspect.IntType():
            return "whole number"
        case inspect.FloatType():
            return "number"
        case inspect.BoolType():
            return "boolean"
        case inspect.DictType(value_type=inspect.IntType()):
            return "names with ports"
        case inspect.DictType():
            return "names with texts"
        case inspect.CustomType(cls=cls) if cls is Duration:
            return "duration"
    return "text"


def _default(member: inspect.Field) -> str:
    if member.default in (NODEFAULT, UNSET, None, "", 0, 0.0, (), False):
        return ""
    return str(member.default).lower() if isinstance(member.default, bool) else str(member.default)


def _required(member: inspect.Field) -> str:
    return "required" if member.required else ""


# --- options of the profile --------------------------------------------------------------------------------

PROFILE_OPTIONS = {
    "accept_http_10": "HTTP/1.0 is served, where the profile refuses it or takes it for no HTTP",
    "listener_filter_timeout": "how long the first bytes are waited for",
    "dns_refresh": "how long until a look-up that failed is tried again",
    "pin_original_dst": (
        "a ServiceEntry without resolution goes to the addresses of its host, not to where the client connected"
    ),
    "header_style": f"{codes(style.value for style in HeaderStyle)}: whose headers answers carry",
    "header_timeout": "how long a client may take for the head of a request",
    "dns_family": (
        f"{codes(family.value for family in settings.DnsFamily)}: which addresses of a name are looked up; without it "
        "`proxy` takes IPv6 where the pod has no IPv4, as Istio does, and `policy` takes IPv4"
    ),
}


def profile_options() -> list[str]:
    """The keys of `--option`."""
    rows = [
        (code(field.name), code(_profile_default(field.default)), cell(PROFILE_OPTIONS[field.name]))
        for field in fields(settings.Options)
    ]
    assert set(PROFILE_OPTIONS) == set(settings._PARSERS)
    return table(("key", "default", "meaning"), rows)


def _profile_default(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}s"
    return ""  # the profile's own


_KIND_PREFIXES = {
    ("networking.istio.io", "ServiceEntry"): ("se-", "pin-"),
    ("networking.istio.io", "WorkloadEntry"): ("we-",),
    ("networking.istio.io", "VirtualService"): ("vs-",),
    ("networking.istio.io", "DestinationRule"): ("dr-",),
    ("networking.istio.io", "Sidecar"): ("sidecar-",),
    ("install.istio.io", "IstioOperator"): ("mesh-",),
    ("policy.openservicemesh.io", "Egress"): ("eg-",),
    ("specs.smi-spec.io", "HTTPRouteGroup"): ("rg-",),
    ("policy.openservicemesh.io", "UpstreamTrafficSetting"): ("uts-",),
    ("config.openservicemesh.io", "MeshConfig"): (),
}
ALL_PREFIXES = tuple(prefix for prefixes in _KIND_PREFIXES.values() for prefix in prefixes)


def kind_section(group: str, kind: str) -> list[str]:
    """Fields and complaints of one kind."""
    prefixes = _KIND_PREFIXES[(group, kind)]
    return [*fields_of(group, kind), *(["", *complaint_table(prefixes)] if prefixes else [])]


SECTIONS: Mapping[str, Callable[[], list[str]]] = {
    "kinds": kinds,
    "profile options": profile_options,
    "complaints": partial(complaint_table, (), ALL_PREFIXES),
    **{f"kind {kind}": partial(kind_section, group, kind) for group, kind in documents._KINDS},
}
