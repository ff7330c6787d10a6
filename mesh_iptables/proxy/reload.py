"""A changed policy on its way into the running proxy, without holding up what passes meanwhile.

A child compiles. What it sends back is taken apart in small pieces, since a large policy takes longer to unpickle
than a request should wait: one pickler remembers what it has sent, so parts that went ahead are not sent again.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from itertools import islice
from typing import BinaryIO

from mesh_iptables.errors import MeshIptablesError
from mesh_iptables.policy.model import EgressPolicy, HttpAction
from mesh_iptables.proxy.apart import Apart
from mesh_iptables.proxy.loop import Loop

_SLICE = 0.005  # seconds of unpickling before others get their turn
_BATCH = 32  # items of a policy

Load = Callable[[], EgressPolicy]


class Reload:
    """Compiles when asked, one compilation at a time; asked meanwhile, once more afterwards.

    `load` runs in the child and may raise MeshIptablesError or OSError; then `failed` gets the reason, else `taken`
    the policy.
    """

    def __init__(
        self, loop: Loop, load: Load, taken: Callable[[EgressPolicy], None], failed: Callable[[str], None]
    ) -> None:
        self._loop = loop
        self._load = load
        self._taken = taken
        self._failed = failed
        self._child: Apart | None = None
        self._busy = self._again = False

    def ask(self) -> None:
        """Files have changed."""
        if self._busy:
            self._again = True
            return
        try:
            self._child = Apart(self._loop, lambda pipe: send(self._load, pipe), self._received)
        except OSError as error:
            self._failed(f"no process to compile it: {error.strerror}")
        else:
            self._busy = True

    def stop(self) -> None:
        """No more, whoever asks."""
        self._busy = True
        if self._child is not None:
            self._child.cancel()
            self._child = None

    def _received(self, sent: bytearray, status: int) -> None:
        self._child = None
        if status:
            how = f"signal {-status}" if status < 0 else f"status {status}"
            self._end(partial(self._failed, f"the compiler ended with {how}"))
        else:
            self._unpack(parts(bytes(sent)))

    def _unpack(self, sent: Iterator[object]) -> None:
        until = time.monotonic() + _SLICE
        for part in sent:
            if isinstance(part, str):
                self._end(partial(self._failed, part))
                return
            if isinstance(part, EgressPolicy):
                self._end(partial(self._taken, part))
                return
            if time.monotonic() > until:
                break
        self._loop.call_later(0.0, lambda: self._unpack(sent))

    def _end(self, tell: Callable[[], None]) -> None:
        again, self._busy, self._again = self._again, False, False
        if again:
            self.ask()
        tell()


def send(load: Load, pipe: BinaryIO) -> None:
    """The child's half: parts of the policy and then the policy, or else the reason why there is none."""
    pickler = pickle.Pickler(pipe, pickle.HIGHEST_PROTOCOL)
    try:
        policy = load()
    except (MeshIptablesError, OSError) as error:
        pickler.dump(str(error))
        return
    items = _items(policy)
    while batch := tuple(islice(items, _BATCH)):
        pickler.dump(batch)
    pickler.dump(policy)


def parts(sent: bytes) -> Iterator[object]:
    """The parent's half: what `send` wrote, one by one."""
    unpickler = pickle.Unpickler(BytesIO(sent))
    while True:
        yield unpickler.load()


def _items(policy: EgressPolicy) -> Iterator[object]:
    """What there may be thousands of, inner things first."""
    for listener in policy.listeners.values():
        for chain in listener.chains:
            if isinstance(chain.action, HttpAction):
                yield from chain.action.routes.vhosts
            yield chain
    yield from policy.clusters.values()
