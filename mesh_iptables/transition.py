"""From the rules a kernel has to those it should have, touching only what is ours. Pure."""

from __future__ import annotations

from mesh_iptables.model import BUILT_IN
from mesh_iptables.plan import own
from mesh_iptables.render.iptables import saved
from mesh_iptables.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mesh_iptables.model import Family

    Chains = dict[str, list[str]]  # chain to rules as iptables-save prints them, without `-A CHAIN`
    Lines = dict[str, Chains]  # table to chains
    Heads = Mapping[tuple[str, str], int]  # of table and chain


class Deletion(Value):
    """A rule that goes: by its words, or by its `number` (from 1) where a foreign rule in front has the same words."""

    chain: str
    rule: str
    number: int = 0


class TableChange(Value):
    """What one commit of one table does, in this order; a rule is a chain and its line."""

    table: str
    emptied: tuple[str, ...]  # own chains, made where they are not there
    deleted: tuple[Deletion, ...]  # of one chain either by words or by falling numbers
    inserted: tuple[tuple[str, str], ...]  # in front of foreign rules, in this order
    appended: tuple[tuple[str, str], ...]
    removed: tuple[str, ...]  # own chains that are not needed any more
    kept: tuple[str, ...]  # own chains, empty now, that a foreign rule still jumps to

    def touched(self) -> frozenset[str]:
        """Every chain that may be another one afterwards."""
        added = (chain for chain, _ in (*self.inserted, *self.appended))
        return frozenset({*self.emptied, *added, *(deletion.chain for deletion in self.deleted)})


def parse_saved(text: str) -> Lines:
    """The tables of `iptables-save` text: every chain with its rules; comments, policies and counters left out."""
    lines: Lines = {}
    chains: Chains = {}
    for line in text.split("\n"):
        first = line[:1]
        if first == "*":
            chains = lines.setdefault(line[1:].strip(), {})
        elif first == ":":
            chains.setdefault(line[1:].partition(" ")[0], [])
        elif first in ("-", "["):
            chain, _, rule = line[line.index("-A ") + 3 :].partition(" ")
            chains.setdefault(chain, []).append(rule)
    return lines


def table_changes(family: Family, current: Lines, wanted: Lines, heads: Heads | None = None) -> list[TableChange]:
    """What is to be done, table by table; nothing for a table whose own part is as wanted already.

    `heads` says how many of the rules that are wanted in a built-in chain stand in front of foreign ones.

    Tables are committed one by one: those that take inbound connections come first, so that none slips through while
    REDIRECT (nat) becomes TPROXY (mangle) or the other way round.
    """
    changes = []
    for table in sorted({*current, *wanted}, key=lambda name: ("PREROUTING" not in wanted.get(name, ()), name)):
        chains, target = current.get(table, {}), wanted.get(table, {})
        if own_part(family, table, chains, target) != target:
            changes.append(_change(family, table, chains, target, heads or {}))
    return changes


def own_part(family: Family, table: str, chains: Chains, wanted: Chains | None = None) -> Chains:
    """Our chains, and our rules of the built-in chains. An empty chain that foreign rules hold is not counted.

    Rules of `wanted` are ours also where only the settings of this run tell.
    """
    own_chains = own.CHAINS.get((family, table), frozenset())
    held = foreign_jumps(family, table, chains) if own_chains else frozenset()
    part = {chain: rules for chain, rules in chains.items() if chain in own_chains and (rules or chain not in held)}
    for chain in BUILT_IN:
        if rules := own_rules(family, table, chain, chains, wanted):
            part[chain] = rules
    return part


def own_rules(family: Family, table: str, chain: str, chains: Chains, wanted: Chains | None = None) -> list[str]:
    """Those lines of a built-in chain that are ours, each as often as it stands there."""
    found = own.own_lines(table, chain, chains, wanted.get(chain, ()) if wanted else None)
    if sequence := [saved(rule, family) for rule in own.SEQUENCES.get((family, table, chain), ())]:
        rules = chains.get(chain, ())
        repeats = min(rules.count(line) for line in sequence)
        found += sequence * repeats
    return found


