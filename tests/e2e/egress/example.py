"""Run one of `examples/` in namespaces: rules by mesh-iptables, the proxy with the example's policy, its commands.

`examples/NAME/commands` holds one shell command per line; `#=> TEXT` after a command is what its output must contain.
Comment lines are printed; `#proxy WORDS` and `#rules WORDS` are added to the two command lines of mesh-iptables.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from .engines import end, environment, program
from .pki import make_pki
from .runner import end_on_sigterm, in_fresh_namespaces, install_missing, missing
from .say import say
from .schema import read_world
from .world import ROOT, World, build

EXAMPLES = ROOT / "examples"
WORLD = EXAMPLES / "world.yaml"
START_LIMIT, COMMAND_LIMIT = 15.0, 30.0  # seconds


@dataclass
class Example:
    """What a `commands` file says."""

    rules: list[str] = field(default_factory=list)
    proxy: list[str] = field(default_factory=list)
    steps: list[tuple[str, str | None]] = field(default_factory=list)  # command or comment, expected text


def read_example(folder: Path) -> Example:
    example = Example()
    for line in (folder / "commands").read_text().splitlines():
        word, _, rest = line.partition(" ")
        if word == "#rules":
            example.rules += shlex.split(rest)
        elif word == "#proxy":
            example.proxy += shlex.split(rest)
        elif line:
            command, mark, expected = line.partition("#=>")
            example.steps.append((command.rstrip(), expected.strip() if mark else None))
    return example


def names() -> list[str]:
    return sorted(path.parent.name for path in EXAMPLES.glob("*/commands"))


def run_example(name: str) -> list[str]:
    """All that is printed; the last line says whether it went as expected."""
    scratch = Path(tempfile.mkdtemp(prefix="egress-"))
    scratch.chmod(0o755)
    try:
        (scratch / "world").mkdir()
        described = read_world(WORLD)
        make_pki(scratch / "pki", described.hosts, described.pki.files)
        lines: list[str] = []
        with in_fresh_namespaces([f"{__package__}.example", "--inside", str(scratch), name], 180) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.rstrip("\n"))
                say(lines[-1])
        return lines
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


# --- inside the namespaces ----------------------------------------------------------------------------


def _inside(scratch: Path, name: str) -> None:
    example = read_example(EXAMPLES / name)
    with build(WORLD, scratch / "pki", scratch / "world", redirect=False) as world:
        rules = ["-p", "15001", "-u", "1337", "-m", "REDIRECT", "-b", "", "-d", "", "-x", ""]
        rules += example.rules or ["-i", "*"]
        say(f"$ mesh-iptables {shlex.join(rules)}")
        subprocess.run([*program(), *rules], check=True, stdout=subprocess.DEVNULL, env=environment())
        policy = world.folder / "policy.yaml"
        words = example.proxy
        if (EXAMPLES / name / "policy.yaml").exists():
            shutil.copy(EXAMPLES / name / "policy.yaml", policy)
            words = ["--policy", str(policy), *words]
        say(f"$ mesh-iptables proxy {shlex.join(words).replace(str(policy), 'policy.yaml')} &")
        process = _start(world, words)
        try:
            results = [_step(world, *step) for step in example.steps]
        finally:
            end(process)
    say("as expected" if all(results) else "NOT as expected")


def _start(world: World, words: list[str]) -> subprocess.Popen[bytes]:
    uid = world.interception.proxy_uid
    log = (world.folder / "proxy.log").open("wb")
    process = subprocess.Popen(
        [*program(), "proxy", *words],
        stdout=log,
        stderr=log,
        user=uid,
        group=uid,
        extra_groups=[],
        cwd="/",
        env=environment(),
        start_new_session=True,
    )
    limit = time.monotonic() + START_LIMIT
    while time.monotonic() < limit and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", 15000), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            time.sleep(0.5)  # the first look-ups
            return process
    raise RuntimeError((world.folder / "proxy.log").read_text(errors="replace"))


def _step(world: World, command: str, expected: str | None) -> bool:
    """Print a comment or run a command; false if its output is not what was expected."""
    if command.startswith("#"):
        say("\n" + command)
        return True
    say(f"$ {command}")
    result = subprocess.run(
        ["sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=COMMAND_LIMIT,
        env={**os.environ, "LAB_ROOT": str(world.lab_root), "PYTHON": sys.executable, "no_proxy": "*"},
        check=False,
    )
    for line in result.stdout.rstrip().splitlines():
        say(f"  {line.rstrip()}")
    if expected is None or expected in result.stdout:
        return True
    say(f"  (expected: {expected})")
    return False


def main() -> int:
    parser = argparse.ArgumentParser(prog="example", description=f"Run an example: {', '.join(names())}.")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("name", choices=names(), metavar="NAME")
    options = parser.parse_args()
    if options.inside:
        _inside(options.inside, options.name)
        return 0
    install_missing()
    end_on_sigterm()
    if lack := missing():
        say(f"example: this machine {lack}", to=sys.stderr)
        return 11
    return 0 if run_example(options.name)[-1:] == ["as expected"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
