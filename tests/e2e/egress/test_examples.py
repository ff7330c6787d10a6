"""Every example does what its comments say, and prints what its page shows."""

from __future__ import annotations

import pytest

from tests.e2e.test_docs import matches

from .example import EXAMPLES, names, run_example


@pytest.mark.parametrize("name", names())
def test_example_has_a_page(name: str) -> None:
    assert f"scripts/example {name}" in (EXAMPLES / name / "README.md").read_text()


@pytest.mark.netns
@pytest.mark.e2e
@pytest.mark.parametrize("name", names())
def test_example_runs_as_expected(name: str) -> None:
    printed = "\n".join(run_example(name))
    assert printed.endswith("\nas expected"), printed
    _, _, behind = (EXAMPLES / name / "README.md").read_text().partition(f"$ scripts/example {name}\n")
    shown = behind.partition("```")[0]
    assert not shown or matches(shown, printed), printed
