from __future__ import annotations

import pytest

from mesh_iptables.errors import UsageError
from mesh_iptables.policy.behaviours import behaviour_for
from mesh_iptables.policy.model import ExpectContinue, HeaderStyle, Profile
from mesh_iptables.policy.settings import Options, Settings, parse_labels, parse_options, parse_profile


def test_a_profile_and_a_compat_are_one_dialect() -> None:
    assert parse_profile("istio", None) is Profile.ISTIO
    assert parse_profile("istio", "1.0") is Profile.ISTIO_1_0
    assert parse_profile("osm", None) is Profile.OSM


@pytest.mark.parametrize(("profile", "compat"), [("linkerd", None), ("fence", None), ("istio", "1.1"), ("osm", "1.0")])
def test_other_dialects_are_refused(profile: str, compat: str | None) -> None:
    with pytest.raises(UsageError, match=r"--profile|--compat"):
        parse_profile(profile, compat)


def test_options_are_parsed_and_the_last_of_a_key_wins() -> None:
    words = [
        *("accept_http_10=true", "listener-filter-timeout=2s", "dns_refresh=5s", "pin_original_dst=yes"),
        *("header_style=envoy", "header_style=transparent", "header_timeout=1m"),
    ]
    assert parse_options(words) == Options(True, 2.0, 5.0, True, HeaderStyle.TRANSPARENT, 60.0)


@pytest.mark.parametrize(
    "word", ["x=1", "accept_http_10", "accept_http_10=maybe", "dns_refresh=0s", "header_timeout=5", "header_style=x"]
)
def test_a_wrong_option_is_refused_by_name(word: str) -> None:
    with pytest.raises(UsageError, match="--option"):
        parse_options([word])


def test_labels_are_pairs() -> None:
    assert parse_labels("a=b, c=,") == (("a", "b"), ("c", ""))
    with pytest.raises(UsageError, match="--labels"):
        parse_labels("a")


def test_each_profile_has_its_behaviour_and_options_come_on_top() -> None:
    istio = behaviour_for(Settings(Profile.ISTIO))
    assert (istio.header_style, istio.normalise_path, istio.attempt_count_header) == (HeaderStyle.ENVOY, True, True)
    old = behaviour_for(Settings(Profile.ISTIO_1_0))
    assert (old.normalise_path, old.attempt_count_header, old.expect_continue) == (False, False, ExpectContinue.ANSWER)
    osm = behaviour_for(Settings(Profile.OSM))
    assert (osm.header_style, osm.normalise_path) == (HeaderStyle.TRANSPARENT, True)
    style = behaviour_for(Settings(Profile.OSM, Options(header_style=HeaderStyle.ENVOY)))
    assert style.header_style is HeaderStyle.ENVOY


def test_names_are_refreshed_as_the_option_then_the_mesh_then_the_profile_says() -> None:
    assert behaviour_for(Settings(), dns_refresh=5.0).dns_refresh == 5.0
    assert behaviour_for(Settings(options=Options(dns_refresh=2.0)), dns_refresh=5.0).dns_refresh == 2.0
    assert behaviour_for(Settings()).dns_refresh == 60.0
