"""How each profile behaves towards every connection, as a table, with the user's options on top. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mesh_iptables.policy.model import Behaviour, ExpectContinue, HeaderStyle, Profile
from mesh_iptables.policy.settings import DnsFamily, Settings

_PROFILES: Mapping[Profile, Behaviour] = {
    Profile.ISTIO: Behaviour(),
    Profile.ISTIO_1_0: Behaviour(
        normalise_path=False, attempt_count_header=False, expect_continue=ExpectContinue.ANSWER
    ),
    # Open Service Mesh itself does not normalise paths: `/status/../headers` would pass a rule for `/status.*`
    Profile.OSM: Behaviour(
        header_style=HeaderStyle.TRANSPARENT,
        attempt_count_header=False,
        expect_continue=ExpectContinue.ANSWER,
    ),
    # a fence decides by names alone, so that it need not touch what passes
    Profile.FENCE: Behaviour(header_style=HeaderStyle.TRANSPARENT, normalise_path=False, attempt_count_header=False),
}


def behaviour_for(settings: Settings, *, dns_refresh: float | None = None) -> Behaviour:
    """The behaviour of a profile; `dns_refresh` is what the mesh settings say, options come before it."""
    options = settings.options
    behaviour = _PROFILES[settings.profile]
    return replace(
        behaviour,
        header_style=options.header_style or behaviour.header_style,
        accept_http_10=options.accept_http_10,
        header_timeout=options.header_timeout,
        ipv6=options.dns_family is DnsFamily.IPV6,
        dns_refresh=options.dns_refresh or dns_refresh or behaviour.dns_refresh,
    )
