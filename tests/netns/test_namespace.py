"""The stand-in Pods of the other tests."""

from __future__ import annotations

import os

from tests.netns.namespace import Namespace


def test_a_namespace_is_another_one_with_lo_up(namespace: Namespace) -> None:
    home = os.stat("/proc/thread-self/ns/net").st_ino
    with namespace.entered():
        assert os.stat("/proc/thread-self/ns/net").st_ino != home
    assert os.stat("/proc/thread-self/ns/net").st_ino == home
    assert "UP" in namespace.run("ip", "link", "show", "lo").stdout


def test_our_command_runs_in_there(namespace: Namespace) -> None:
    namespace.mesh_iptables("apply", "-u", "1337", "--backend", "restore", "--iptables", "legacy")
    assert "-A OUTPUT -p tcp -j ISTIO_OUTPUT" in namespace.saved()["iptables-legacy-save"]
