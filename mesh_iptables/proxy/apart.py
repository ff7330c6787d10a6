"""Work that would hold the loop up for too long, done by a forked child; what it writes comes back through a pipe."""

from __future__ import annotations

import gc
import os
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

from mesh_iptables.proxy.loop import LEVEL_READ, Loop

_PIECE = 1 << 16
_PIECES_PER_ROUND = 16
_HIGHEST_FD = 1 << 20

Work = Callable[[BinaryIO], None]


class Apart:
    """One piece of work under way; `done(written, status)` is called once, unless it is cancelled before.

    `status` is 0 when all was written, else the child's exit status, negative for a signal. The child has neither
    the sockets of its parent, whose peers would wait for their end, nor its signal handlers. OSError when there is
    no room for a process.
    """

    def __init__(self, loop: Loop, work: Work, done: Callable[[bytearray, int], None]) -> None:
        self._loop = loop
        self._done = done
        self._written = bytearray()
        self._pipe, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            self._pid = _fork(work, write_end)
        except OSError:
            os.close(self._pipe)
            raise
        finally:
            os.close(write_end)
        os.set_blocking(self._pipe, False)
        loop.watch(self._pipe, self._readable, LEVEL_READ)

    def _readable(self, _events: int) -> None:
        for _ in range(_PIECES_PER_ROUND):
            try:
                data = os.read(self._pipe, _PIECE)
            except BlockingIOError:
                return
            if not data:
                self._done(self._written, self._end())
                return
            self._written += data

    def _end(self) -> int:
        self._loop.forget(self._pipe)
        os.close(self._pipe)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def cancel(self) -> None:
        """Nobody waits for it any more. Not after `done`."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self._end()


def _fork(work: Work, write_end: int) -> int:
    # no handler of ours may run in the child: it would write to a socket that is the parent's
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if not pid:
            _carry_out(work, write_end)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _carry_out(work: Work, write_end: int) -> None:
    """The child, from its first to its last moment."""
    status = 1
    try:
        os.closerange(3, write_end)
        os.closerange(write_end + 1, _HIGHEST_FD)
        _forget_signals()
        gc.freeze()  # looking at what is the parent's would copy its memory
        with suppress(OSError):
            os.nice(10)  # connections come first
        with os.fdopen(write_end, "wb") as pipe:
            work(pipe)
        status = 0
    except BrokenPipeError:
        pass  # the parent is gone
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _forget_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGHUP, signal.SIGUSR1):  # meant for the parent, but sent to the whole group
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
