"""Random policies, random requests, two engines: print where they disagree."""

from __future__ import annotations

import argparse
import re
import secrets
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .pki import make_pki
from .runner import end_on_sigterm, in_fresh_namespaces, missing
from .say import say
from .schema import read_world

WORLD = Path(__file__).resolve().parent / "fixtures" / "world.yaml"
POLICY_LIMIT = 300.0  # seconds per policy, with the repeating of what it shows
SHRINKING_LIMIT = 600.0


def run_numbers(numbers: list[int], seed: str, requests: int, *, shrink: bool) -> tuple[int, int]:
    """(agreeing, all) requests of the policies with these numbers, in namespaces of their own."""
    scratch = Path(tempfile.mkdtemp(prefix="egress-"))
    scratch.chmod(0o755)
    folder = scratch / secrets.token_hex(4)
    folder.mkdir()
    agreed = total = 0
    try:
        described = read_world(WORLD)
        make_pki(scratch / "pki", described.hosts, described.pki.files)
        words = [f"{__package__}.comparison", str(WORLD), "--pki", str(scratch / "pki")]
        words += ["--folder", str(folder), "--seed", seed, "--requests", str(requests)]
        words += ["--numbers", *map(str, numbers), *(["--shrink"] if shrink else [])]
        limit = POLICY_LIMIT * len(numbers) + (SHRINKING_LIMIT if shrink else 0)
        with in_fresh_namespaces(words, limit) as process:
            assert process.stdout is not None
            for line in process.stdout:
                say(line.rstrip("\n"))
                if counted := re.match(r"policy \d+ \w+ (\d+)/(\d+) ", line):
                    agreed += int(counted[1])
                    total += int(counted[2])
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return agreed, total


def main() -> int:
    parser = argparse.ArgumentParser(prog="egress-differential", description=__doc__)
    parser.add_argument("--policies", type=int, default=20)
    parser.add_argument("--requests", type=int, default=20, help="per policy")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--only", type=int, action="append", metavar="N", help="only policy N of this seed")
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("-j", "--jobs", type=int, default=1)
    options = parser.parse_args()
    end_on_sigterm()
    if lack := missing():
        say(f"egress-differential: this machine {lack}", to=sys.stderr)
        return 11
    numbers = options.only or list(range(options.policies))
    shares = [share for share in (numbers[each :: options.jobs] for each in range(options.jobs)) if share]
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(
            pool.map(
                lambda share: run_numbers(share, options.seed, options.requests, shrink=not options.no_shrink),
                shares,
            )
        )
    agreed, total = sum(each[0] for each in results), sum(each[1] for each in results)
    say(f"{agreed}/{total} requests agree, {len(numbers)} policies, seed {options.seed}")
    return 0 if agreed == total == len(numbers) * options.requests else 1


if __name__ == "__main__":
    raise SystemExit(main())
