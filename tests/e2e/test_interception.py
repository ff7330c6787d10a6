"""Rules and proxy together: however a connection came, the proxy takes it where it was meant to go."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from ..netns.namespace import ROOT, Namespace

pytestmark = pytest.mark.netns
POD, OUTSIDE = {"ipv4": "10.77.0.2", "ipv6": "[fd77::2]"}, {"ipv4": "10.77.0.1", "ipv6": "[fd77::1]"}
NEW = ("--dialect", "istio-1.2x", "--ip-family", "dual", "-u", "1337", "-i", "*")
OLD = ("-u", "1337", "-i", "*")
# Rules, options of the proxy, the families that the dialect captures.
WAYS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "istio-1.0 REDIRECT": ((*OLD, "-b", "*"), (), ("ipv4",)),
    "istio-1.0 REDIRECT, own inbound port": ((*OLD, "-b", "*"), (), ("ipv4",)),
    "istio-1.0 TPROXY": ((*OLD, "-b", "8080", "-m", "TPROXY"), ("--transparent",), ("ipv4",)),
    "istio-1.2x REDIRECT": ((*NEW, "-b", "*"), (), ("ipv4", "ipv6")),
    "istio-1.2x TPROXY": ((*NEW, "-b", "*", "-m", "TPROXY"), ("--transparent",), ("ipv4", "ipv6")),
}
HAS_ENVOY = bool(find_spec("envoy") or shutil.which("envoy"))
needs_envoy = pytest.mark.skipif(not HAS_ENVOY, reason="needs the program envoy (extra 'envoy')")
ENGINES = ["python", pytest.param("envoy", marks=needs_envoy)]


@contextmanager
def running(namespace: Namespace, *words: str, log: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a namespace, ended when the block ends."""
    with ExitStack() as stack:
        output = stack.enter_context(log.open("w")) if log else subprocess.DEVNULL
        command = ["ip", "netns", "exec", namespace.name, *words]
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(20)


def as_user(uid: int, *capabilities: str) -> tuple[str, ...]:
    kept = [f"+{name}" for name in capabilities]
    options = (f"--inh-caps={','.join(kept)}", f"--ambient-caps={','.join(kept)}") if kept else ()
    return ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *options)


def fetch(namespace: Namespace, url: str) -> str:
    """The status of a request by an ordinary user, tried again while the servers start."""
    words = (*as_user(1000), "curl", "-sS", "-o", "/dev/null", "-m", "4", "-w", "%{http_code}", url)
    for _ in range(40):
        if (done := namespace.run(*words, check=False)).returncode == 0:
            return done.stdout
        time.sleep(0.2)
    return done.stderr


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("way", WAYS)
def test_the_proxy_takes_every_captured_connection_where_it_was_meant_to_go(
    way: str, engine: str, pair: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    pod, outside = pair
    rules, options, families = WAYS[way]
    pod.mesh_iptables("apply", *rules, env={"INBOUND_CAPTURE_PORT": "15006"} if "own" in way else {})
    server = ("/usr/bin/python3", "-m", "http.server", "--bind", "::", "--directory", str(tmp_path))
    capabilities = ("net_admin",) if options else ()
    proxy = (sys.executable, "-m", "mesh_iptables", "proxy", "--engine", engine, "--admin", "", *options)
    log = tmp_path / "log"
    log.touch()
    tmp_path.chmod(0o755)
    with (
        running(pod, *as_user(0), *server, "8080"),
        running(outside, *server, "80"),
        running(pod, *as_user(1337, *capabilities), *proxy, log=log),
    ):
        for family in families:
            assert fetch(outside, f"http://{POD[family]}:8080/") == "200"
            assert fetch(pod, f"http://{OUTSIDE[family]}/") == "200"
    lines = log.read_text()
    for family in families:
        assert re.search(rf" InboundPassthroughCluster\w* {re.escape(POD[family])}:8080 ", lines), lines
        assert f"PassthroughCluster {OUTSIDE[family]}:80" in lines
