"""The deciding half of the proxy touches neither sockets nor clocks, and the other half is not needed to load it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mesh_iptables import proxy

PACKAGE = Path(proxy.__file__).parent
_PURE = """
    access_log answers balance cluster connection dns dns_message exchange express headers http1 http2 http2_upstream
    http_connection inbound mirror paths pools resolv router sniff stats surroundings tunnel upstream wire
"""
PURE = _PURE.split()
TOUCHING = {"os", "select", "signal", "subprocess", "random", "secrets", "ssl", "fcntl", "socket", "time"}
# formatting an address, and a time that is given: functions that read nothing
ALLOWED = {("dns_message", "socket"), ("access_log", "time")}
EDGE = {path.stem for path in PACKAGE.glob("*.py")} - set(PURE) - {"__init__"}


def imported(name: str) -> set[str]:
    """Dotted names that a module imports when it runs, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("name", PURE)
def test_what_decides_touches_nothing(name: str) -> None:
    touched = {dotted.partition(".")[0] for dotted in imported(name)} & TOUCHING
    assert {(name, module) for module in touched} <= ALLOWED


@pytest.mark.parametrize("name", PURE)
def test_what_decides_does_not_know_what_moves_bytes(name: str) -> None:
    known = {dotted.rpartition(".")[2] for dotted in imported(name) if dotted.startswith("mesh_iptables.proxy.")}
    assert known & EDGE <= {"request_ids"}
