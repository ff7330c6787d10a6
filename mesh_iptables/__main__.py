"""The program: what an init container runs goes straight to work, everything else goes by way of click."""

from __future__ import annotations

import os
import sys

COMPLETION = "_MESH_IPTABLES_COMPLETE"


def main() -> None:
    """Run the command line of this process and end it."""
    words = sys.argv[1:]
    if COMPLETION in os.environ or not is_plain_run(words):
        from mesh_iptables.cli.main import run
    else:
        from mesh_iptables.cli.rules import run
    sys.exit(run(words))


def is_plain_run(words: list[str]) -> bool:
    """Whether this is the original script's call: options only, or `apply` or `clean` first, and no call for help."""
    if "-h" in words or "--help" in words or "--version" in words:
        return False
    return not words or words[0] in ("apply", "clean") or words[0].startswith("-")


if __name__ == "__main__":
    main()
