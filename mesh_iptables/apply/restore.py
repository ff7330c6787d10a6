"""Into the kernel through `iptables-restore` and `ip6tables-restore`, legacy or nf_tables.

A table changes in one commit, so that no packet ever meets half of the rules. Both families are tried out first; if
one is refused after the other is in force, all tables are put back as they were, foreign rules included.
"""

from __future__ import annotations

from mesh_iptables.apply import Applied
from mesh_iptables.apply.netlink import nft_tables
from mesh_iptables.apply.process import Command, run_together
from mesh_iptables.apply.rights import LOCK_REMEDY, lacks_right, right_remedy
from mesh_iptables.errors import ApplyError, MachineError, MeshIptablesError
from mesh_iptables.render.restore import FAMILIES, saved_lines
from mesh_iptables.ruleset import after
from mesh_iptables.transition import change_text, parse_saved, put_back_text, table_changes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Literal

    from mesh_iptables.apply.lock import Lock
    from mesh_iptables.apply.process import Result
    from mesh_iptables.model import Family, Plan
    from mesh_iptables.ruleset import Ruleset
    from mesh_iptables.transition import Heads, Lines, TableChange

    Flavour = Literal["legacy", "nft"]
    State = dict[Family, Lines]
    Changes = dict[Family, list[TableChange]]

PROGRAM: dict[Family, str] = {"ipv4": "iptables", "ipv6": "ip6tables"}
LEGACY_NAMES: dict[Family, str] = {"ipv4": "/proc/net/ip_tables_names", "ipv6": "/proc/net/ip6_tables_names"}
NFT_FAMILY: dict[Family, str] = {"ipv4": "ip", "ipv6": "ip6"}
# All that restore programs say where a right, a table or a whole family is missing: legacy, nf_tables.
NO_TABLE = ("unable to initialize table", "Failed to initialize nft")
LACKING_RIGHT = ("Permission denied", "Operation not permitted", "must be root", "lock file", *NO_TABLE)
NO_TABLE_REMEDY = {
    "legacy": "this kernel has no such legacy table: load its module on the node, or choose --iptables nft",
    "nft": "this kernel has no nf_tables: load its module on the node, or choose --iptables legacy",
}
TABLES = frozenset({"filter", "mangle", "nat", "raw", "security"})


class RestoreBackend:
    """The restore programs of one flavour; like this run they hold `lock` until they end."""

    def __init__(self, flavour: Flavour, lock: Lock, *, wait: int = 30) -> None:
        self._flavour = flavour
        self._wait = wait
        self._lock = lock
        self._kept_open = (lock.fileno(),)
        self._state: State | None = None

    def apply(self, plan: Plan) -> Applied:
        """See Backend."""
        before = self._current()
        changes = saved_changes(before, after(plan))
        if any(changes.values()):
            self._state = None
            self._commit(before, changes)
        return applied(changes)

    def read(self) -> Ruleset:
        """See Backend."""
        from mesh_iptables.saved import read_ruleset

        return read_ruleset({family: result.stdout for family, result in self._save(FAMILIES).items()})

    def dump(self) -> str:
        """See Backend."""
        return "".join(result.stdout for result in self._save_in_use().values())

    def marks(self) -> frozenset[int]:
        """See Backend."""
        return marks_in(self._current()["ipv4"].get("mangle", {}).get("ISTIO_DIVERT", ()))

    def _current(self) -> State:
        """What is there; read once, and without a program where the kernel says that there is nothing."""
        if self._state is None:
            saved = self._save_in_use()
            self._state = {family: parse_saved(saved[family].stdout) if family in saved else {} for family in FAMILIES}
        return self._state

    def _save_in_use(self) -> dict[Family, Result]:
        """Not of a family that holds nothing: there may be no program for it, or no such family in this kernel."""
        return self._save([family for family in FAMILIES if self._is_in_use(family)])

    def _is_in_use(self, family: Family) -> bool:
        if self._flavour == "legacy":
            return bool(legacy_tables(family))
        return any(found == NFT_FAMILY[family] and name in TABLES for found, name in nft_tables())

    def _save(self, families: Sequence[Family]) -> dict[Family, Result]:
        words = {family: (f"{PROGRAM[family]}-{self._flavour}-save",) for family in families}
        results = run_together([Command(words[family]) for family in families], self._kept_open)
        for family, result in zip(families, results, strict=True):
            if result.status:
                raise refusal(words[family][0], result, "")
        return dict(zip(families, results, strict=True))

    def _commit(self, before: State, changes: Changes) -> None:
        """Try everything out, then commit it.

        One change needs no trial, as it goes first and all or nothing: that of a single table, the largest of them.
        """
        texts = {family: change_text(found) for family, found in changes.items() if found}
        single = [family for family in texts if len(changes[family]) == 1]
        whole = max(single, key=lambda family: len(texts[family]), default=None)
        first = {} if whole is None else {whole: texts.pop(whole)}
        self._restore(texts, "--test")
        try:
            self._restore(first)
            self._restore(texts)
        except MeshIptablesError:
            self._put_back(before, changes)
            raise

    def _put_back(self, before: State, changes: Changes) -> None:
        """Undo what a half-failed commit did; a table that it never reached is not touched."""
        self._state = None
        now = self._current()
        reached: Changes = {
            family: [change for change in found if now[family].get(change.table) != before[family].get(change.table)]
            for family, found in changes.items()
        }
        self._restore({family: put_back_text(before[family], found) for family, found in reached.items() if found})

    def _restore(self, texts: Mapping[Family, str], *options: str) -> None:
        """One restore program a family, side by side; ApplyError for the first that refuses."""
        wait = (f"--wait={self._wait or 1}",) if self._flavour == "legacy" else ()  # 0 would be without end
        commands = [
            Command((f"{PROGRAM[family]}-{self._flavour}-restore", "--noflush", *wait, *options), text)
            for family, text in texts.items()
        ]
        for command, result in zip(commands, run_together(commands, self._kept_open), strict=True):
            if result.status:
                raise refusal(command.words[0], result, command.stdin)


