"""Take the measurements: first process of fresh namespaces, started by `__main__.py`."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.egress.engines import resident
from tests.e2e.egress.say import say
from tests.e2e.egress.world import ROOT, World, allow_many_connections, build, run

from . import load
from .contenders import LOAD_CPU, contenders, on_cpu

WORLD = ROOT / "tests/e2e/egress/fixtures/world.yaml"
POLICY = Path(__file__).parent / "policy.yaml"
IDLE = 1000  # connections

ORIGIN = f"""
global
  nbthread 1
  maxconn 8000
defaults
  mode http
  timeout client 60s
  timeout http-keep-alive 60s
frontend origin
  bind {load.TARGET}:{load.HTTP}
  bind {load.TARGET}:{load.TCP}
  http-request return status 200 content-type text/plain string "fine, thank you\\n"
"""


@dataclass(frozen=True)
class Measure:
    """One figure: how it is taken, and the bar for ours / HAProxy."""

    name: str
    unit: str
    mode: str  # tcp or http
    take: Callable[[int, float], float]  # process number, seconds
    bar: float
    lower_is_better: bool = False


def _bulk(flows: int) -> Callable[[int, float], float]:
    def take(_process: int, seconds: float) -> float:
        words = [sys.executable, "-m", f"{__package__}.load", str(flows), str(seconds)]
        return float(run(*on_cpu(LOAD_CPU, words))) / 1e6

    return take


def _idle(process: int, _seconds: float) -> float:
    for sock in load.idle(50):  # what the first connections need is not theirs
        sock.close()
    time.sleep(0.3)
    before = resident(process)
    opened = load.idle(IDLE)
    time.sleep(0.3)
    grown = resident(process) - before
    for sock in opened:
        sock.close()
    return max(grown, 1) * 1000 / IDLE


MEASURES = [
    Measure("bulk 1 flow", "MB/s", "tcp", _bulk(1), 1.5),
    Measure("bulk 8 flows", "MB/s", "tcp", _bulk(8), 2.0),
    Measure("new connections", "1/s", "tcp", lambda _, s: load.wrk(load.TCP, s, connections=32, close=True)[0], 0.8),
    Measure(
        "ping-pong p50, 64 flows",
        "ms",
        "tcp",
        lambda _, s: load.wrk(load.TCP, s, connections=64)[1],
        1.3,
        lower_is_better=True,
    ),
    Measure("HTTP, 64 keep-alive", "1/s", "http", lambda _, s: load.wrk(load.HTTP, s, connections=64)[0], 0.8),
    Measure("1000 idle", "KiB", "tcp", _idle, 0.3, lower_is_better=True),
]
ENVOY_BAR = ("HTTP, 64 keep-alive", 1.8)


@contextmanager
def origins(world: World, outside: int) -> Iterator[None]:
    """The servers at the far end: HAProxy answers HTTP, a small source pours bytes."""
    config = world.folder / "origin.cfg"
    config.write_text(ORIGIN)
    far = ["nsenter", f"--net=/proc/{outside}/ns/net", "--"]
    http = on_cpu(LOAD_CPU, [*far, "haproxy", "-q", "-db", "-f", str(config)])
    source = on_cpu(LOAD_CPU, [*far, sys.executable, "-m", f"{__package__}.load", "source"])
    with subprocess.Popen(http, stdout=subprocess.DEVNULL) as one, subprocess.Popen(source) as two:
        try:
            time.sleep(0.5)
            yield
        finally:
            one.kill()
            two.kill()


def measure(world: World, rounds: int, seconds: float, only: str | None) -> bool:
    policy = world.folder / "policy.yaml"
    policy.write_text(POLICY.read_text())
    taking = contenders(world.folder, policy)
    world.folder.chmod(0o777)
    passed = True
    for each in MEASURES:
        if only and only not in each.name:
            continue
        figures: dict[str, list[float]] = {contender.name: [] for contender in taking}
        for number in range(rounds):
            for contender in taking if number % 2 == 0 else reversed(taking):
                with contender.running(each.mode) as process:
                    figures[contender.name].append(each.take(process, seconds))
        passed &= _report(each, figures)
    return passed


def _report(measure: Measure, figures: dict[str, list[float]]) -> bool:
    """Print medians, and the median ratio of runs of one turn: what slows the machine slows both."""
    medians = "  ".join(f"{name} {statistics.median(values):.4g}" for name, values in figures.items())
    say(f"{measure.name} ({measure.unit}): {medians}")
    bars = {"haproxy": measure.bar} | ({"envoy": ENVOY_BAR[1]} if measure.name == ENVOY_BAR[0] else {})
    passed = True
    for other in figures:
        if other == "ours":
            continue
        pairs = zip(figures["ours"], figures[other], strict=True)
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        good, verdict = _verdict(ratio, bars.get(other), lower_is_better=measure.lower_is_better)
        passed &= good
        say(f"    ours / {other} = {ratio:.2f}{verdict}")
    return passed


def _verdict(ratio: float, bar: float | None, *, lower_is_better: bool) -> tuple[bool, str]:
    if bar is None:
        return True, ""
    good = ratio <= bar if lower_is_better else ratio >= bar
    return good, f"  ({'reaches' if good else 'MISSES'} {'<=' if lower_is_better else '>='} {bar})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pki", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--only")
    options = parser.parse_args()
    with build(WORLD, options.pki, options.folder) as world, origins(world, world.outside.pid):
        allow_many_connections()
        passed = measure(world, options.rounds, options.seconds, options.only)
    say("all bars reached" if passed else "some bars missed")


if __name__ == "__main__":
    main()