def foreign_jumps(family: Family, table: str, chains: Chains) -> frozenset[str]:
    """Where rules that are not ours jump to."""
    own_chains = own.CHAINS.get((family, table), frozenset())
    targets: set[str] = set()
    for chain, rules in chains.items():
        if chain in own_chains:
            continue
        ours = own_rules(family, table, chain, chains) if chain in BUILT_IN else ()
        targets.update(jump_target(rule) for rule in rules if rule not in ours)
    return frozenset(targets & own_chains)


def jump_target(line: str) -> str:
    """The target of a saved rule; "" where it has none. The words of a comment are not read as options."""
    plain = '""'.join(line.replace('\\"', "").split('"')[::2])
    words = plain.split(" ")
    return next((words[place + 1] for place, word in enumerate(words[:-1]) if word in ("-j", "-g")), "")


def _change(family: Family, table: str, chains: Chains, target: Chains, heads: Heads) -> TableChange:
    own_chains = own.CHAINS.get((family, table), frozenset())
    wanted = [chain for chain in target if chain not in BUILT_IN]
    stale = [chain for chain in chains if chain in own_chains and chain not in target]
    held = foreign_jumps(family, table, chains)
    return TableChange(
        table=table,
        emptied=(*wanted, *stale),
        deleted=tuple(
            deletion
            for chain in BUILT_IN
            if (ours := own_rules(family, table, chain, chains, target))
            for deletion in _deletions(chain, chains[chain], ours)
        ),
        inserted=tuple(
            (chain, rule) for chain, rules in target.items() for rule in rules[: heads.get((table, chain), 0)]
        ),
        appended=tuple(
            (chain, rule) for chain, rules in target.items() for rule in rules[heads.get((table, chain), 0) :]
        ),
        removed=tuple(chain for chain in stale if chain not in held),
        kept=tuple(chain for chain in stale if chain in held),
    )


def _deletions(chain: str, rules: Sequence[str], ours: Sequence[str]) -> list[Deletion]:
    """What takes `ours` out of a chain; of rules with the same words ours are the last, as we append."""
    if all(rules.count(line) == ours.count(line) for line in ours):
        return [Deletion(chain, line) for line in ours]
    left, found = list(ours), []
    for number in range(len(rules), 0, -1):
        line = rules[number - 1]
        if line in left:
            left.remove(line)
            found.append(Deletion(chain, line, number))
    return found


def change_text(changes: Sequence[TableChange]) -> str:
    """The changes as input for one `iptables-restore --noflush`."""
    lines: list[str] = []
    for change in changes:
        lines.append(f"*{change.table}")
        lines += [f":{chain} - [0:0]" for chain in change.emptied]
        lines += [f"-D {deletion.chain} {deletion.number or deletion.rule}" for deletion in change.deleted]
        lines += [f"-I {chain} {rule}" for chain, rule in reversed(change.inserted)]
        lines += [f"-A {chain} {rule}" for chain, rule in change.appended]
        lines += [f"-X {chain}" for chain in change.removed]
        lines.append("COMMIT\n")
    return "\n".join(lines)


def put_back_text(before: Lines, changes: Sequence[TableChange]) -> str:
    """Input that makes the tables of `changes`, wherever they got to, what they were before, foreign rules and all."""
    lines: list[str] = []
    for change in changes:
        chains = before.get(change.table, {})
        touched = change.touched()
        lines.append(f"*{change.table}")
        lines += [f":{chain} - [0:0]" for chain in change.emptied]
        lines += [f"-F {chain}" for chain in BUILT_IN if chain in touched]
        lines += [f"-A {chain} {rule}" for chain, rules in chains.items() if chain in touched for rule in rules]
        lines += [f"-X {chain}" for chain in change.emptied if chain not in chains]
        lines.append("COMMIT\n")
    return "\n".join(lines)
