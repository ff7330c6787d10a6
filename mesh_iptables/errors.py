"""The few exceptions a caller can meet, each with its exit status."""

from __future__ import annotations


class MeshIptablesError(Exception):
    """Base of all that a caller may want to catch; its text is one line for a person.

    A class that derives from it says with `exit_status` how the program ends.
    """

    exit_status = 1


class UsageError(MeshIptablesError):
    """The request is wrong: an option, a value or a file of settings."""


class PolicyError(MeshIptablesError):
    """A policy document is wrong."""


class ApplyError(MeshIptablesError):
    """A kernel command refused; its own exit status (2 to 4) is passed on."""

    def __init__(self, message: str, exit_status: int = 4) -> None:
        super().__init__(message)
        self.exit_status = exit_status if exit_status in (2, 3, 4) else 4


class Difference(MeshIptablesError):
    """A comparing command found a difference."""

    exit_status = 10


class MachineError(MeshIptablesError):
    """The machine cannot: a right, a program or a kernel feature is missing."""

    exit_status = 11


class ProbeFailed(MeshIptablesError):
    """The rules are in place but traffic does not arrive."""

    exit_status = 126


def shown(text: str) -> str:
    """A value of the user's for a message: one line, in quotes, not endless."""
    return ascii(text if len(text) <= 60 else f"{text[:57]}...")
