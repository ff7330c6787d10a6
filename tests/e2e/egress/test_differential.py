"""A few random policies, the same ones each time; `scripts/egress-differential` runs as many as one likes."""

from __future__ import annotations

import pytest

from .differential import run_numbers
from .test_conformance import needs_envoy


@pytest.mark.netns
@pytest.mark.e2e
@needs_envoy
def test_both_engines_agree_on_random_policies() -> None:
    agreed, total = run_numbers(list(range(6)), "pytest", 15, shrink=False)
    assert agreed == total == 6 * 15
