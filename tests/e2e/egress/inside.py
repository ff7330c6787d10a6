"""Run one fixture: the first process of fresh namespaces, started by `runner.py`.

Prints one line per case, `ok ID` or `FAIL ID reason`; what `-v` adds is indented.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from . import clients, expectations
from .clients import Answer
from .engines import Engine, EngineError, Settings, environment, program, yaml_stream
from .say import say
from .schema import (
    Action,
    Case,
    Curl,
    CurlExpect,
    Dns,
    Expect,
    Fixture,
    Http,
    HttpExpect,
    Identity,
    Parallel,
    ParallelExpect,
    Tcp,
    TcpExpect,
    Tls,
    TlsExpect,
    Validate,
    ValidateExpect,
    read_fixture,
)
from .world import World, WorldError, build

MOST = 5  # complaints shown of one case
SETTLE = 0.5  # seconds for the engine's first look-ups, where a fixture asks for no warm-up


class Run:
    """One fixture in one world; an engine is started when the first case of its identity comes."""

    def __init__(self, fixture: Fixture, world: World, engine: str, *, verbose: bool) -> None:
        self._fixture = fixture
        self._world = world
        self._engine_name = engine
        self._verbose = verbose
        self._engine: Engine | None = None
        self._started = 0
        self._failed: dict[str, str] = {}  # by identity

    def close(self) -> None:
        if self._engine is not None:
            self._engine.stop()
            self._engine = None

    def run(self, case: Case) -> list[str]:
        """Complaints about one case, none if it passed."""
        try:
            if not isinstance(case.action, Validate | Dns | float | int):
                self._engine_for(case.client)
            complaints = self._repeat(case)
        except EngineError as error:
            return [str(error)]
        except Exception as error:  # a case that the harness cannot carry out must not hide the others
            return [f"the harness failed: {type(error).__name__}: {error}"]
        if len(complaints) > MOST:
            complaints = [*complaints[:MOST], f"and {len(complaints) - MOST} more"]
        if complaints and self._verbose and self._engine is not None:
            complaints.append("engine: " + self._engine.tail())
        return complaints

    def _settings(self, client: Identity) -> Settings:
        fixture = self._fixture
        allow = tuple(fixture.allow)
        return Settings(self._engine_name, fixture.profile, fixture.compat, fixture.options, client, allow)

    def _engine_for(self, client: Identity) -> None:
        """Have the engine of this identity running; every identity's engine needs the same port."""
        if self._engine is not None and self._engine.settings.client == client:
            return
        if failure := self._failed.get(repr(client)):
            raise EngineError(failure)
        self.close()
        self._started += 1
        name = f"engine{self._started}"
        self._engine = engine = Engine(self._world, self._settings(client), self._fixture.policies, name)
        try:
            engine.wait_until_ready()
        except EngineError as error:
            self._failed[repr(client)] = f"{error}\n{engine.tail()}" if self._verbose else str(error)
            self.close()
            raise EngineError(self._failed[repr(client)]) from error
        time.sleep(SETTLE if self._fixture.warmup is None else self._fixture.warmup)

    def _repeat(self, case: Case) -> list[str]:
        if isinstance(case.action, Http) and isinstance(case.expect, HttpExpect):
            return self._http(case.action, case.expect, case.repeat)
        return [each for _ in range(case.repeat) for each in self._once(case.action, case.expect, case)]

    def _http(self, action: Http, expect: HttpExpect, repeat: int) -> list[str]:
        wanted = expect.responses or [expect]
        watch = not action.fast and (expect.then is not None or wanted[-1].then is not None)
        complaints: list[str] = []
        every: list[Answer] = []
        for _ in range(repeat):
            self._world.outside.order({"forget": True})
            answers = clients.http(action, len(wanted), watch=watch)
            last = self._world.outside.order({"last": True})
            complaints += expectations.check_answers(expect, answers, last)
            every += answers
        return complaints + expectations.check_repeated(expect, every)

    def _once(self, action: Action, expect: Expect, case: Case) -> list[str]:
        world = self._world
        match action, expect:
            case Tls(), TlsExpect():
                watch = expect.response is not None and expect.response.then is not None
                return expectations.check_tls(expect, clients.tls(action, world.lab_root, watch=watch))
            case Tcp(), TcpExpect():
                return expectations.check_tcp(expect, clients.tcp(action))
            case Curl(), CurlExpect():
                return expectations.check_curl(expect, clients.curl(action, world.lab_root))
            case Parallel(), ParallelExpect():
                return expectations.check_parallel(expect, clients.parallel(action))
            case Validate(), ValidateExpect():
                return self._validate(action, expect, case.client)
            case Dns(), _:
                world.outside.order({"dns": action.set})
                time.sleep(action.wait)
            case float() | int(), _:
                time.sleep(action)
        return []

    def _validate(self, action: Validate, expect: ValidateExpect, client: Identity) -> list[str]:
        path = self._world.folder / "validate.yaml"
        path.write_text(yaml_stream(action.documents))
        words = [*program(), "policy", "check", "--policy", str(path), *self._settings(client).words()]
        result = subprocess.run(
            words, capture_output=True, text=True, env=environment(), cwd="/", timeout=60, check=False
        )
        said = result.stdout + result.stderr
        complaints: list[str] = []
        if expect.valid is not None and (result.returncode == 0) != expect.valid:
            complaints.append(f"policy check ended with status {result.returncode}: {said.strip()[-500:]}")
        wanted = expect.error if isinstance(expect.error, list) else [expect.error] if expect.error else []
        for each in wanted:
            if not re.search(rf"(?<![\w-]){re.escape(str(each))}(?![\w-])", said):
                complaints.append(f"policy check does not say {each}: {said.strip()[-500:]}")
        return complaints


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("fixture", type=Path)
    parser.add_argument("--pki", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--case", action="append")
    parser.add_argument("-v", "--verbose", action="store_true")
    options = parser.parse_args()
    fixture = read_fixture(options.fixture, options.run)
    try:
        _run(fixture, options)
    except WorldError as error:
        say(f"the world of {fixture.id} cannot be built: {error}")
        raise SystemExit(11) from error


def _run(fixture: Fixture, options: argparse.Namespace) -> None:
    with build(fixture.world, options.pki, options.folder) as world:
        run = Run(fixture, world, options.engine, verbose=options.verbose)
        try:
            for case in fixture.cases:
                if not options.case or case.id in options.case or _prepares(case):
                    _report(fixture, case, run.run)
        finally:
            run.close()


def _prepares(case: Case) -> bool:
    """Whether later cases depend on this one even when only they are asked for."""
    return isinstance(case.action, Dns)


def _report(fixture: Fixture, case: Case, run: Callable[[Case], list[str]]) -> None:
    started = time.monotonic()
    complaints = run(case)
    taken = time.monotonic() - started
    name = f"{fixture.id}/{case.id}"
    if not complaints:
        say(f"ok {name} ({taken:.1f} s)")
        return
    first, *more = "; ".join(complaints).splitlines()
    say("\n".join([f"FAIL {name} {first}", *(f"    {line}" for line in more)]))


if __name__ == "__main__":
    main()
