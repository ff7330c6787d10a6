"""Every example does what its comments say."""

from __future__ import annotations

import pytest

from .example import EXAMPLES, names, run_example


@pytest.mark.parametrize("name", names())
def test_example_has_a_page(name: str) -> None:
    assert f"scripts/example {name}" in (EXAMPLES / name / "README.md").read_text()


@pytest.mark.netns
@pytest.mark.e2e
@pytest.mark.parametrize("name", names())
def test_example_runs_as_expected(name: str) -> None:
    lines = run_example(name)
    assert lines[-1:] == ["as expected"], "\n".join(lines)
