"""Fixtures for all tests: network namespaces of one's own."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.netns.namespace import Namespace, missing, new_namespace

NETNS = Path(__file__).parent / "netns"
_missing = functools.cache(missing)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in tests/netns carries the marker of its folder."""
    for item in items:
        if NETNS in item.path.parents:
            item.add_marker("netns")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs namespaces where there are none; fail where MESH_IPTABLES_REQUIRE_NETNS=1."""
    if item.get_closest_marker("netns") is None or not (reason := _missing()):
        return
    if os.environ.get("MESH_IPTABLES_REQUIRE_NETNS") == "1":
        pytest.fail(f"MESH_IPTABLES_REQUIRE_NETNS=1, but {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture
def make_namespace() -> Iterator[Callable[[], Namespace]]:
    """Makes network namespaces with `lo` up; all are removed after the test."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(new_namespace())


@pytest.fixture
def namespace(make_namespace: Callable[[], Namespace]) -> Namespace:
    """One fresh network namespace with `lo` up."""
    return make_namespace()
