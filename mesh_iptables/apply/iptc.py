"""Into the kernel through libiptc in this process: the legacy tables, without a program being started.

Every table is changed in a copy first, which tries whether the extensions take each rule; then the copies are
committed one by one. If the kernel refuses one, those committed before are made again from the rules they had, byte
for byte, counters included. The lock of the legacy tools is held from reading to the last commit.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager

from mesh_iptables.apply import Applied
from mesh_iptables.apply.entry import build_entry, entry_line
from mesh_iptables.apply.libiptc import LAYOUTS, Library, Table
from mesh_iptables.apply.restore import (
    applied,
    legacy_tables,
    marks_in,
    saved_changes,
)
from mesh_iptables.apply.rights import LOCK_REMEDY
from mesh_iptables.errors import ApplyError, MachineError, MeshIptablesError
from mesh_iptables.render.iptables import saved
from mesh_iptables.render.restore import FAMILIES
from mesh_iptables.ruleset import after
from mesh_iptables.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh_iptables.apply.libiptc import Entry
    from mesh_iptables.apply.lock import Lock
    from mesh_iptables.apply.restore import Changes, State
    from mesh_iptables.model import Family, Plan, Rule
    from mesh_iptables.ruleset import Ruleset
    from mesh_iptables.transition import Deletion, TableChange

LOCK_FILE = "/run/xtables.lock"
LOCK_STATUS = 4  # as iptables ends when it cannot get its lock
POLL = 0.01


class IptcBackend:
    """libiptc in this process; like this run it holds `lock` until it ends."""

    def __init__(self, lock: Lock, *, wait: int) -> None:
        self._lock = lock
        self._wait = wait
        self._library = Library()

    def apply(self, plan: Plan) -> Applied:
        """See Backend."""
        with xtables_lock(self._wait):
            wanted = after(plan)
            changes = saved_changes(self._read_lines(), wanted)
            if any(changes.values()):
                self._commit(changes, wanted)
            return applied(changes)

    def read(self) -> Ruleset:
        """See Backend."""
        from mesh_iptables.saved import read_ruleset

        return read_ruleset({family: self._dump(family) for family in FAMILIES})

    def dump(self) -> str:
        """See Backend."""
        return "".join(self._dump(family) for family in FAMILIES)

    def marks(self) -> frozenset[int]:
        """See Backend."""
        if "mangle" not in legacy_tables("ipv4"):
            return frozenset()
        with self._opened("ipv4", "mangle") as table:
            found = table.chains()
            return marks_in(self._lines(table, "ISTIO_DIVERT") if "ISTIO_DIVERT" in found else ())

    @contextmanager
    def _opened(self, family: Family, name: str) -> Iterator[Table]:
        table = self._library.table(family, name)
        try:
            yield table
        finally:
            table.close()

    def _lines(self, table: Table, chain: str) -> list[str]:
        return [entry_line(entry, table.family, self._library) for entry in table.entries(chain)]

    def _read_lines(self) -> State:
        """Every rule there is, as iptables-save prints it. A table that nobody uses is left unmade."""
        state: State = {family: {} for family in FAMILIES}
        for family in FAMILIES:
            for name in legacy_tables(family):
                with self._opened(family, name) as table:
                    state[family][name] = {chain: self._lines(table, chain) for chain in table.chains()}
        return state

    def _dump(self, family: Family) -> str:
        lines: list[str] = []
        for name in legacy_tables(family):
            with self._opened(family, name) as table:
                chains = table.chains()
                lines.append(f"*{name}")
                lines += [f":{chain} {table.policy(chain)}" for chain in chains]
                lines += [f"-A {chain} {line}".rstrip() for chain in chains for line in self._lines(table, chain)]
                lines.append("COMMIT")
        return "".join(f"{line}\n" for line in lines)

    def _commit(self, changes: Changes, wanted: Ruleset) -> None:
        """Try all changes in copies of the tables, then commit those; put all back where one is refused."""
        prepared: list[_Prepared] = []
        try:
            for family in FAMILIES:
                prepared += [self._prepare(family, change, wanted) for change in changes[family]]
            self._commit_all(prepared)
        finally:
            for each in prepared:
                each.table.close()

    def _prepare(self, family: Family, change: TableChange, wanted: Ruleset) -> _Prepared:
        rules = {
            (chain, saved(rule, family)): rule
            for chain, found in wanted.tables(family).get(change.table, {}).items()  # type: ignore[call-overload]
            for rule in found
        }
        table = self._library.table(family, change.table)
        before = {chain: table.entries(chain) for chain in table.chains() if chain in change.touched()}
        for chain in change.emptied:
            table.empty(chain)
        for chain in {deletion.chain: None for deletion in change.deleted}:
            self._delete(table, before[chain], [deletion for deletion in change.deleted if deletion.chain == chain])
        for chain, line in reversed(change.inserted):
            table.insert(chain, self._entry(rules[chain, line], line, family))
        for chain, line in change.appended:
            table.append(chain, self._entry(rules[chain, line], line, family))
        for chain in change.removed:
            table.remove(chain)
        return _Prepared(table, before, tuple(chain for chain in change.emptied if chain not in before))

    def _delete(self, table: Table, entries: list[Entry], unwanted: list[Deletion]) -> None:
        """Remove rules of one chain: by number, or the first that reads like this."""
        lines = [entry_line(entry, table.family, self._library) for entry in entries]
        for deletion in unwanted:
            place = deletion.number - 1 if deletion.number else lines.index(deletion.rule)
            table.delete(deletion.chain, place)
            del lines[place]

    def _entry(self, rule: Rule, line: str, family: Family) -> bytes:
        """A rule in the kernel's form, read back before anyone relies on it."""
        entry = build_entry(rule, family, self._library)
        if (made := entry_line(entry, family, self._library)) != line:
            raise ApplyError(f"python-iptables made {made} of {line}", 2)
        return entry.to_append(LAYOUTS[family])

    def _commit_all(self, prepared: list[_Prepared]) -> None:
        for number, each in enumerate(prepared):
            try:
                each.table.commit()
            except MeshIptablesError:
                for done in reversed(prepared[:number]):
                    self._put_back(done)
                raise

    def _put_back(self, done: _Prepared) -> None:
        with self._opened(done.table.family, done.table.name) as table:
            for chain in done.before:
                table.empty(chain)
            for chain in done.made:
                table.empty(chain)
            for chain, entries in done.before.items():
                for entry in entries:
                    table.append(chain, entry.to_append(LAYOUTS[table.family]))
            for chain in done.made:
                table.remove(chain)
            table.commit()


class _Prepared(Value):
    """A table, changed and not yet committed; the rules that its changed chains had; the chains made anew."""

    table: Table
    before: dict[str, list[Entry]]
    made: tuple[str, ...]


@contextmanager
def xtables_lock(seconds: int) -> Iterator[None]:
    """Hold the lock of the legacy tools; ApplyError when another holds it longer than `seconds`."""
    path = os.environ.get("XTABLES_LOCKFILE") or LOCK_FILE
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise MachineError(f"cannot open lock file {path}: {error.strerror}; {LOCK_REMEDY}") from None
    try:
        deadline = time.monotonic() + seconds
        while not _locked(descriptor):
            if time.monotonic() >= deadline:
                raise ApplyError(f"another program holds the xtables lock, {path}, since {seconds} s", LOCK_STATUS)
            time.sleep(POLL)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
