"""Print for people and for the process that reads along: one line, at once."""

from __future__ import annotations

import sys
from typing import TextIO


def say(line: str, to: TextIO | None = None) -> None:
    stream = to or sys.stdout
    stream.write(line + "\n")
    stream.flush()
