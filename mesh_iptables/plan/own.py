"""What is ours in a kernel: all that any dialect, or the original script, may have left. Pure."""

from __future__ import annotations

from mesh_iptables.plan import istio_1_0

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mesh_iptables.model import Family, Rule

# A user chain is ours by its exact name, a rule of a built-in chain by its exact text; never by a part of either.
CHAINS: dict[tuple[Family, str], frozenset[str]] = {
    ("ipv4", table): frozenset(chain for found, chain in istio_1_0.OWN_CHAINS if found == table)
    for table in ("nat", "mangle")
}
JUMPS: dict[tuple[Family, str, str], tuple[Rule, ...]] = {}
for _table, _chain, _jump in istio_1_0.OWN_JUMPS:
    JUMPS["ipv4", _table, _chain] = (*JUMPS.get(("ipv4", _table, _chain), ()), _jump)

# Rules that are ours only where all of them are there, in this order: each alone could be anyone's.
SEQUENCES: dict[tuple[Family, str, str], tuple[Rule, ...]] = {("ipv6", "filter", "INPUT"): istio_1_0.LOCKDOWN}

# And with nft, whole tables of this name, of the families ip and ip6.
NFT_TABLE = "mesh-iptables"

# Or, of the family inet, those of istio-iptables --native-nftables.
ORIGINAL_NFT_TABLES = frozenset({"istio-proxy-nat", "istio-proxy-mangle", "istio-proxy-raw"})
