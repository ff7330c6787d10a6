"""Which capability a refused run lacks, and what gives it: the last half of a message."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

NUMBERS = {"NET_ADMIN": 12, "NET_RAW": 13}
LOCK_REMEDY = (
    "mount an emptyDir at that folder, or set the environment variable XTABLES_LOCKFILE to a file that can be written, "
    "such as /dev/shm/xtables.lock"
)


def right_remedy(*needed: str) -> str:
    """What somebody should do who was refused a right; `needed` are capabilities without CAP_."""
    return remedy(needed, _effective(), os.geteuid())


def lacks_right(*needed: str) -> bool:
    """Whether a needed capability is not in effect."""
    return bool(_missing(needed, _effective()))


def remedy(needed: Sequence[str], effective: int, user: int) -> str:
    """The same for a process with these effective capabilities (as bits) and this user."""
    missing = _missing(needed, effective)
    if not missing:  # all there, but the network namespace belongs to another user namespace
        return f"it needs root and {_capabilities(needed)} in the user namespace that owns this network namespace"
    added = f"capabilities: {{add: [{', '.join(needed)}]}}"
    if user and not effective:
        return (
            f"user {user} has no effective capability, as Kubernetes gives those it adds to root alone; "
            f"run as root with {_capabilities(needed)} (securityContext: runAsUser: 0, {added})"
        )
    return f"it lacks {_capabilities(missing)} (in a Pod: securityContext: {added})"


def _missing(needed: Sequence[str], effective: int) -> list[str]:
    return [name for name in needed if not effective >> NUMBERS[name] & 1]


def _capabilities(names: Sequence[str]) -> str:
    return f"the capabilit{'ies' if len(names) > 1 else 'y'} {' and '.join(names)}"


def _effective() -> int:
    """The capabilities in effect, as bits; none where that cannot be read."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            found = next(line for line in status if line.startswith("CapEff:"))
    except (OSError, StopIteration):
        return 0
    return int(found.split()[1], 16)
