"""What the supervisor asks of Envoy's admin port: to take no more connections, and whether any is still at work."""

from __future__ import annotations

import http.client
from urllib.parse import quote

_TIMEOUT = 2.0
# Requests under way, and connections that carry no requests. Whoever has said nothing yet is in neither.
_BUSY = r"^(http\.outbound.*\.downstream_rq_active|tcp\..*\.downstream_cx_active)$"


def drain(address: str, port: int) -> None:
    """Close the listeners; end each HTTP connection with its next answer. Raises OSError."""
    for path in ("/drain_listeners?graceful&skip_exit", "/drain_listeners"):
        _ask("POST", address, port, path)


def busy(address: str, port: int) -> int:
    """How many requests and connections are under way. Raises OSError."""
    lines = _ask("GET", address, port, f"/stats?filter={quote(_BUSY)}").splitlines()
    return sum(int(value) for value in (line.rpartition(": ")[2] for line in lines) if value.isdecimal())


def _ask(method: str, address: str, port: int, path: str) -> str:
    connection = http.client.HTTPConnection(address, port, timeout=_TIMEOUT)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except http.client.HTTPException as error:
        raise OSError(f"admin port: {error}") from error
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise OSError(f"admin port: {path}: {answer.status}")
    return text
