"""One engine with our images for all tests here; it is made when the first of them runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from .engine import Engine, missing, mounts_below, new_engine
from .images import make_images
from .outside import Outside, new_outside


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """podman with the images; nothing of it is left behind, or the last test that used it errs."""
    if reason := missing():
        _give_up(reason)
    folder = tmp_path_factory.mktemp("engine")
    before = _traces()
    with new_engine(folder) as made:
        probe = made.run("info", check=False)
        if probe.status:
            _give_up(f"podman does not work here: {probe.err.strip()}")
        make_images(made)
        yield made
    assert not mounts_below(folder)
    assert not folder.exists()
    assert not {name for name in _traces() - before if name.startswith(("netns-", made.namespace.name, "libpod"))}


def _give_up(reason: str) -> NoReturn:
    if os.environ.get("MESH_IPTABLES_REQUIRE_NETNS") == "1":
        pytest.fail(f"MESH_IPTABLES_REQUIRE_NETNS=1, but {reason}", pytrace=False)
    pytest.skip(reason)


def _traces() -> set[str]:
    """What podman makes outside of its folders: names of network namespaces, shared memory."""
    return {path.name for place in ("/run/netns", "/dev/shm") if Path(place).is_dir() for path in Path(place).iterdir()}


@pytest.fixture(scope="session")
def outside(engine: Engine) -> Iterator[Outside]:
    """The world that the Pods see: a network of the engine's, and a web server in the namespace they live in."""
    with new_outside(engine) as made:
        yield made


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Show what a Pod's client saw in full."""
    if op == "==" and isinstance(left, dict) and isinstance(right, dict):
        return ["seen and expected differ", json.dumps(left, indent=1), json.dumps(right, indent=1)]
    return None
