"""The policy as a whole: defaults, ports, lint, and documents that could be anything."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh_iptables.policy.compile import compile_policy, compile_sources
from mesh_iptables.policy.engine import PolicyIndex
from mesh_iptables.policy.envoy import Site, bootstrap
from mesh_iptables.policy.model import DefaultAction, Identity, Profile
from mesh_iptables.policy.settings import Options, Settings
from tests.unit.policy.samples import (
    HTTP,
    REGISTRY_ONLY,
    TLS,
    Fields,
    compiled,
    egress,
    entry,
    istio,
    mesh,
    policy_of,
    read,
    routes,
    text,
    to,
)


def _lint(*documents: Fields, options: Options = Options()) -> list[str]:  # noqa: B008
    return [each.id for each in compiled(*documents, options=options).complaints]


def test_nothing_configured_passes_today_and_is_closed_in_istio_1_0() -> None:
    assert policy_of().default is DefaultAction.PASSTHROUGH
    assert policy_of(profile=Profile.ISTIO_1_0).default is DefaultAction.BLACKHOLE
    assert policy_of(REGISTRY_ONLY).default is DefaultAction.BLACKHOLE


def test_the_last_mesh_settings_count() -> None:
    assert policy_of(mesh(proxyListenPort=15009), REGISTRY_ONLY).redirect_port == 15001
    assert policy_of(REGISTRY_ONLY, mesh(proxyListenPort=15009)).redirect_port == 15009


def test_original_destinations_that_a_name_alone_opens_are_reported() -> None:
    none = entry("a.x", resolution="NONE", ports=[HTTP, TLS])
    assert _lint(REGISTRY_ONLY, none) == ["W-ORIGDST-SPOOF", "W-ORIGDST-SPOOF", "W-SNI-SPOOF"]
    assert _lint(none) == []
    assert _lint(REGISTRY_ONLY, none, options=Options(pin_original_dst=True)) == []
    assert _lint(REGISTRY_ONLY, entry("a.x")) == []


def test_an_egress_proxy_that_is_not_known_is_reported() -> None:
    settings_ = mesh(outboundTrafficPolicy={"egressProxy": {"host": "a.x", "port": {"number": 80}}})
    assert _lint(settings_) == ["mesh-egress-proxy-unknown"]
    assert _lint(settings_, entry("a.x")) == []


def test_documents_of_another_profile_are_reported() -> None:
    assert _lint(egress((80, "tcp"))) == ["other-profile"]


def test_a_fatal_document_leaves_no_policy() -> None:
    assert compiled(mesh(outboundTrafficPolicy={"mode": "x"})).policy is None


def test_an_error_leaves_out_its_document_and_when_strict_everything() -> None:
    sources = [("p.yaml", text(REGISTRY_ONLY, entry("a b"), entry("good.x")))]
    loose = compile_sources(sources, [], Settings())
    assert loose.policy is not None
    assert "outbound|80||good.x" in loose.policy.clusters
    assert compile_sources(sources, [], Settings(), strict=True).policy is None


def test_a_destination_rule_holds_for_the_workloads_it_selects() -> None:
    rule = istio(
        "DestinationRule",
        {
            "host": "a.x",
            "workloadSelector": {"labels": {"app": "web"}},
            "trafficPolicy": {"connectionPool": {"tcp": {"connectTimeout": "3s"}}},
        },
    )
    for app, seconds in (("web", 3.0), ("db", 10.0)):
        policy = policy_of(entry("a.x"), rule, identity=Identity("default", "a", (("app", app),)))
        assert policy.clusters["outbound|80||a.x"].connect_timeout == seconds


def test_a_virtual_service_that_is_not_exported_to_the_workload_has_no_effect() -> None:
    service = routes("a.x", to("b.x"), exportTo=["."], metadata={"namespace": "ns2"})
    policy = policy_of(entry("a.x"), service)
    assert policy == policy_of(entry("a.x"))


# --- anything that can be written --------------------------------------------------------------------------

_GOOD_NAMES = st.sampled_from(["a.x", "b.x", "*.x", "c.y", "A.X.", "192.0.2.1"])
_NAMES = st.one_of(_GOOD_NAMES, _GOOD_NAMES, _GOOD_NAMES, st.sampled_from(["*", "a*.x", ""]))
_NUMBERS = st.sampled_from([1, 80, 80, 80, 443, 443, 15001, 65535])
_PORTS = st.fixed_dictionaries(
    {"number": _NUMBERS, "name": st.sampled_from(["p", "q", "r", "s"])},
    optional={
        "protocol": st.sampled_from(["HTTP", "TLS", "TCP", "MYSQL", "GRPC", "UDP", "", "what"]),
        "targetPort": _NUMBERS,
    },
)
_ADDRESSES = st.sampled_from(["192.0.2.1", "10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "2001:db8::1", "x", "0.0.0.0"])
_ENTRIES = st.fixed_dictionaries(
    {"hosts": st.lists(_NAMES, min_size=1, max_size=2), "ports": st.lists(_PORTS, min_size=1, max_size=2)},
    optional={
        "addresses": st.lists(_ADDRESSES, max_size=3),
        "resolution": st.sampled_from(["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN"]),
        "endpoints": st.lists(st.fixed_dictionaries({"address": _NAMES}), max_size=2),
        "exportTo": st.lists(st.sampled_from([".", "*", "~", "default"]), max_size=2),
    },
)
_DESTINATIONS = st.fixed_dictionaries(
    {"destination": st.fixed_dictionaries({"host": _NAMES}, optional={"subset": st.just("v")})},
    optional={"weight": st.sampled_from([0, 1, 99])},
)
_STRINGS = st.dictionaries(
    st.sampled_from(["exact", "prefix", "regex"]), st.sampled_from(["/a", "", "(", ".*"]), max_size=2
)
_HTTP_ROUTES = st.fixed_dictionaries(
    {},
    optional={
        "match": st.lists(
            st.fixed_dictionaries({}, optional={"uri": _STRINGS, "port": _NUMBERS, "method": _STRINGS}), max_size=2
        ),
        "route": st.lists(_DESTINATIONS, max_size=2),
        "redirect": st.fixed_dictionaries({"uri": st.just("/r")}),
        "rewrite": st.fixed_dictionaries({}, optional={"uri": st.just("/n"), "authority": _NAMES}),
        "timeout": st.sampled_from(["1s", "0s", "x"]),
    },
)
_L4_ROUTES = st.fixed_dictionaries(
    {"route": st.lists(_DESTINATIONS, max_size=2)},
    optional={
        "match": st.lists(
            st.fixed_dictionaries(
                {"sniHosts": st.lists(_NAMES, min_size=1, max_size=2)},
                optional={"destinationSubnets": st.lists(_ADDRESSES, max_size=2), "port": _NUMBERS},
            ),
            max_size=2,
        )
    },
)
_SERVICES = st.fixed_dictionaries(
    {"hosts": st.lists(_NAMES, min_size=1, max_size=2)},
    optional={
        "http": st.lists(_HTTP_ROUTES, max_size=3),
        "tls": st.lists(_L4_ROUTES, max_size=2),
        "tcp": st.lists(_L4_ROUTES, max_size=2),
    },
)
_DOCUMENTS = st.one_of(
    st.just(REGISTRY_ONLY),
    _ENTRIES.map(lambda spec: istio("ServiceEntry", spec)),
    _SERVICES.map(lambda spec: istio("VirtualService", spec)),
)


@pytest.mark.parametrize("profile", [Profile.ISTIO, Profile.ISTIO_1_0])
@settings(max_examples=60, deadline=None)
@given(documents=st.lists(_DOCUMENTS, max_size=6))
def test_whatever_is_accepted_compiles_and_can_be_looked_up_and_written(
    profile: Profile, documents: list[Fields]
) -> None:
    policy = compile_policy(read(*documents), Settings(profile)).policy
    assert policy is not None
    index = PolicyIndex(policy)
    for address, port in [("192.0.2.1", 80), ("10.1.2.3", 443), ("2001:db8::1", 15001)]:
        index.listener_for(address, port)
    json.dumps(bootstrap(policy, Site()))
    for listener in policy.listeners.values():
        matches = [chain.match for chain in listener.chains]
        assert len(set(matches)) == len(matches)


@settings(max_examples=40, deadline=None)
@given(documents=st.lists(_DOCUMENTS, max_size=5))
def test_a_rejected_document_leaves_the_same_policy_as_one_that_is_not_there(documents: list[Fields]) -> None:
    good = [each for each in documents if read(each).accepted]
    assert compile_policy(read(*documents), Settings()).policy == compile_policy(read(*good), Settings()).policy
