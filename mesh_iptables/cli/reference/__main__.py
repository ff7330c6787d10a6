"""Fill in the pages that are named: `python -m mesh_iptables.cli.reference docs/reference/*.md`."""

from __future__ import annotations

import sys
from pathlib import Path

from mesh_iptables.cli.reference.pages import filled


def main() -> None:
    """Rewrite what is another now, and say so."""
    for path in map(Path, sys.argv[1:]):
        before = path.read_text()
        after = filled(before)
        if after != before:
            path.write_text(after)
            print(path)


if __name__ == "__main__":
    main()
