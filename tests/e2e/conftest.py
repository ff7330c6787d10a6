"""What the tests of rules and proxy together stand on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ..netns.namespace import Namespace


@pytest.fixture
def pair(make_namespace: Callable[[], Namespace]) -> tuple[Namespace, Namespace]:
    """A Pod and the world outside, joined by a cable, IPv4 and IPv6."""
    pod, outside = make_namespace(), make_namespace()
    pod.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", outside.name)
    for namespace, number in ((pod, 2), (outside, 1)):
        namespace.run("ip", "address", "add", f"10.77.0.{number}/24", "dev", "eth0")
        namespace.run("ip", "address", "add", f"fd77::{number}/64", "dev", "eth0", "nodad")
        namespace.run("ip", "link", "set", "eth0", "up")
    return pod, outside
