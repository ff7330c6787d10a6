"""Compare two engines on random policies: the first process of fresh namespaces, started by `differential.py`.

Each policy is tried with one engine after the other in the same world. What differs is shrunk, document by document and
rule by rule, and printed as a fixture whose expectation is the real Envoy's answer.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, TypeAlias, cast

import msgspec

from . import clients
from .clients import Answer, Dialogue, Piece
from .engines import Engine, EngineError, Settings, yaml_stream
from .generator import Trial, random_trial
from .random_requests import Do
from .say import say
from .schema import Curl, Http, Identity, Tcp, Tls, expand
from .vocabulary import Document, Fields
from .world import World, build

Outcome: TypeAlias = dict[str, Any]
Outcomes: TypeAlias = list[Outcome]  # one, unless chance decides
Differences: TypeAlias = list[tuple[Do, Outcomes, Outcomes]]

ENGINES = ("envoy", "python")
ROUNDS = 4  # of thorough tries, where chance decides
SHRINK_LIMIT = 60.0  # seconds per disagreement
CLOSED = (16, 18, 52, 55, 56)  # what curl says of it
RESET = "unreachable"  # what a client says of a connection that is reset before it has noticed that it was made
LATE = 0.7  # seconds; every delay of a trial is well below or well above
TIME_LEFT = "x-envoy-expected-rq-timeout-ms"
VOLATILE = {"x-request-id", "x-envoy-upstream-service-time", "date", "x-upstream-conn"}


@dataclass(frozen=True)
class Patience:
    """How long to wait for first look-ups, and how often to repeat what chance decides, for how long at most."""

    settle: float
    repeats: int
    seconds: float


SWIFT = Patience(settle=0.4, repeats=9, seconds=1.0)
THOROUGH = Patience(settle=1.0, repeats=40, seconds=15.0)


class Comparison:
    def __init__(self, world: World) -> None:
        self._world = world
        self._count = 0

    def outcomes(self, trial: Trial, engine: str, patience: Patience) -> list[Outcomes]:
        """What each action gives with this engine; one failure for all where it does not start."""
        self._count += 1
        client = msgspec.convert(trial.client, Identity)
        settings = Settings(engine, trial.profile, trial.compat, trial.options, client)
        running = Engine(self._world, settings, list(trial.policies), f"{engine}{self._count}")
        try:
            running.wait_until_ready()
            time.sleep(patience.settle)
            return [self._occurring(action, trial, patience) for action in trial.actions]
        except EngineError as error:
            return [[{"engine": str(error)[-300:]}]] * len(trial.actions)
        finally:
            running.stop()

    def _occurring(self, action: Do, trial: Trial, patience: Patience) -> Outcomes:
        """The outcome of an action; where chance has a say all that occur, in a fixed order."""
        limit = time.monotonic() + patience.seconds
        found = [self._outcome(action)]
        for _ in range(patience.repeats if trial.chance else 0):
            if time.monotonic() < limit and (outcome := self._outcome(action)) not in found:
                found.append(outcome)
        return sorted(found, key=repr)

    def disagreements(self, trial: Trial) -> Differences:
        """Actions with two outcomes. A difference must show again: the first time chance or haste may have made it."""
        found = self._differing(trial, SWIFT)
        if trial.chance:
            return self._still_differing(trial, found)
        # all actions again: a proxy remembers failures, so that earlier actions may matter
        suspects = [action for action, _, _ in found]
        return [each for each in self._differing(trial, THOROUGH) if each[0] in suspects] if found else []

    def _still_differing(self, trial: Trial, found: Differences) -> Differences:
        """What differs however often it is tried: with enough tries both engines show all that chance allows."""
        for _ in range(ROUNDS):
            if not found:
                break
            again = replace(trial, actions=tuple(action for action, _, _ in found))
            more = [self.outcomes(again, engine, THOROUGH) for engine in ENGINES]
            united = [
                (action, _united(envoy, more[0][number]), _united(python, more[1][number]))
                for number, (action, envoy, python) in enumerate(found)
            ]
            found = [each for each in united if each[1] != each[2]]
        return found

    def _differing(self, trial: Trial, patience: Patience) -> Differences:
        left, right = (self.outcomes(trial, engine, patience) for engine in ENGINES)
        return [each for each in zip(trial.actions, left, right, strict=True) if each[1] != each[2]]

    def _outcome(self, action: Do) -> Outcome:
        """What one action gave; every use of `{{uniq}}` is a new one, of the same length."""
        self._count += 1
        uniq = f"u{self._count:09d}"
        [(kind, fields)] = expand(action, uniq).items()
        outcome = self._of_kind(kind, fields)
        return cast(Outcome, json.loads(json.dumps(outcome).replace(uniq, "uniq")))

    def _of_kind(self, kind: str, fields: Fields) -> Outcome:
        if kind == "http":
            http = msgspec.convert(fields, Http)
            return {"answers": [_answer(each, hasty=http.expect100) for each in clients.http(http)]}
        if kind == "tls":
            seen = clients.tls(msgspec.convert(fields, Tls), self._world.lab_root)
            inside = {"inside": _answer(seen.answer)} if seen.answer else {}
            return {"handshake": _closed(seen.result), "peer": seen.peer, **inside}
        if kind == "curl":
            ran = clients.curl(msgspec.convert(fields, Curl), self._world.lab_root)
            # how curl calls an end without an answer depends on what it and the proxy have read by then
            return {"exit": "closed" if ran.exit in CLOSED and not ran.out else ran.exit, **_curl_answer(ran.out)}
        tcp = msgspec.convert(fields, Tcp)
        dialogue = clients.tcp(tcp)
        if dialogue.connect == RESET:
            dialogue = Dialogue("ok", [Piece(end="closed") for step in tcp.script if step.recv is not None])
        return {"connect": dialogue.connect, "recv": [_piece(piece) for piece in dialogue.pieces]}

    def shrink(self, trial: Trial, number: int) -> Trial:
        """A smaller trial that still divides the engines: its action `number`, after as few others as possible."""
        alone = replace(trial, actions=(trial.actions[number],))
        trial = alone if self._divides(alone) else replace(trial, actions=trial.actions[: number + 1])
        limit = time.monotonic() + SHRINK_LIMIT
        while time.monotonic() < limit:
            smaller = next((each for each in _smaller(trial) if time.monotonic() < limit and self._divides(each)), None)
            if smaller is None:
                return trial
            trial = smaller
        return trial

    def _divides(self, trial: Trial) -> bool:
        left, right = (self.outcomes(trial, engine, SWIFT) for engine in ENGINES)
        if any("engine" in outcome for each in [*left, *right] for outcome in each):
            return False
        return left[-1] != right[-1]


def _steady(name: str, value: str) -> tuple[str, str]:
    """A field without what differs from one time to the next."""
    if name == TIME_LEFT and value.isdecimal():
        return name, str(-(-int(value) // 100) * 100)  # of a further try it is some milliseconds less
    return name, "*" if name in VOLATILE else value


def _closed(error: str) -> str:
    return "closed" if error == RESET else error


def _united(some: Outcomes, others: Outcomes) -> Outcomes:
    return sorted([*some, *(each for each in others if each not in some)], key=repr)


def _answer(answer: Answer, *, hasty: bool = False) -> Outcome:
    """Everything about an answer that must not differ.

    `hasty`: the body was sent while the proxy was already busy; whether it has come by the time of a failure, and so
    whether the connection can be kept, is chance.
    """
    if answer.error:
        return {"error": _closed(answer.error)}
    echo = None
    body: object = answer.body.decode("latin-1")
    with suppress(msgspec.DecodeError):
        echo = msgspec.json.decode(answer.body)
    if isinstance(echo, dict) and "headers" in echo:
        body = {**echo, "headers": sorted(_steady(name.lower(), value) for name, value in echo["headers"])}
    names = sorted(_steady(name, value) for name, value in answer.headers)
    names = [pair for pair in names if pair[0] != "connection"] if hasty else names
    lengthless = [pair for pair in names if pair[0] != "content-length" or not isinstance(body, dict)]
    outcome = {"status": answer.status, "headers": lengthless, "body": body, "cut": answer.body_error}
    outcome |= {"interim": answer.interim, "tunnel": answer.tunnel}
    # how soon a broken answer is followed by the end is left to the proxy
    return outcome | {"late": answer.elapsed > LATE and not answer.body_error}


def _curl_answer(out: str) -> Outcome:
    """What curl printed with -i: the last head before the body, like any other answer."""
    head, _, body = out.replace("\r\n", "\n").partition("\n\n")
    if head.startswith("HTTP/1.1 101"):
        head, _, body = body.partition("\n\n")
    line, *fields = head.split("\n")
    pairs = [(name.lower(), value.strip()) for name, _, value in (each.partition(":") for each in fields)]
    return {"line": line.strip(), "answer": _answer(Answer(headers=pairs, body=body.encode()))}


def _piece(piece: Piece) -> Outcome:
    """Bytes as they are, or an HTTP answer like any other."""
    text = piece.data.decode("latin-1")
    if not text.startswith("HTTP/1."):
        return {"data": text, "end": piece.end}
    head, _, body = text.partition("\r\n\r\n")
    line, *fields = head.split("\r\n")
    pairs = [(name.lower(), value.strip()) for name, _, value in (each.partition(":") for each in fields)]
    return {"line": line, "answer": _answer(Answer(headers=pairs, body=body.encode("latin-1"))), "end": piece.end}


# --- shrinking ----------------------------------------------------------------------------------------


def _smaller(trial: Trial) -> Iterator[Trial]:
    documents = list(trial.policies)
    for number in range(len(trial.actions) - 1):
        yield replace(trial, actions=trial.actions[:number] + trial.actions[number + 1 :])
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


def as_fixture(trial: Trial, identity: str, envoy: Outcomes, python: Outcomes) -> str:
    """The disagreement as a fixture, for the person who mends it."""
    fixture: dict[str, Any] = {
        "schema": "egress-fixture/1",
        "id": identity,
        "profile": trial.profile,
        **({"compat": trial.compat} if trial.compat else {}),
        "options": trial.options,
        "world": "world.yaml",
        "client": trial.client,
        "policies": list(trial.policies),
        "cases": [{"id": f"step{n}", "do": action, "expect": {}} for n, action in enumerate(trial.actions)],
    }
    notes = "".join(f"# {engine}: {said}\n" for engine, said in (("envoy", envoy), ("python", python)))
    return notes + yaml_stream([copy.deepcopy(fixture)])


def compare(comparison: Comparison, trial: Trial, name: str, *, shrink: bool, tell: Callable[[str], None]) -> int:
    """How many actions of one trial differ."""
    found = comparison.disagreements(trial)
    for number, (action, envoy, python) in enumerate(found):
        tell(f"DIFFERS {name} {action}\n    envoy  {envoy}\n    python {python}")
        if shrink and number == 0 and "engine" not in envoy[0] and "engine" not in python[0]:
            small = comparison.shrink(trial, trial.actions.index(action))
            left, right = (comparison.outcomes(small, engine, SWIFT)[-1] for engine in ENGINES)
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
    clients.ANSWER_LIMIT = clients.HANDSHAKE_LIMIT = 3.0
    with build(options.world, options.pki, options.folder) as world:
        comparison = Comparison(world)
        for number in options.numbers:
            started = time.monotonic()
            trial = random_trial(Random(f"{options.seed}:{number}"), options.requests)
            differing = compare(comparison, trial, str(number), shrink=options.shrink, tell=say)
            took = time.monotonic() - started
            say(f"policy {number} {trial.profile} {len(trial.actions) - differing}/{len(trial.actions)} {took:.0f} s")


if __name__ == "__main__":
    main()
