"""Start programs of this machine, together, and collect what they say.

`subprocess` costs more to import than the restore programs take to run.
"""

from __future__ import annotations

import os

from mesh_iptables.errors import MachineError
from mesh_iptables.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Command(Value):
    """A program with its arguments, and the text on its standard input."""

    words: tuple[str, ...]
    stdin: str = ""


class Result(Value):
    """How a program ended (its exit status; 128 and more: killed by a signal) and what it wrote."""

    status: int
    stdout: str
    stderr: str


class Started:
    """A running program; its input and output are files in memory, so that no side ever waits for the other."""

    def __init__(self, command: Command, kept_open: Sequence[int]) -> None:
        self._files = [os.memfd_create(name) for name in ("in", "out", "err")]
        _write_all(self._files[0], command.stdin.encode(errors="surrogateescape"))
        os.lseek(self._files[0], 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate(self._files)]
        # Locks we hold stay held until the program ends, even if we are killed before.
        actions += [(os.POSIX_SPAWN_DUP2, lock, 10 + number) for number, lock in enumerate(kept_open)]
        program = find_program(command.words[0])
        self._pid = os.posix_spawn(program, command.words, os.environ, file_actions=actions)

    def result(self) -> Result:
        """Wait for the end."""
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        texts = []
        for descriptor in self._files[1:]:
            os.lseek(descriptor, 0, os.SEEK_SET)
            texts.append(_read_all(descriptor).decode(errors="surrogateescape"))
        for descriptor in self._files:
            os.close(descriptor)
        return Result(status if status >= 0 else 128 - status, *texts)


def run_together(commands: Sequence[Command], kept_open: Sequence[int] = ()) -> list[Result]:
    """Start all commands, then wait for all; results in the order of the commands. MachineError if one is missing."""
    started = [Started(command, kept_open) for command in commands]
    return [program.result() for program in started]


def find_program(name: str) -> str:
    """The path of a program; raises MachineError where this machine has none."""
    if "/" in name:
        return name
    for folder in os.environ.get("PATH", SEARCH_PATH).split(":") + SEARCH_PATH.split(":"):
        path = f"{folder}/{name}"
        if folder and os.access(path, os.X_OK):
            return path
    raise MachineError(f"{name} is not on this machine; install iptables (or nftables), or choose another --backend")


def has_program(name: str) -> bool:
    """Whether this machine has a program of that name."""
    try:
        find_program(name)
    except MachineError:
        return False
    return True


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _read_all(descriptor: int) -> bytes:
    chunks = []
    while chunk := os.read(descriptor, 1 << 20):
        chunks.append(chunk)
    return b"".join(chunks)
