"""In a real Pod: the init container captures, the proxy governs, the application notices nothing but refusals."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from .engine import Engine
from .manifest import (
    APP_PORT,
    CAPTURE,
    GOVERN,
    ISTIO_ARGUMENTS,
    TODAY_ARGUMENTS,
    TPROXY_ARGUMENTS,
    Capture,
    client_command,
    injected_pod,
    pod,
)
from .outside import HOSTS, NETWORK, Outside

pytestmark = [pytest.mark.netns, pytest.mark.e2e]

BLACK_HOLE = 502  # what Istio answers for a host that no document names
LEGACY = ("NET_ADMIN", "NET_RAW")
CAPTURES = {
    "nf-tables": Capture(("--iptables", "nft", *ISTIO_ARGUMENTS)),
    "legacy": Capture(("--iptables", "legacy", *ISTIO_ARGUMENTS), LEGACY),
    "native-nft": Capture(("--backend", "nft", *ISTIO_ARGUMENTS)),
    "python-iptables": Capture(("--backend", "iptc", *ISTIO_ARGUMENTS), LEGACY),
    "tproxy": Capture(("-g", "1337", *TPROXY_ARGUMENTS), transparent=True),
    "tproxy-legacy": Capture(("--iptables", "legacy", "-g", "1337", *TPROXY_ARGUMENTS), LEGACY, transparent=True),
    "istio-1.2x": Capture(TODAY_ARGUMENTS),
    "istio-1.2x-native-nft": Capture(("--backend", "nft", *TODAY_ARGUMENTS)),
}

# The words of `inject`.
INJECTED = {
    "injected": (),
    "injected-1.2x": ("--dialect", "istio-1.2x"),
    "injected-1.2x-tproxy": ("--dialect", "istio-1.2x", "--mode", "TPROXY"),
}


class Running:
    """A Pod that has started."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self.name = name
        infra = json.loads(engine.run("pod", "inspect", name).out)["InfraContainerID"]
        network = json.loads(engine.run("inspect", infra).out)[0]["NetworkSettings"]["Networks"][NETWORK]
        self.addresses = (network["IPAddress"], network["GlobalIPv6Address"])
        self.pid = json.loads(engine.run("inspect", infra).out)[0]["State"]["Pid"]

    def fetch(self, *words: str) -> dict[str, Any]:
        """What the application's container gets."""
        return dict(json.loads(self._engine.run("exec", f"{self.name}-app", *client_command(*words)).out))

    def log(self, container: str) -> str:
        """What a container wrote."""
        done = self._engine.run("logs", f"{self.name}-{container}")
        return done.out + done.err

    def rules(self) -> list[str]:
        """All rules of the Pod's network namespace, of any kind, and its policy rules and routes."""
        script = "for p in iptables-legacy ip6tables-legacy iptables-nft ip6tables-nft; do $p-save | grep ^-A; done; "
        script += (
            "nft list ruleset | sed 's/counter packets [0-9]* bytes [0-9]*//'; ip rule; ip route show table 133; true"
        )
        return self._engine.namespace.run(
            "nsenter", f"--net=/proc/{self.pid}/ns/net", "sh", "-c", script
        ).stdout.splitlines()

    def wait_for_proxy(self) -> None:
        """Until the proxy answers; Kubernetes would ask its readiness probe."""
        script = "import socket; socket.create_connection(('127.0.0.1', 15000)).close()"
        words = ("nsenter", f"--net=/proc/{self.pid}/ns/net", sys.executable, "-Ic", script)
        deadline = time.monotonic() + 20
        while self._engine.namespace.run(*words, check=False).returncode:
            assert time.monotonic() < deadline, self.log(GOVERN)
            time.sleep(0.1)

    def capture_again(self) -> str:
        """Run the init container once more, in the same network namespace; its output."""
        done = self._engine.run("start", "--attach", f"{self.name}-{CAPTURE}")
        return done.out + done.err


@pytest.fixture(scope="module", params=[*CAPTURES, *INJECTED])
def running(request: pytest.FixtureRequest, engine: Engine, outside: Outside) -> Iterator[Running]:
    """A Pod of each kind, with its application."""
    assert outside
    name = f"traffic-{request.param.replace('.', '-')}"
    kind = request.param
    manifest = pod(name, CAPTURES[kind]) if kind in CAPTURES else injected_pod(name, *INJECTED[kind])
    engine.run("kube", "play", "--network", NETWORK, "-", stdin=manifest)
    started = Running(engine, name)
    started.wait_for_proxy()
    yield started
    engine.run("pod", "kill", name)


def test_allowed_host_is_reached_and_another_refused(running: Running) -> None:
    seen = running.fetch("http://allowed.example/", "http://refused.example/")
    status, answer = seen["http://allowed.example/"]
    assert (status, answer["name"], answer["here"]) == (200, "outside", HOSTS["allowed.example"][0])
    assert seen["http://refused.example/"][0] == BLACK_HOLE
    assert "allowed.example" in running.log(GOVERN)


def test_inbound_connection_arrives_through_the_proxy(running: Running, outside: Outside) -> None:
    url = f"http://{running.addresses[0]}:{APP_PORT}/"
    status, answer = outside.fetch(url)[url]
    assert (status, answer["name"]) == (200, "app")
    assert answer["peer"] != "10.90.0.1"  # that of the client itself


def test_init_container_can_run_again(running: Running) -> None:
    before = running.rules()
    running.capture_again()
    assert running.rules() == before
    assert running.fetch("http://refused.example/")["http://refused.example/"][0] == BLACK_HOLE


@pytest.mark.parametrize("running", [name for name in CAPTURES if "1.2x" in name], indirect=True)
def test_ipv6_is_governed_too(running: Running, outside: Outside) -> None:
    allowed, refused = (f"http://[{HOSTS[host][1]}]/={host}" for host in HOSTS)
    seen = running.fetch(allowed, refused)
    assert seen[allowed][0] == 200
    assert seen[allowed][1]["here"] == HOSTS["allowed.example"][1]
    assert seen[refused][0] == BLACK_HOLE
    url = f"http://[{running.addresses[1]}]:{APP_PORT}/"
    assert outside.fetch(url)[url][1]["name"] == "app"
