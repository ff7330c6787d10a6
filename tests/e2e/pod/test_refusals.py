"""What a container refuses: the application does not start, and one sentence says what is missing and what helps."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from .engine import Done, Engine
from .images import INIT, PROXY
from .manifest import CAPTURE, GOVERN, ISTIO_ARGUMENTS, TPROXY_ARGUMENTS, Capture, pod
from .outside import NETWORK, Outside

pytestmark = [pytest.mark.netns, pytest.mark.e2e]

REDIRECT, TPROXY = ISTIO_ARGUMENTS, TPROXY_ARGUMENTS
NFT, LEGACY = ("--iptables", "nft"), ("--iptables", "legacy")
NATIVE, IPTC = ("--backend", "nft"), ("--backend", "iptc")
ADMIN, RAW = "NET_ADMIN", "NET_RAW"
NO_ADMIN = "lacks the capability NET_ADMIN"
NO_RAW = "lacks the capability NET_RAW"
NEITHER = "lacks the capabilities NET_ADMIN and NET_RAW"
# What a container may do, how it is called, and what it says then; "": it succeeds.
RIGHTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "nft, all it needs": ((ADMIN,), (*NFT, *REDIRECT), ""),
    "nft, nothing": ((), (*NFT, *REDIRECT), NO_ADMIN),
    "nft, only NET_RAW": ((RAW,), (*NFT, *REDIRECT), NO_ADMIN),
    "nft, TPROXY": ((ADMIN,), (*NFT, *TPROXY), ""),
    "nft, TPROXY, nothing": ((), (*NFT, *TPROXY), NO_ADMIN),
    "native nft, all it needs": ((ADMIN,), (*NATIVE, *REDIRECT), ""),
    "native nft, nothing": ((), (*NATIVE, *REDIRECT), NO_ADMIN),
    "legacy, all it needs": ((ADMIN, RAW), (*LEGACY, *REDIRECT), ""),
    "legacy, TPROXY": ((ADMIN, RAW), (*LEGACY, *TPROXY), ""),
    "legacy, no NET_RAW": ((ADMIN,), (*LEGACY, *REDIRECT), NO_RAW),
    "legacy, no NET_ADMIN": ((RAW,), (*LEGACY, *REDIRECT), NO_ADMIN),
    "legacy, nothing": ((), (*LEGACY, *REDIRECT), NEITHER),
    "python-iptables, all it needs": ((ADMIN, RAW), (*IPTC, *REDIRECT), ""),
    "python-iptables, no NET_RAW": ((ADMIN,), (*IPTC, *REDIRECT), NO_RAW),
    "python-iptables, nothing": ((), (*IPTC, *REDIRECT), NEITHER),
}
LOCKED = ("--env", "XTABLES_LOCKFILE=/run/xtables.lock")
# As Kubernetes starts a container that is not root: added capabilities are not in effect.
AS_KUBERNETES = ("setpriv", "--ambient-caps=-all", "--inh-caps=-all", "mesh-iptables")
_numbers = count(1)


def run(engine: Engine, capabilities: tuple[str, ...], arguments: tuple[str, ...], *options: str) -> Done:
    """The init image with a read-only root and no more rights than these."""
    added = [f"--cap-add={name}" for name in capabilities]
    read_only = ("--read-only", "--read-only-tmpfs=false", "--security-opt=no-new-privileges")
    words = ("run", "--rm", "--network=none", "--cap-drop=all", *added, *read_only, *options)
    return engine.run(*words, *(() if "--entrypoint" in options else (INIT,)), *arguments, check=False)


@pytest.mark.parametrize("case", RIGHTS)
def test_missing_capability_is_named(engine: Engine, case: str) -> None:
    capabilities, arguments, sentence = RIGHTS[case]
    done = run(engine, capabilities, arguments)
    assert done.status == (11 if sentence else 0), done.err
    assert sentence in done.err
    assert len(done.err.splitlines()) == (1 if sentence else 0), done.err


@pytest.mark.parametrize("backend", [LEGACY, IPTC])
def test_read_only_lock_path_is_named(engine: Engine, backend: tuple[str, ...]) -> None:
    done = run(engine, (ADMIN, RAW), (*backend, *REDIRECT), *LOCKED)
    assert done.status == 11
    assert "/run/xtables.lock: Read-only file system; " in done.err
    assert "XTABLES_LOCKFILE" in done.err


@pytest.mark.parametrize("backend", [NFT, LEGACY, NATIVE, IPTC])
def test_user_without_effective_capability_is_told_so(engine: Engine, backend: tuple[str, ...]) -> None:
    call = (INIT, *AS_KUBERNETES[1:], *backend, *REDIRECT)
    done = run(engine, (ADMIN, RAW), call, "--user=1337", "--entrypoint", AS_KUBERNETES[0])
    assert done.status == 11
    assert "user 1337 has no effective capability" in done.err
    assert "runAsUser: 0" in done.err


def test_proxy_runs_with_nothing_but_its_user(engine: Engine) -> None:
    words = ("run", "--rm", "--network=none", "--cap-drop=all", "--read-only", "--read-only-tmpfs=false")
    assert "Usage: mesh-iptables proxy" in engine.run(*words, PROXY, "--help").out
    seen = engine.run(*words, "--entrypoint", "id", PROXY)
    assert seen.out.startswith("uid=1337(1337) gid=1337(1337)")


def test_init_image_is_small_and_its_default(engine: Engine) -> None:
    assert engine.size(INIT) <= 155_000_000


@pytest.fixture
def name(engine: Engine) -> Iterator[str]:
    """A name for a Pod."""
    chosen = f"refused-{next(_numbers)}"
    yield chosen
    engine.run("pod", "kill", chosen, check=False)


@pytest.mark.parametrize(
    ("capture", "sentence"),
    [
        (Capture((*NFT, *REDIRECT), ()), NO_ADMIN),
        (Capture((*LEGACY, *REDIRECT)), NO_RAW),
        (Capture(("-b", "80,,443")), "'80,,443' has an empty entry at position 2"),
    ],
    ids=["no NET_ADMIN", "legacy without NET_RAW", "wrong argument"],
)
def test_application_does_not_start_after_a_failing_init(
    engine: Engine, outside: Outside, name: str, capture: Capture, sentence: str
) -> None:
    assert outside
    done = engine.run("kube", "play", "--network", NETWORK, "-", stdin=pod(name, capture), check=False)
    assert done.status != 0
    log = engine.run("logs", f"{name}-{CAPTURE}")
    assert sentence in log.err
    assert len(log.err.splitlines()) == 1
    states = engine.run("ps", "--all", "--filter", f"pod={name}", "--format", "{{.Names}} {{.State}}").out
    assert f"{name}-app running" not in states
    assert engine.run("logs", f"{name}-{GOVERN}", check=False).err.count("listening") == 0
