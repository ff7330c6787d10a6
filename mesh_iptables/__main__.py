"""The program: what an init container runs goes straight to work, everything else goes by way of click."""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

COMPLETION = "_MESH_IPTABLES_COMPLETE"


def main() -> None:
    """Run the command line of this process and end it."""
    words = sys.argv[1:]
    if COMPLETION in os.environ or not is_plain_run(words):
        from mesh_iptables.cli.main import run

        sys.exit(run(words))
    gc.disable()  # a short life, and ten thousand rules are no garbage
    from mesh_iptables.cli.rules import run

    _end(run(words))


def _end(status: int) -> NoReturn:
    """End at once: taking the interpreter apart would take longer than most of what came before."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # the reader of our output went away
        status = status or 1
    os._exit(status)


def is_plain_run(words: list[str]) -> bool:
    """Whether this is the original script's call: options only, or `apply` or `clean` first, and no call for help."""
    if "-h" in words or "--help" in words or "--version" in words:
        return False
    return not words or words[0] in ("apply", "clean", "render", "istio-iptables") or words[0].startswith("-")


if __name__ == "__main__":
    main()
