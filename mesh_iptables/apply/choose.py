"""Which backend and flavour serve this network namespace."""

from __future__ import annotations

import os

from mesh_iptables.apply.lock import take_lock
from mesh_iptables.apply.netlink import nft_tables
from mesh_iptables.apply.process import Command, find_program, has_program, run_together
from mesh_iptables.apply.restore import TABLES, RestoreBackend, legacy_tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mesh_iptables.apply import Backend
    from mesh_iptables.apply.restore import Flavour


def choose_backend(name: str, flavour: str, *, wait: int) -> Backend:
    """The backend of that name, once no other run of ours works here; `flavour` is "" where none was asked for."""
    lock = take_lock(wait)
    if name == "nft" or (name == "auto" and not flavour and not has_program("iptables-restore")):
        from mesh_iptables.apply.nft import NftBackend

        return NftBackend(lock)
    if name == "iptc":
        from mesh_iptables.apply.iptc import IptcBackend

        return IptcBackend(lock, wait=wait)
    chosen: Flavour = "legacy" if flavour == "legacy" else "nft" if flavour == "nft" else _flavour_in_use()
    return RestoreBackend(chosen, lock, wait=wait)


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
