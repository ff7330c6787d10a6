"""Which network namespace this is, and how to get into another."""

from __future__ import annotations

import os

from mesh_iptables.errors import MachineError, UsageError, shown

FIRST_PID_NAMESPACE = "pid:[4026531836]"  # a constant of the kernel
FIRST_ONLY = "/proc/sys/net/core/netdev_max_backlog"  # a setting that only the first network namespace has
NEW_NET = 0x40000000


def is_first_namespace() -> bool:
    """Whether this is the machine's first network namespace, the node's own."""
    if os.path.exists(FIRST_ONLY):
        return True
    try:
        if os.readlink("/proc/self/ns/pid") != FIRST_PID_NAMESPACE:
            return False  # in a container process 1 is the container's own and tells nothing
        return os.readlink("/proc/self/ns/net") == os.readlink("/proc/1/ns/net")
    except OSError:
        return False


def namespace_path(name: str) -> str:
    """The file of a network namespace, by name (as `ip netns` keeps them) or by path."""
    return name if "/" in name else f"/run/netns/{name}"


def enter_namespace(name: str) -> None:
    """Move this process into a network namespace, by name (as `ip netns` keeps them) or by path."""
    import ctypes

    path = namespace_path(name)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError):
        raise UsageError(f"--netns: there is no network namespace {shown(name)}; `ip netns` lists them") from None
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.setns(descriptor, NEW_NET)
    number = ctypes.get_errno()
    os.close(descriptor)
    if failed:
        raise MachineError(f"--netns: cannot enter {shown(name)}: {os.strerror(number)}; it needs root")
