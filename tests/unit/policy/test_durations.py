from __future__ import annotations

import pytest

from mesh_iptables.policy.durations import parse_duration, render_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("3s", 3), ("500ms", 0.5), ("1m30s", 90), ("2.5h", 9000), ("1h2m3s4ms", 3723.004)],
)
def test_parts_are_added(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("value", ["", "5", "s", "-1s", "1s2", "1 s", "1d", "1e3s", "9999999999h", 5, None, ["1s"]])
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"duration|longer"):
        parse_duration(value)


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "0s"), (3.0, "3s"), (0.5, "0.5s"), (0.025, "0.025s")])
def test_seconds_are_written_as_protobuf_writes_them(seconds: float, text: str) -> None:
    assert render_seconds(seconds) == text
