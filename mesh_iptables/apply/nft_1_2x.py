"""Into the kernel through `nft`, with the tables of istio-iptables --native-nftables, in one transaction."""

from __future__ import annotations

from mesh_iptables.apply import Applied
from mesh_iptables.apply.netlink import nft_table_flags
from mesh_iptables.apply.process import Command, run_together
from mesh_iptables.apply.restore import refusal
from mesh_iptables.errors import ApplyError
from mesh_iptables.render.nft_1_2x import TABLES, table_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mesh_iptables.apply.lock import Lock
    from mesh_iptables.listed_1_2x import Listing
    from mesh_iptables.model import Plan, Table
    from mesh_iptables.ruleset import Ruleset


class OriginalNftBackend:
    """The program `nft`; like this run it holds `lock` until it ends."""

    def __init__(self, lock: Lock) -> None:
        self._kept_open = (lock.fileno(),)
        self._lock = lock

    def apply(self, plan: Plan) -> Applied:
        """See Backend. A table whose rules are as wanted is left alone, with its counters."""
        there = _present()
        current = self._current(there)
        lines: list[str] = []
        removed, added = [], []
        for table, name in TABLES.items():
            text = table_text(plan, table)
            if (table in current and text and _is_as_wanted(current[table], plan, table)) or not (
                text or table in there
            ):
                continue
            # Made anew, not flushed: a chain that somebody hooked in otherwise would stay as it is.
            lines += [f"add table inet {name}\ndelete table inet {name}\n"] if table in there else []
            removed += [f"nft delete table inet {name}"] if table in there else []
            lines.append(text)
            added += [f"nft {line}" for line in text.splitlines() if " rule " in line]
        if lines:
            self._run(("nft", "-f", "-"), "".join(lines))
        return Applied(removed=tuple(removed), added=tuple(added))

    def read(self) -> Ruleset:
        """See Backend; rules of both families in one table cannot be told as those of iptables."""
        raise ApplyError("the rules of native nft tables of istio-1.2x cannot be read as iptables rules", 4)

    def dump(self) -> str:
        """See Backend."""
        return "".join(self._run(("nft", "list", "table", "inet", TABLES[table]), "") for table in _present())

    def marks(self) -> frozenset[int]:
        """See Backend."""
        if "mangle" not in _present():
            return frozenset()
        from mesh_iptables.listed_1_2x import marks_set

        return marks_set(self._current(["mangle"])["mangle"])

    def _current(self, tables: Sequence[Table]) -> dict[Table, Listing]:
        if not tables:
            return {}
        from mesh_iptables.listed_1_2x import parse_listing

        words = [("nft", "-j", "list", "table", "inet", TABLES[table]) for table in tables]
        results = run_together([Command(command) for command in words], self._kept_open)
        for result in results:
            if result.status:
                raise refusal("nft", result, "")
        return {table: parse_listing(result.stdout) for table, result in zip(tables, results, strict=True)}

    def _run(self, words: tuple[str, ...], stdin: str) -> str:
        result = run_together([Command(words, stdin)], self._kept_open)[0]
        if result.status:
            raise refusal("nft", result, stdin)
        return result.stdout


def _present() -> list[Table]:
    """Which of our tables are there."""
    there = nft_table_flags()
    return [table for table, name in TABLES.items() if ("inet", name) in there]


def _is_as_wanted(listing: Listing, plan: Plan, table: Table) -> bool:
    from mesh_iptables.listed_1_2x import is_as_wanted

    # A table can be switched off as a whole, which older listings do not tell.
    return not nft_table_flags()["inet", TABLES[table]] and is_as_wanted(listing, plan, table)
