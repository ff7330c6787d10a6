"""Run one target under atheris, a fuzzer guided by coverage; see scripts/fuzz."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]  # installed by scripts/fuzz alone

with atheris.instrument_imports(include=["mesh_iptables"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Fuzz the target named first; further words are options of libFuzzer."""
    name = sys.argv.pop(1)
    corpus = Path(__file__).parent / "corpus" / name
    atheris.Setup([sys.argv[0], *sys.argv[1:], str(corpus)], TARGETS[name])
    atheris.Fuzz()


main()
