"""A refused run is told which capability it lacks, and where to add it."""

from __future__ import annotations

import pytest

from mesh_iptables.apply.process import Result
from mesh_iptables.apply.restore import refusal
from mesh_iptables.apply.rights import remedy
from mesh_iptables.errors import MachineError

ADMIN, RAW = 1 << 12, 1 << 13


@pytest.mark.parametrize(
    ("needed", "effective", "user", "expected"),
    [
        (("NET_ADMIN",), 0, 0, "it lacks the capability NET_ADMIN (in a Pod: "),
        (("NET_ADMIN", "NET_RAW"), ADMIN, 0, "it lacks the capability NET_RAW (in a Pod: "),
        (("NET_ADMIN", "NET_RAW"), 0, 0, "it lacks the capabilities NET_ADMIN and NET_RAW (in a Pod: "),
        (("NET_ADMIN", "NET_RAW"), RAW, 1337, "it lacks the capability NET_ADMIN (in a Pod: "),
        (("NET_ADMIN",), 0, 1337, "user 1337 has no effective capability"),
        (("NET_ADMIN",), ADMIN, 0, "it needs root and the capability NET_ADMIN in the user namespace"),
    ],
)
def test_remedy_names_what_is_missing(needed: tuple[str, ...], effective: int, user: int, expected: str) -> None:
    assert remedy(needed, effective, user).startswith(expected)


def test_remedy_can_be_copied_into_a_pod() -> None:
    assert "securityContext: capabilities: {add: [NET_ADMIN, NET_RAW]}" in remedy(("NET_ADMIN", "NET_RAW"), ADMIN, 0)
    assert "securityContext: runAsUser: 0, capabilities: {add: [NET_ADMIN]}" in remedy(("NET_ADMIN",), 0, 1000)


def test_read_only_lock_path_has_its_own_remedy() -> None:
    said = "Fatal: can't open lock file /run/xtables.lock: Read-only file system\n"
    error = refusal("iptables-legacy-restore", Result(4, "", said), "")
    assert isinstance(error, MachineError)
    assert "XTABLES_LOCKFILE" in str(error)
