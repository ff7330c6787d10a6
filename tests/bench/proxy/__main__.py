"""Bring up namespaces for `inside.py` and pass on what it prints."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.e2e.egress.pki import make_pki
from tests.e2e.egress.runner import end_on_sigterm, in_fresh_namespaces, missing
from tests.e2e.egress.say import say
from tests.e2e.egress.schema import read_world

from .inside import WORLD


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench-proxy", description="Our proxy beside HAProxy and Envoy.")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each proxy per figure")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement")
    parser.add_argument("--only", metavar="TEXT", help="only figures whose name contains this")
    options = parser.parse_args()
    lack = missing() or next((f"needs {name}" for name in ("wrk", "haproxy") if not shutil.which(name)), None)
    end_on_sigterm()
    if lack:
        say(f"bench-proxy: this machine {lack}", to=sys.stderr)
        return 11
    scratch = Path(tempfile.mkdtemp(prefix="egress-"))
    scratch.chmod(0o755)
    try:
        (scratch / "world").mkdir()
        described = read_world(WORLD)
        make_pki(scratch / "pki", described.hosts, described.pki.files)
        return _run(scratch, options)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run(scratch: Path, options: argparse.Namespace) -> int:
    words = [f"{__package__}.inside", "--pki", str(scratch / "pki"), "--folder", str(scratch / "world")]
    words += ["--rounds", str(options.rounds), "--seconds", str(options.seconds)]
    words += ["--only", options.only] if options.only else []
    last = ""
    with in_fresh_namespaces(words, 60 + 60 * options.rounds * (options.seconds + 2)) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = line.rstrip("\n")
            say(last)
    return 0 if last == "all bars reached" else 1


if __name__ == "__main__":
    raise SystemExit(main())
