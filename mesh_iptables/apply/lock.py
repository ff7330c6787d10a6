"""One run at a time in each network namespace, without a file: a Pod's root may be read-only.

The lock is an abstract socket address, which the kernel keeps per network namespace and takes back when its last
holder ends, however that happens. Who comes later connects to it and sleeps until the connection breaks.
"""

from __future__ import annotations

import _socket
import time

from mesh_iptables.errors import ApplyError

ADDRESS = "\0mesh-iptables"
Lock = _socket.socket  # held while it, or a copy in another process, is open
LOCK_STATUS = 4  # "resource problem", as iptables ends when it cannot get its lock


def take_lock(seconds: float) -> Lock:
    """Wait until this run is the only one here; ApplyError when that takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        lock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            lock.bind(ADDRESS)
        except OSError:
            lock.close()
            _wait_for_holder(deadline - time.monotonic(), seconds)
        else:
            lock.listen(64)
            return lock


def _wait_for_holder(left: float, seconds: float) -> None:
    """Sleep until the holder ends, at most `left` seconds; then raise ApplyError."""
    if left <= 0:
        raise ApplyError(f"another mesh-iptables works in this network namespace since {seconds:g} s", LOCK_STATUS)
    waiter = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    waiter.settimeout(left)
    try:
        waiter.connect(ADDRESS)
        waiter.recv(1)
    except OSError:
        time.sleep(0.002)  # between bind and listen, or gone already
    finally:
        waiter.close()
