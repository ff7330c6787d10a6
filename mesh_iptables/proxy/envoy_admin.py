"""What the supervisor asks of Envoy's admin port: to take no more connections, and whether any is still at work."""

from __future__ import annotations

import http.client
import re
from urllib.parse import quote

_TIMEOUT = 2.0
# Of all connections those that carry no requests count, and of the others their requests. Whoever has said nothing yet,
# where that is waited for, is in neither.
_COUNTS = {
    r"listener\.(?!admin)(?!.*\.worker_).*\.downstream_cx_active": 1,
    r"http\.outbound.*\.downstream_cx_active": -1,
    r"http\.outbound.*\.downstream_rq_active": 1,
}


def drain(address: str, port: int) -> None:
    """Close the listeners; end each HTTP connection with its next answer. Raises OSError."""
    for path in ("/drain_listeners?graceful&skip_exit", "/drain_listeners"):
        _ask("POST", address, port, path)


def busy(address: str, port: int) -> int:
    """How many requests and connections are under way. Raises OSError."""
    return count_busy(_ask("GET", address, port, f"/stats?filter={quote('downstream_(cx|rq)_active$')}"))


def count_busy(text: str) -> int:
    """The same from Envoy's statistics, lines of `NAME: NUMBER`."""
    total = 0
    for line in text.splitlines():
        name, _, value = line.rpartition(": ")
        sign = next((sign for pattern, sign in _COUNTS.items() if re.fullmatch(pattern, name)), 0)
        total += sign * int(value) if value.isdecimal() else 0
    return total


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
