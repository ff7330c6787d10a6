"""Our fixtures hold for both engines: the Python engine always, Envoy where it is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .runner import Runner

FIXTURES = Path(__file__).parent / "fixtures"
FILES = sorted(path for path in FIXTURES.glob("*.yaml") if path.stem != "world")
HAS_ENVOY = (Path(sys.executable).parent / "envoy").exists()
needs_envoy = pytest.mark.skipif(not HAS_ENVOY, reason="Envoy is not installed (extra 'envoy')")

pytestmark = [pytest.mark.netns, pytest.mark.e2e]


@pytest.fixture(scope="module", params=["python", pytest.param("envoy", marks=needs_envoy)])
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    runner = Runner(request.param, [], verbose=True, live=False)
    yield runner
    runner.close()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_fixture_holds(runner: Runner, path: Path) -> None:
    result = runner.run(path)
    failed = [line for line in result.lines if not line.startswith("ok ")]
    assert result.passed == result.total, "\n".join(failed)
