"""Compare two engines on random policies: the first process of fresh namespaces, started by `differential.py`.

Each policy is tried with one engine after the other in the same world. What differs is shrunk, document by document and
rule by rule, and printed as a fixture whose expectation is the real Envoy's answer.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import msgspec

from . import clients
from .clients import Answer
from .engines import Engine, EngineError, Settings, yaml_stream
from .generator import Do, Document, Trial, random_trial
from .say import say
from .schema import Http, Identity, Tcp, Tls
from .world import World, build

Outcome: TypeAlias = dict[str, Any]

ENGINES = ("envoy", "python")
SETTLE = 0.4  # seconds for the first look-ups
SHRINK_LIMIT = 60  # trials per disagreement
VOLATILE = {"x-request-id", "x-envoy-upstream-service-time", "date", "x-upstream-conn"}


class Comparison:
    def __init__(self, world: World) -> None:
        self._world = world
        self._count = 0

    def outcomes(self, trial: Trial, engine: str) -> list[Outcome]:
        """What each action gives with this engine; one failure for all where it does not start."""
        self._count += 1
        client = msgspec.convert(trial.client, Identity)
        settings = Settings(engine, trial.profile, trial.compat, {}, client)
        running = Engine(self._world, settings, list(trial.policies), f"{engine}{self._count}")
        try:
            running.wait_until_ready()
            time.sleep(SETTLE)
            return [self._outcome(action) for action in trial.actions]
        except EngineError as error:
            return [{"engine": str(error)[-300:]}] * len(trial.actions)
        finally:
            running.stop()

    def disagreements(self, trial: Trial) -> list[tuple[Do, Outcome, Outcome]]:
        """Actions with two outcomes. A difference must show again, alone: the first request may have been early."""
        first, second = (self.outcomes(trial, engine) for engine in ENGINES)
        suspects = [a for a, left, right in zip(trial.actions, first, second, strict=True) if left != right]
        if not suspects:
            return []
        again = replace(trial, actions=tuple(suspects))
        left, right = (self.outcomes(again, engine) for engine in ENGINES)
        return [each for each in zip(suspects, left, right, strict=True) if each[1] != each[2]]

    def _outcome(self, action: Do) -> Outcome:
        [(kind, fields)] = action.items()
        if kind == "http":
            return _answer(clients.http(msgspec.convert(fields, Http))[0])
        if kind == "tls":
            seen = clients.tls(msgspec.convert(fields, Tls), self._world.lab_root)
            return {"handshake": seen.result, "peer": seen.peer}
        dialogue = clients.tcp(msgspec.convert(fields, Tcp))
        pieces = [(piece.data.decode("latin-1"), piece.end) for piece in dialogue.pieces]
        return {"connect": dialogue.connect, "recv": pieces}

    def shrink(self, trial: Trial) -> Trial:
        """A smaller policy that still divides the engines on the trial's one action."""
        for _ in range(SHRINK_LIMIT):
            smaller = next((each for each in _smaller(trial) if self._tries(each)), None)
            if smaller is None:
                return trial
            trial = smaller
        return trial

    def _tries(self, trial: Trial) -> bool:
        left, right = (self.outcomes(trial, engine) for engine in ENGINES)
        if any("engine" in each for each in [*left, *right]):
            return False
        return left != right


def _answer(answer: Answer) -> Outcome:
    """Everything about an answer that must not differ."""
    if answer.error:
        return {"error": answer.error}
    echo = None
    body: object = answer.body.decode("latin-1")
    with suppress(msgspec.DecodeError):
        echo = msgspec.json.decode(answer.body)
    if isinstance(echo, dict) and "headers" in echo:
        headers = sorted((name.lower(), value) for name, value in echo["headers"])
        kept = [pair if pair[0] not in VOLATILE else (pair[0], "*") for pair in headers]
        body = {**echo, "headers": kept}
    names = sorted(pair if pair[0] not in VOLATILE else (pair[0], "*") for pair in answer.headers)
    lengthless = [pair for pair in names if pair[0] != "content-length" or not isinstance(body, dict)]
    return {"status": answer.status, "headers": lengthless, "body": body, "cut": answer.body_error}


# --- shrinking ----------------------------------------------------------------------------------------


def _smaller(trial: Trial) -> Iterator[Trial]:
    documents = list(trial.policies)
    for number in range(len(documents) - 1, -1, -1):
        yield replace(trial, policies=tuple(documents[:number] + documents[number + 1 :]))
    for number, document in enumerate(documents):
        for smaller in _smaller_values(document.get("spec")):
            changed: Document = {**document, "spec": smaller}
            yield replace(trial, policies=(*documents[:number], changed, *documents[number + 1 :]))


def _smaller_values(value: Any) -> Iterator[Any]:
    """The value with one list item or one optional key less, at any depth."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            if len(value) > 1:
                yield value[:number] + value[number + 1 :]
            for smaller in _smaller_values(item):
                yield [*value[:number], smaller, *value[number + 1 :]]
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in _NEEDED:
                yield {name: each for name, each in value.items() if name != key}
            for smaller in _smaller_values(item):
                yield {**value, key: smaller}


_NEEDED = {"hosts", "ports", "number", "name", "protocol", "destination", "host", "sources", "kind", "namespace"}


def as_fixture(trial: Trial, identity: str, envoy: Outcome, python: Outcome) -> str:
    """The disagreement as a fixture, for the person who mends it."""
    fixture: dict[str, Any] = {
        "schema": "egress-fixture/1",
        "id": identity,
        "profile": trial.profile,
        **({"compat": trial.compat} if trial.compat else {}),
        "world": "world.yaml",
        "client": trial.client,
        "policies": list(trial.policies),
        "cases": [{"id": "difference", "do": trial.actions[0], "expect": {}}],
    }
    notes = "".join(f"# {engine}: {said}\n" for engine, said in (("envoy", envoy), ("python", python)))
    return notes + yaml_stream([copy.deepcopy(fixture)])


def compare(comparison: Comparison, trial: Trial, name: str, *, shrink: bool, tell: Callable[[str], None]) -> int:
    """How many actions of one trial differ."""
    found = comparison.disagreements(trial)
    for number, (action, envoy, python) in enumerate(found):
        tell(f"DIFFERS {name} {action}\n    envoy  {envoy}\n    python {python}")
        if shrink and number == 0 and "engine" not in envoy and "engine" not in python:
            small = comparison.shrink(replace(trial, actions=(action,)))
            left, right = (comparison.outcomes(small, engine)[0] for engine in ENGINES)
            tell(as_fixture(small, f"differs-{name}", left, right))
    return len(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("world", type=Path)
    parser.add_argument("--pki", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", required=True)
    parser.add_argument("--numbers", type=int, nargs="+", required=True)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--shrink", action="store_true")
    options = parser.parse_args()
    clients.ANSWER_LIMIT = clients.HANDSHAKE_LIMIT = 4.0
    with build(options.world, options.pki, options.folder) as world:
        comparison = Comparison(world)
        for number in options.numbers:
            trial = random_trial(Random(f"{options.seed}:{number}"), options.requests)
            differing = compare(comparison, trial, str(number), shrink=options.shrink, tell=say)
            say(f"policy {number} {trial.profile} {len(trial.actions) - differing}/{len(trial.actions)}")


if __name__ == "__main__":
    main()
