"""Into the kernel through `nft`: tables of our own in one transaction, and nobody else's touched."""

from __future__ import annotations

from mesh_iptables.apply import Applied
from mesh_iptables.apply.netlink import nft_table_flags
from mesh_iptables.apply.process import Command, run_together
from mesh_iptables.apply.restore import refusal
from mesh_iptables.model import SetMark
from mesh_iptables.plan.own import NFT_TABLE
from mesh_iptables.render.nft import NFT_FAMILY, delete_text, layout, tables_text
from mesh_iptables.render.restore import FAMILIES
from mesh_iptables.ruleset import after

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mesh_iptables.apply.lock import Lock
    from mesh_iptables.listed import Listing
    from mesh_iptables.model import Family, Plan
    from mesh_iptables.ruleset import Ruleset

    State = dict[Family, Listing]


class NftBackend:
    """The program `nft`; like this run it holds `lock` until it ends."""

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._kept_open = (lock.fileno(),)
        self._state: State | None = None

    def apply(self, plan: Plan) -> Applied:
        """See Backend."""
        wanted = after(plan)
        return Applied() if self._is_in_force(wanted) else self._commit(wanted)

    def read(self) -> Ruleset:
        """The rules of our own tables: with this backend, all of ours."""
        from mesh_iptables.listed import read_listings

        return read_listings(self._current().values())

    def dump(self) -> str:
        """See Backend."""
        return "".join(self._list(_present()))

    def marks(self) -> frozenset[int]:
        """See Backend."""
        chains = (rules for listing in self._current().values() for rules in listing.rules.values())
        rules = (rule for rules in chains for rule in rules)
        return frozenset(rule.target.mark for rule in rules if isinstance(rule.target, SetMark))

    def _current(self) -> State:
        """Our tables as they are; read once, and without a program where the kernel says that there are none."""
        if self._state is None:
            families = _present()
            if not families:
                self._state = {}
                return self._state
            from mesh_iptables.listed import parse_listing

            texts = self._list(families, "-j")
            self._state = {family: parse_listing(text, family) for family, text in zip(families, texts, strict=True)}
        return self._state

    def _is_in_force(self, wanted: Ruleset) -> bool:
        """Whether our tables are, rule by rule, what a commit would make them."""
        families = [family for family in FAMILIES if wanted.tables(family)]
        if families != _present():
            return False
        if not families:
            return True
        from mesh_iptables.listed import is_as_wanted

        flags = nft_table_flags()  # a table can be switched off as a whole, which older listings do not tell
        current = self._current()
        return all(
            not flags[NFT_FAMILY[family], NFT_TABLE] and is_as_wanted(current[family], wanted) for family in families
        )

    def _list(self, families: Iterable[Family], *options: str) -> list[str]:
        words = [("nft", *options, "list", "table", NFT_FAMILY[family], NFT_TABLE) for family in families]
        results = run_together([Command(command) for command in words], self._kept_open)
        for result in results:
            if result.status:
                raise refusal("nft", result, "")
        return [result.stdout for result in results]

    def _commit(self, wanted: Ruleset) -> Applied:
        """Put tables with these rules in the place of those that are there."""
        there = _present()
        families = [family for family in FAMILIES if wanted.tables(family)]
        text = "".join(delete_text(family) for family in there) + tables_text(wanted)
        self._state = None
        result = run_together([Command(("nft", "-f", "-"), text)], self._kept_open)[0]
        if result.status:
            raise refusal("nft", result, text)
        return Applied(
            removed=tuple(f"nft delete table {NFT_FAMILY[family]} {NFT_TABLE}" for family in there),
            added=tuple(line for family in families for line in _added(wanted, family)),
        )


def _present() -> list[Family]:
    """The families in which a table of ours is there."""
    tables = nft_table_flags()
    return [family for family in FAMILIES if (NFT_FAMILY[family], NFT_TABLE) in tables]


def _added(wanted: Ruleset, family: Family) -> list[str]:
    return [
        f"nft add rule {NFT_FAMILY[family]} {NFT_TABLE} {name} {rule.text}"
        for name, chain in layout(wanted, family).items()
        for rule in chain.rules
    ]
