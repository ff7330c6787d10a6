"""What both ways to Envoy say about the place it runs at, and which addresses of names are of use there."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest
from click.testing import CliRunner

from mesh_iptables.cli.policy import policy
from mesh_iptables.cli.proxy import proxy
from mesh_iptables.cli.site import family_for
from mesh_iptables.errors import MachineError, UsageError
from mesh_iptables.policy.envoy import Site, bootstrap
from mesh_iptables.policy.model import EgressPolicy
from mesh_iptables.policy.settings import DnsFamily

_ORIGINATES_TLS = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec: {hosts: [a.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec: {host: a.example.com, trafficPolicy: {tls: {mode: SIMPLE}}}
"""
_WORDS = ["--admin", "127.0.0.1:15099", "--access-log", "/log", "--ca-bundle", "/ca"]
_POD = {"POD_NAME": "curl-7f9c", "INSTANCE_IP": "10.1.2.3", "POD_NAMESPACE": "shop"}


class _Engine:
    """Runs nothing, but remembers with what."""

    ran: object = None

    def __init__(self, _load: object, site: Site, _say: object, *, drain: float) -> None:
        self._site, self._drain = site, drain

    def run(self, policy: EgressPolicy) -> int:
        type(self).ran = bootstrap(policy, self._site)
        return 0


def test_proxy_runs_envoy_on_what_policy_envoy_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh_iptables.proxy.envoy.EnvoyEngine", _Engine)
    (tmp_path / "policy.yaml").write_text(_ORIGINATES_TLS)
    words = [*_WORDS, "--policy", str(tmp_path)]
    runner = CliRunner(env=_POD)
    runner.invoke(proxy, [*words, "--engine", "envoy"], standalone_mode=False, catch_exceptions=False)
    printed = runner.invoke(policy, ["envoy", *words, "--here"], standalone_mode=False, catch_exceptions=False)
    assert _Engine.ran == json.loads(printed.stdout)
    text = json.dumps(_Engine.ran)
    assert "sidecar~10.1.2.3~curl-7f9c.shop~" in text
    assert '{"filename": "/ca"}' in text


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.parametrize(
    ("own", "family"),
    [
        (["127.0.0.0/8", "10.1.2.3/32", "fe80::1/128"], DnsFamily.IPV4),
        (["127.0.0.0/8", "10.1.2.3/32", "fd00::3/128"], DnsFamily.IPV4),
        (["127.0.0.0/8", "::1/128", "fd00::3/128", "fe80::1/128"], DnsFamily.IPV6),
        (["127.0.0.0/8", "::1/128", "fe80::1/128"], DnsFamily.IPV4),
        (["fd00::3/128"], DnsFamily.IPV4),  # a kernel that does not tell about IPv4
        ([], DnsFamily.IPV4),
    ],
)
def test_only_a_pod_without_ipv4_looks_ipv6_addresses_up(own: list[str], family: DnsFamily) -> None:
    assert family_for(map(ip_network, own)) is family


@pytest.mark.parametrize(("words", "family"), [([], "V4_ONLY"), (["--option", "dns_family=ipv6"], "V6_ONLY")])
def test_the_user_may_say_which_addresses_are_looked_up(words: list[str], family: str) -> None:
    printed = CliRunner().invoke(policy, ["envoy", "--allow", "a.example.com", *words], standalone_mode=False)
    assert f'"dns_lookup_family": "{family}"' in printed.stdout


def test_envoy_takes_no_sockets_of_ours() -> None:
    words = ["--allow", "a.example.com", "--engine", "envoy", "--admin", "", "--listen-fd", "3"]
    with pytest.raises(UsageError, match=r"--listen-fd: 3: Envoy opens its ports itself; .* --engine python"):
        CliRunner().invoke(proxy, words, standalone_mode=False, catch_exceptions=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "mesh-iptables: proxy: warning: neither --policy nor --allow: every destination is let through\n"),
        (["--compat", "1.0"], ""),
        (["--allow", "a.example.com"], ""),
    ],
)
def test_a_proxy_without_any_policy_is_warned_about(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh_iptables.proxy.envoy.EnvoyEngine", _Engine)
    run = CliRunner().invoke(proxy, ["--engine", "envoy", *words], standalone_mode=False, catch_exceptions=False)
    assert run.stderr == said


def test_who_may_not_listen_transparently_hears_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_words: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("socket.socket.setsockopt", refused)
    words = ["--allow", "a.example.com", "--engine", "envoy", "--transparent"]
    with pytest.raises(MachineError, match=r"--transparent: Operation not permitted; .*NET_ADMIN"):
        CliRunner().invoke(proxy, words, standalone_mode=False, catch_exceptions=False)
