"""Give the soak checks namespaces and a limit in time."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from .differential import WORLD
from .pki import make_pki
from .runner import end_on_sigterm, in_fresh_namespaces, missing
from .say import say
from .schema import read_world
from .soak import CHECKS


def soak(engine: str, checks: list[str], scale: float) -> list[str]:
    """The line of each check, as it comes."""
    scratch = Path(tempfile.mkdtemp(prefix="egress-"))
    scratch.chmod(0o755)
    try:
        (scratch / "world").mkdir()
        described = read_world(WORLD)
        make_pki(scratch / "pki", described.hosts, described.pki.files)
        words = [f"{__package__}.soak", str(WORLD), "--pki", str(scratch / "pki")]
        words += ["--folder", str(scratch / "world"), "--engine", engine, "--scale", str(scale)]
        words += [word for check in checks for word in ("--check", check)]
        lines: list[str] = []
        with in_fresh_namespaces(words, limit=120 + 900 * scale) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.rstrip("\n"))
                say(lines[-1])
        return lines
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="egress-soak", description="Long and hard use of the proxy.")
    parser.add_argument("--engine", choices=["python", "envoy"], default="python")
    parser.add_argument("--check", action="append", default=[], choices=list(CHECKS), metavar="NAME")
    parser.add_argument("--scale", type=float, default=1.0, help="0.1 does a tenth")
    options = parser.parse_args()
    end_on_sigterm()
    if lack := missing():
        say(f"egress-soak: this machine {lack}", to=sys.stderr)
        return 11
    passed = [line for line in soak(options.engine, options.check, options.scale) if line.startswith("ok ")]
    wanted = options.check or list(CHECKS)
    say(f"{len(passed)}/{len(wanted)}")
    return 0 if len(passed) == len(wanted) else 1


if __name__ == "__main__":
    raise SystemExit(main())
