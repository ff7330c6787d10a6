"""A fiftieth of the soak checks; `scripts/egress-soak` does them in full."""

from __future__ import annotations

import pytest

from .soak import CHECKS
from .soaking import soak


@pytest.mark.netns
@pytest.mark.e2e
@pytest.mark.parametrize("check", CHECKS)
def test_proxy_stands(check: str) -> None:
    [line] = soak("python", [check], 0.02 if check != "reload" else 0.1)
    assert line.startswith("ok "), line
