"""What is ours in a kernel: all that any dialect, or the original tools, may have left. Pure.

A user chain is ours by its exact name, a rule of a built-in chain by its exact text; never by a part of either. Of
`istio-1.2x` some rules of built-in chains hold a setting (a mark, an interface, an owner); these are ours by their
exact shape, and those of them that anybody could have written only where the rules beside them are there, too.
"""

from __future__ import annotations

from mesh_iptables.plan import istio_1_0

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mesh_iptables.model import Family, Rule

    Chains = Mapping[str, Sequence[str]]  # of one table: chain to rules as iptables-save prints them

CHAINS: dict[tuple[Family, str], frozenset[str]] = {
    (family, table): chains
    for family in ("ipv4", "ipv6")
    for table, chains in {
        "nat": frozenset({"ISTIO_INBOUND", "ISTIO_OUTPUT", "ISTIO_OUTPUT_DNS", "ISTIO_REDIRECT", "ISTIO_IN_REDIRECT"}),
        "mangle": frozenset({"ISTIO_INBOUND", "ISTIO_DIVERT", "ISTIO_TPROXY", "ISTIO_DROP"}),
        "raw": frozenset({"ISTIO_INBOUND", "ISTIO_OUTPUT_DNS"}),
    }.items()
}

# Rules that are ours only where all of them are there, in this order: each alone could be anyone's.
SEQUENCES: dict[tuple[Family, str, str], tuple[Rule, ...]] = {("ipv6", "filter", "INPUT"): istio_1_0.LOCKDOWN}

# And with nft, whole tables of this name, of the families ip and ip6.
NFT_TABLE = "mesh-iptables"
# Or, of the family inet, those of istio-iptables --native-nftables.
ORIGINAL_NFT_TABLES = frozenset({"istio-proxy-nat", "istio-proxy-mangle", "istio-proxy-raw"})

JUMPS: dict[tuple[str, str], tuple[str, ...]] = {
    ("nat", "PREROUTING"): ("-p tcp -j ISTIO_INBOUND",),
    ("nat", "OUTPUT"): ("-p tcp -j ISTIO_OUTPUT", "-j ISTIO_OUTPUT"),
    ("mangle", "PREROUTING"): (
        "-p tcp -j ISTIO_INBOUND",
        "-m conntrack --ctstate INVALID -j ISTIO_DROP",
        "-p tcp -m conntrack --ctstate INVALID -j ISTIO_DROP",
    ),
    ("raw", "PREROUTING"): ("-j ISTIO_INBOUND",),
    ("raw", "OUTPUT"): ("-j ISTIO_OUTPUT_DNS",),
}
SELF_CALL_MARK = "0x53a/0xffffffff"
BARE = ("-j", "RETURN")


def own_lines(table: str, chain: str, chains: Chains, wanted: Sequence[str] | None) -> list[str]:
    """Those lines of a built-in chain that are ours, each as often as it stands there.

    `wanted` are the lines that the settings of this run would put there; None where nothing of ours is to be left.
    """
    lines = chains.get(chain, ())
    if table not in ("nat", "mangle", "raw") or not lines:
        return []
    jumps = JUMPS.get((table, chain), ())
    bare = _bare_lines(table, chain, chains, guess=wanted is None)
    marks = _marks(chains) if table == "mangle" else frozenset()
    return [
        line
        for line in lines
        if line in jumps or line in bare or _has_shape(table, chain, line.split(" "), marks) or line in (wanted or ())
    ]


def _has_shape(table: str, chain: str, words: list[str], marks: frozenset[str]) -> bool:
    """Whether a rule is one of ours with a setting in it."""
    match table, chain, words:
        case "nat", "PREROUTING", ["-i", _, "-j", "ISTIO_REDIRECT"] | ["-d", _, "-i", _, "-j", "ISTIO_REDIRECT"]:
            return True
        case "mangle", "OUTPUT", [
            "!", "-d", _, "-o", "lo", "-p", "tcp", "-m", "owner", "--uid-owner" | "--gid-owner", _, "-j", "MARK",
            "--set-xmark", mark,
        ]:  # fmt: skip
            return mark == SELF_CALL_MARK
        case "mangle", "PREROUTING" | "OUTPUT", words if marks:
            return _mark_of(chain, words) in marks
    return False


def _marks(chains: Chains) -> frozenset[str]:
    """The marks for which all three rules are there that keep a mark with its connection."""
    saved = {_mark_of("PREROUTING", line.split(" ")) for line in chains.get("PREROUTING", ())}
    output = [line.split(" ") for line in chains.get("OUTPUT", ())]
    restored = {_mark_of("OUTPUT", words) for words in output if "--restore-mark" in words}
    returned = {_mark_of("OUTPUT", words) for words in output if words[-1] == "RETURN"}
    return frozenset(saved & restored & returned - {""})


def _mark_of(chain: str, words: list[str]) -> str:
    """The mark that a rule for such connections asks for; "" where it is none."""
    match chain, words:
        case "PREROUTING", ["-p", "tcp", "-m", "mark", "--mark", mark, "-j", "CONNMARK", "--save-mark", *_]:
            return mark
        case "OUTPUT", ["-o", "lo", "-p", "tcp", "-m", "mark", "--mark", mark, "-j", "RETURN"]:
            return mark
        case "OUTPUT", ["-p", "tcp", "-m", "connmark", "--mark", mark, "-j", "CONNMARK", "--restore-mark", *_]:
            return mark
    return ""


def _bare_lines(table: str, chain: str, chains: Chains, *, guess: bool) -> frozenset[str]:
    """Rules that let one interface by (`-i eth1 -j RETURN`), where `istio-1.2x` is in force and one of these holds.

    Excluded interfaces (-c) have a rule in PREROUTING and one in OUTPUT. Interfaces of virtual machines (-k) have one
    in PREROUTING only, and beside it a rule that redirects what comes in there. Without -i they lack that; then it is
    a guess that the bare rules at the very top are ours, made only when all of ours is to go.
    """
    if not _is_of_1_2x(table, chains):
        return frozenset()
    incoming = dict.fromkeys(_bare_interfaces("-i", chains.get("PREROUTING", ())))
    both = incoming.keys() & set(_bare_interfaces("-o", chains.get("OUTPUT", ())))
    if chain == "OUTPUT":
        return frozenset(f"-o {name} -j RETURN" for name in both)
    if chain != "PREROUTING":
        return frozenset()
    machines: set[str] = set()
    if table == "nat":
        machines.update(_redirected(chains["PREROUTING"]), _in_front(chains["PREROUTING"]) if guess else ())
    return frozenset(f"-i {name} -j RETURN" for name in incoming if name in both or name in machines)


def _is_of_1_2x(table: str, chains: Chains) -> bool:
    """Whether rules of `istio-1.2x` are in this table: those of `istio-1.0` let no interface by."""
    return "-j ISTIO_OUTPUT" in chains.get("OUTPUT", ()) if table == "nat" else bool(_marks(chains))


def _bare_interfaces(option: str, lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        words = line.split(" ")
        if len(words) == 4 and words[0] == option and (words[2], words[3]) == BARE:
            yield words[1]


def _redirected(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        if line.endswith(" -j ISTIO_REDIRECT") and _has_shape("nat", "PREROUTING", line.split(" "), frozenset()):
            yield line.split(" ")[-3]


def _in_front(lines: Sequence[str]) -> Iterator[str]:
    """Interfaces of the bare rules before the first other rule."""
    for line in lines:
        names = list(_bare_interfaces("-i", [line]))
        if not names and not _has_shape("nat", "PREROUTING", line.split(" "), frozenset()):
            return
        yield from names
