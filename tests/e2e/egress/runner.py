"""Give each fixture its own namespaces, bound its time, count what passed.

`unshare` makes the namespaces and runs `inside.py` as the first process in them. When that process ends or is killed,
the kernel ends every other process of the fixture and takes down networks, rules and mounts, so nothing is left
behind whatever happens, and runs cannot meet.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .pki import make_pki
from .say import say
from .schema import Curl, Dns, Fixture, FixtureError, Http, Tcp, read_fixture, read_world
from .world import ROOT

PACKAGES = {"openssl": "openssl", "curl": "curl", "ip": "iproute2", "unshare": "util-linux"}
NEEDED = [*PACKAGES, "iptables-restore"]
CASE_LIMIT = 45.0  # seconds, for one case that says nothing of its own time


@dataclass
class Result:
    """Lines as printed, and how many cases there were and passed."""

    fixture: str
    lines: list[str]
    passed: int = 0
    total: int = 0


def missing() -> str | None:
    """What this machine lacks to run fixtures, in words; None when it lacks nothing."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [name for name in NEEDED if shutil.which(name) is None]
    if absent:
        return f"needs the programs {', '.join(absent)}"
    tried = subprocess.run(["unshare", *_FRESH, "true"], capture_output=True, timeout=30, check=False)
    return None if tried.returncode == 0 else "may not make network, mount and process namespaces"


def install_missing() -> None:
    """Debian's packages for the programs that are not there."""
    absent = [name for name in NEEDED if shutil.which(name) is None]
    if not absent or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    packages = sorted({PACKAGES.get(name, "iptables") for name in absent})
    say(f"installing {' '.join(packages)}", to=sys.stderr)
    subprocess.run(["apt-get", "update", "-q"], stdout=sys.stderr, check=False, timeout=300)
    subprocess.run(["apt-get", "install", "-y", "-q", *packages], stdout=sys.stderr, check=False, timeout=600)


_running: set[subprocess.Popen[str]] = set()


def end_on_sigterm() -> None:
    """Let SIGTERM end what runs and unwind, so that scratch directories go too."""

    def end(_number: int, _frame: object) -> None:
        for process in list(_running):
            process.kill()
        sys.exit(143)

    signal.signal(signal.SIGTERM, end)


_FRESH = ["--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]


@contextmanager
def in_fresh_namespaces(words: list[str], limit: float) -> Iterator[subprocess.Popen[str]]:
    """A module and its arguments, running as first process of its own namespaces for at most `limit` seconds."""
    # --pdeathsig: nothing survives this process, however it ends
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", *_FRESH, "--", sys.executable, "-m", *words]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    ) as process:
        watchdog = threading.Timer(limit, process.kill)
        watchdog.start()
        _running.add(process)
        try:
            yield process
        finally:
            _running.discard(process)
            watchdog.cancel()
            process.kill()


class Runner:
    """Runs fixture files; certificates are made once per world file."""

    def __init__(self, engine: str, cases: list[str], *, verbose: bool, live: bool) -> None:
        self._engine = engine
        self._cases = cases
        self._verbose = verbose
        self._live = live
        self._pki: dict[Path, Path] = {}
        self._lock = threading.Lock()
        self._scratch = Path(tempfile.mkdtemp(prefix="egress-"))
        self._scratch.chmod(0o755)

    def close(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)

    def run(self, path: Path) -> Result:
        run = secrets.token_hex(4)
        try:
            fixture = read_fixture(path, run)
            wanted = [case.id for case in fixture.cases if not self._cases or case.id in self._cases]
            pki = self._pki_for(fixture.world)
        except FixtureError as error:
            reason = " ".join(str(error).split())
            return self._say(Result(path.stem, [f"FAIL {path.stem} {reason}"], total=1))
        folder = self._scratch / run
        folder.mkdir()
        result = Result(fixture.id, [], total=len(wanted))
        seen: set[str] = set()
        for line in self._lines(fixture, pki, folder, run):
            word, name, *_ = [*line.split(" "), "", ""]
            seen.add(name.removeprefix(f"{fixture.id}/")) if word in ("ok", "FAIL") else None
            result.passed += word == "ok" and name.removeprefix(f"{fixture.id}/") in wanted
            self._add(result, line)
        for case in wanted:
            if case not in seen:
                self._add(result, f"FAIL {fixture.id}/{case} did not run")
        return result

    def _pki_for(self, world: Path) -> Path:
        with self._lock:
            key = world.resolve()
            if key not in self._pki:
                described = read_world(world)
                folder = self._scratch / f"pki{len(self._pki)}"
                make_pki(folder, described.hosts, described.pki.files)
                self._pki[key] = folder
            return self._pki[key]

    def _lines(self, fixture: Fixture, pki: Path, folder: Path, run: str) -> Iterator[str]:
        """What the process inside prints, until it ends or its time is over."""
        words = [f"{__package__}.inside", str(fixture.path.resolve()), "--pki", str(pki), "--run", run]
        words += ["--folder", str(folder), "--engine", self._engine]
        words += [word for case in self._cases for word in ("--case", case)]
        words += ["--verbose"] if self._verbose else []
        with in_fresh_namespaces(words, time_limit(fixture)) as process:
            assert process.stdout is not None
            for line in process.stdout:
                yield line.rstrip("\n")

    def _add(self, result: Result, line: str) -> None:
        result.lines.append(line)
        if self._live:
            say(line)

    def _say(self, result: Result) -> Result:
        if self._live:
            say("\n".join(result.lines))
        return result


def time_limit(fixture: Fixture) -> float:
    """Seconds after which a fixture is ended, whatever it is doing."""
    limit = 60.0 + (fixture.warmup or 0.0)
    for case in fixture.cases:
        match case.action:
            case Tcp(script=script):
                limit += CASE_LIMIT + sum((step.recv or 0) + (step.sleep or 0) for step in script)
            case Dns(wait=seconds):
                limit += seconds
            case Http() | Curl():
                limit += CASE_LIMIT + 2 * case.repeat
            case float() | int():
                limit += float(case.action)
            case _:
                limit += CASE_LIMIT * case.repeat
    return limit


def run_files(paths: Iterable[Path], engine: str, cases: list[str], *, verbose: bool, jobs: int) -> list[Result]:
    """Run the files, `jobs` at a time; lines come out as they happen when it is one at a time."""
    runner = Runner(engine, cases, verbose=verbose, live=jobs == 1)
    results: list[Result] = []
    try:
        with ThreadPoolExecutor(jobs) as pool:
            for result in pool.map(runner.run, paths):
                results.append(result)
                if jobs > 1:
                    say("\n".join(result.lines))
    finally:
        runner.close()
    return results


def main() -> int:
    parser = argparse.ArgumentParser(prog="egress-conformance", description="Run egress fixtures.")
    parser.add_argument("--engine", choices=["python", "envoy"], default="python")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the engine's log of failed cases")
    parser.add_argument("--case", action="append", default=[], metavar="ID", help="only this case")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="fixtures at a time")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    options = parser.parse_args()
    end_on_sigterm()
    install_missing()
    if lack := missing():
        say(f"egress-conformance: this machine {lack}", to=sys.stderr)
        return 11
    results = run_files(options.files, options.engine, options.case, verbose=options.verbose, jobs=options.jobs)
    passed, total = sum(r.passed for r in results), sum(r.total for r in results)
    say(f"{passed}/{total}")
    return 0 if passed == total and total else 1
