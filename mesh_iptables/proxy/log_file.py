"""The access log's file: lines are gathered, written in one go, and never waited for."""

from __future__ import annotations

import os
import select
import stat

_LIMIT = 1 << 20  # bytes kept for a reader that does not read
_NULL_DEVICE = os.makedev(1, 3)  # whoever logs there need not write a line
_PIPE_PIECE = 4096  # a pipe that is writable takes this much at once


class LogFile:
    """`path` "-" is standard output. OSError when it cannot be opened."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lines: list[str] = []
        self._waiting = b""
        self.dropped = 0
        self._fd = self._open()

    def _open(self) -> int:
        if self._path == "-":
            fd = os.dup(1)
        else:
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        status = os.fstat(fd)
        self._regular = stat.S_ISREG(status.st_mode)
        self.is_null = stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL_DEVICE
        return fd

    def reopen(self) -> None:
        """Go on in a new file after the old one was moved away; OSError leaves the old one in use."""
        self.flush()
        old, self._fd = self._fd, self._open()
        os.close(old)

    def write(self, line: str) -> bool:
        """Keep a line until `flush`; True for the first one."""
        self._lines.append(line)
        return len(self._lines) == 1

    def flush(self) -> None:
        """Write what the reader takes; what is too much for memory is counted and dropped."""
        data = self._waiting + "".join(self._lines).encode("utf-8", "replace")
        self._lines.clear()
        self._waiting = self._write(data)
        if len(self._waiting) > _LIMIT:
            self.dropped += self._waiting.count(b"\n")
            self._waiting = b""

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    def _write(self, data: bytes) -> bytes:
        try:
            while data:
                if not self._regular and not self._takes():
                    return data
                data = data[os.write(self._fd, data if self._regular else data[:_PIPE_PIECE]) :]
        except OSError:
            return b""  # the reader is gone, or the disk is full: the proxy goes on
        return data

    def _takes(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return any(events & select.POLLOUT for _, events in poll.poll(0))