def legacy_tables(family: Family) -> list[str]:
    """The tables that the legacy programs have made in this network namespace."""
    try:
        with open(LEGACY_NAMES[family], encoding="ascii") as names:
            return names.read().split()
    except OSError:
        return []


def saved_changes(before: State, wanted: Ruleset) -> Changes:
    """What is to be done in each family, table by table."""
    changes: Changes = {}
    for family in FAMILIES:
        heads: Heads = {(table, chain): count for (of, table, chain), count in wanted.heads.items() if of == family}
        changes[family] = table_changes(family, before[family], saved_lines(wanted, family), heads)
    return changes


def marks_in(rules: Sequence[str]) -> frozenset[int]:
    """The marks that saved rules set."""
    masked = (rule.removeprefix("-j MARK --set-xmark ") for rule in rules if "--set-xmark" in rule)
    return frozenset(int(text.partition("/")[0], 16) for text in masked)


def applied(changes: Changes) -> Applied:
    """The changes for the user, in the words of the tools."""
    found = [(family, change) for family in FAMILIES for change in changes[family]]
    return Applied(
        removed=tuple(
            f"{PROGRAM[family]} -t {change.table} {words}"
            for family, change in found
            for words in (
                *(f"-D {deletion.chain} {deletion.rule}" for deletion in change.deleted),
                *(f"-X {chain}" for chain in change.removed),
                *(f"-F {chain}" for chain in change.kept),
            )
        ),
        added=tuple(
            f"{PROGRAM[family]} -t {change.table} -A {chain} {rule}"
            for family, change in found
            for chain, rule in (*change.inserted, *change.appended)
        ),
        warnings=tuple(
            f"{PROGRAM[family]} -t {change.table}: {chain} is empty now but stays, as a foreign rule jumps to it"
            for family, change in found
            for chain in change.kept
        ),
    )


def refusal(program: str, result: Result, stdin: str) -> ApplyError | MachineError:
    """What a program's complaint means: which line it refused, or which right it lacks."""
    complaint = next((line for line in result.stderr.splitlines() if line.strip()), f"ended with {result.status}")
    reason = complaint.partition(": ")[2] or complaint
    if any(words in result.stderr for words in LACKING_RIGHT):
        return MachineError(f"{program}: {reason}; {_remedy(program, result.stderr)}")
    if "holding the xtables lock" in result.stderr:
        return ApplyError(f"{program}: another program holds the xtables lock; {complaint}", result.status)
    number = _line_number(result.stderr)
    lines = stdin.split("\n")
    if 0 < number <= len(lines):
        return ApplyError(f"{program} refused line {number} ({lines[number - 1]}): {reason}", result.status)
    return ApplyError(f"{program}: {reason}", result.status)


def _remedy(program: str, stderr: str) -> str:
    if "lock file" in stderr:
        return LOCK_REMEDY
    needed = ("NET_ADMIN", "NET_RAW") if "legacy" in program else ("NET_ADMIN",)
    if any(words in stderr for words in NO_TABLE) and not lacks_right(*needed):
        return NO_TABLE_REMEDY["legacy" if "legacy" in program else "nft"]
    return right_remedy(*needed)


def _line_number(stderr: str) -> int:
    """The line a program names: "Error occurred at line: 5", "line 5 failed", "… line 5", "/dev/stdin:5:1-9: …"."""
    _, _, behind = stderr.replace(":", " ").replace("/dev/stdin ", "line ").partition("line ")
    number = next(iter(behind.split()), "")
    return int(number) if number.isdigit() else 0
