"""Random policies and what to try on them.

Everything comes from one seeded `Random`. What chance decides in the proxy (weights, several addresses) is marked, so
that it is compared as the set of outcomes that occur; everything else is compared answer by answer. A policy that the
compiler rejects would start no engine: another one is drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from mesh_iptables.policy.compile import compile_sources
from mesh_iptables.policy.settings import Settings, parse_options, parse_profile

from .random_istio import istio_documents
from .random_osm import osm_documents
from .random_requests import Do, Places, random_action
from .vocabulary import Document, Fields, weighted

CLIENT: Fields = {"namespace": "shop", "serviceAccount": "till", "labels": {"app": "shop"}}


@dataclass(frozen=True)
class Trial:
    """One policy set, what it is compiled for, and the actions to try."""

    profile: str
    compat: str | None
    client: Fields
    policies: tuple[Document, ...]
    actions: tuple[Do, ...]
    options: Fields = field(default_factory=dict)
    chance: bool = False


def random_trial(random: Random, requests: int) -> Trial:
    profile, compat = weighted(random, {("istio", None): 6, ("istio", "1.0"): 2, ("osm", None): 3})
    chance = random.random() < 0.2
    options = _options(random, profile, compat)
    documents = _documents(random, profile, compat, chance=chance)
    while not _is_accepted(documents, profile, compat, options):
        documents = _documents(random, profile, compat, chance=chance)
    places = Places(sorted(_hosts(documents)), sorted(_ports(documents)), websockets=not _speaks_http2(documents))
    actions = tuple(random_action(random, places) for _ in range(requests))
    return Trial(profile, compat, CLIENT, tuple(documents), actions, options, chance)


def _documents(random: Random, profile: str, compat: str | None, *, chance: bool) -> list[Document]:
    if profile == "osm":
        return osm_documents(random, chance=chance)
    return istio_documents(random, compat, chance=chance)


def _options(random: Random, profile: str, compat: str | None) -> Fields:
    options: Fields = {"listener_filter_timeout": "400ms"} if profile == "osm" else {}
    if profile == "istio" and compat is None and random.random() < 0.15:
        options["accept_http_10"] = True
    if profile == "istio" and random.random() < 0.05:
        options["pin_original_dst"] = True
    if random.random() < 0.1:
        options["header_style"] = random.choice(["envoy", "transparent"])
    return options


def _is_accepted(documents: Iterable[Document], profile: str, compat: str | None, options: Fields) -> bool:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)})
    chosen = parse_options(f"{name}={value}" for name, value in options.items())
    return not compile_sources([("policy", text)], [], Settings(parse_profile(profile, compat), chosen)).has_errors


def _hosts(documents: Iterable[Document]) -> set[str]:
    """Names that a client can ask for; a wildcard is asked for by the names of the vocabulary."""
    return {str(host) for each in documents for host in each["spec"].get("hosts", []) if "*" not in host}


def _ports(documents: Iterable[Document]) -> set[int]:
    ports: Iterable[Any] = [port for each in documents for port in each["spec"].get("ports", [])]
    return {int(port["number"]) for port in ports if isinstance(port, dict)}


def _speaks_http2(documents: Iterable[Document]) -> bool:
    text = json.dumps(list(documents))
    return any(word in text for word in ("HTTP2", "GRPC", "UPGRADE"))
