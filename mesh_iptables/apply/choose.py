"""Which backend and flavour serve this network namespace, and that no other holds rules of ours besides."""

from __future__ import annotations

import os

from mesh_iptables.apply.lock import take_lock
from mesh_iptables.apply.netlink import nft_tables
from mesh_iptables.apply.process import Command, find_program, has_program, run_together
from mesh_iptables.apply.restore import NFT_FAMILY, TABLES, RestoreBackend, legacy_tables
from mesh_iptables.errors import MeshIptablesError
from mesh_iptables.plan import own

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from mesh_iptables.apply import Applied, Backend
    from mesh_iptables.apply.lock import Lock
    from mesh_iptables.apply.restore import Flavour
    from mesh_iptables.dialect import Native
    from mesh_iptables.model import Plan
    from mesh_iptables.ruleset import Ruleset

    # Tables of legacy xtables, of those on nf_tables, and with nft our own or those of istio-iptables.
    Place = Literal["legacy", "nft", "own", "original"]


def choose_backend(name: str, flavour: str, *, wait: int, native: Native) -> Backend:
    """The backend of that name, once no other run of ours works here; `flavour` is "" where none was asked for.

    `native` says whose tables are made with nft.
    """
    lock = take_lock(wait)
    if name == "nft" or (name == "auto" and not flavour and not has_program("iptables-restore")):
        return Alone(_backend(native, lock, wait), tuple(_others(native, lock, wait)))
    if name == "iptc":
        from mesh_iptables.apply.iptc import IptcBackend

        return Alone(IptcBackend(lock, wait=wait), tuple(_others("legacy", lock, wait)))
    chosen: Flavour = "legacy" if flavour == "legacy" else "nft" if flavour == "nft" else _flavour_in_use()
    return Alone(_backend(chosen, lock, wait), tuple(_others(chosen, lock, wait)))


def _backend(place: Place, lock: Lock, wait: int) -> Backend:
    if place == "own":
        from mesh_iptables.apply.nft import NftBackend

        return NftBackend(lock)
    if place == "original":
        from mesh_iptables.apply.nft_1_2x import OriginalNftBackend

        return OriginalNftBackend(lock)
    return RestoreBackend(place, lock, wait=wait)


def _others(chosen: Place, lock: Lock, wait: int) -> Iterator[Backend]:
    """A backend for each other place with tables that may hold rules of ours; to find none takes no program."""
    tables = nft_tables()
    in_use: dict[Place, bool] = {
        "legacy": any(legacy_tables(family) for family in NFT_FAMILY),
        "nft": any(family in NFT_FAMILY.values() and table in TABLES for family, table in tables),
        "own": any(family in NFT_FAMILY.values() and table == own.NFT_TABLE for family, table in tables),
        "original": any(family == "inet" and table in own.ORIGINAL_NFT_TABLES for family, table in tables),
    }
    return (_backend(place, lock, wait) for place, used in in_use.items() if used and place != chosen)


class Alone:
    """The chosen backend, with nothing of ours in force by way of `others`.

    They are emptied behind it: for a moment both sets of rules are in force, but never none.
    """

    def __init__(self, chosen: Backend, others: tuple[Backend, ...]) -> None:
        self._chosen = chosen
        self._others = others

    def apply(self, plan: Plan) -> Applied:
        """See Backend. What cannot be removed elsewhere is an error of a plan without rules, else a warning."""
        applied = self._chosen.apply(plan)
        nothing = plan.replace(cleanup=(), setup=())
        for other in self._others:
            try:
                emptied = other.apply(nothing)
            except MeshIptablesError as error:
                if not plan.setup:
                    raise
                warning = f"rules of an earlier run may still be in force: {error}"
                applied = applied.replace(warnings=(*applied.warnings, warning))
                continue
            applied = applied.replace(
                removed=(*applied.removed, *emptied.removed),
                warnings=(*applied.warnings, *emptied.warnings),
            )
        return applied

    def read(self) -> Ruleset:
        """See Backend."""
        return self._chosen.read()

    def dump(self) -> str:
        """See Backend."""
        return self._chosen.dump()

    def marks(self) -> frozenset[int]:
        """See Backend; the marks of the others too."""
        return self._chosen.marks().union(*(_known_marks(other) for other in self._others))


def _known_marks(backend: Backend) -> frozenset[int]:
    try:
        return backend.marks()
    except MeshIptablesError:  # told when it comes to the rules
        return frozenset()


def _flavour_in_use() -> Flavour:
    """The flavour whose tables are in use here; where both or neither are, the one that `iptables` is."""
    legacy = bool(legacy_tables("ipv4"))
    nft = any(family == "ip" and table in TABLES for family, table in nft_tables())
    if legacy != nft:
        return "legacy" if legacy else "nft"
    return _flavour_of_iptables()


def _flavour_of_iptables() -> Flavour:
    program = os.path.basename(os.path.realpath(find_program("iptables-restore")))
    if "nft" in program or "legacy" in program:
        return "nft" if "nft" in program else "legacy"
    version = run_together([Command(("iptables-restore", "--version"))])[0].stdout
    return "nft" if "nf_tables" in version else "legacy"
