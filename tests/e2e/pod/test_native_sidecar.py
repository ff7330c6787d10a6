"""The proxy as a native sidecar: it governs the user's init containers, too, and ends after the application."""

from __future__ import annotations

import json

import pytest

from .engine import Engine
from .kubelet import Kubelet
from .manifest import CAPTURE, GOVERN, client_command, natively_injected
from .outside import HOSTS, Outside

pytestmark = [pytest.mark.netns, pytest.mark.e2e]

ALLOWED, REFUSED = "http://allowed.example/", "http://refused.example/"


@pytest.mark.parametrize("words", [(), ("--dialect", "istio-1.2x", "--mode", "TPROXY")])
def test_native_sidecar_governs_from_the_first_container_on(
    engine: Engine, outside: Outside, words: tuple[str, ...]
) -> None:
    assert outside
    kubelet = Kubelet(engine, *natively_injected(f"native-{len(words)}", *words))
    kubelet.start()
    assert list(kubelet.log) == [CAPTURE, "migrate"]
    app = json.loads(engine.run("exec", f"native-{len(words)}-app", *client_command(ALLOWED, REFUSED)).out)
    for seen in (json.loads(kubelet.log["migrate"]), app):
        assert seen[ALLOWED][0] == 200
        assert seen[ALLOWED][1]["here"] == HOSTS["allowed.example"][0]
        assert seen[REFUSED][0] == 502
    assert kubelet.stop()[GOVERN] == 0
    engine.run("pod", "rm", "--force", f"native-{len(words)}")
