"""Read `iptables-save` text into rules. Pure; understands our vocabulary, keeps every other word as it stands."""

from __future__ import annotations

import _socket

from mesh_iptables.model import (
    BUILT_IN,
    Address,
    ConnectionMark,
    ConnState,
    Interface,
    Jump,
    Network,
    NoTarget,
    Owner,
    PacketMark,
    PortRange,
    Ports,
    Protocol,
    Redirect,
    Reject,
    RestoreMark,
    Rule,
    SaveMark,
    SetMark,
    Socket,
    Tproxy,
    Unknown,
    Verdict,
    Zone,
)
from mesh_iptables.render.iptables import ALL_PORTS, PORT_UNREACHABLE
from mesh_iptables.ruleset import Ruleset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mesh_iptables.model import Family, Match, Side, Table, Target

_HEADS = frozenset({"-s", "-d", "-i", "-o", "-p", "-m", "-j", "-g", "-f"})
_ANY_PORT = Ports("destination", (PortRange(*ALL_PORTS),))  # what is always true is not printed
BARE: dict[str, Match] = {"socket": Socket(), "tcp": _ANY_PORT, "udp": _ANY_PORT}
_EXTENSIONS = frozenset({"REDIRECT", "TPROXY", "MARK", "CONNMARK", "CT", "REJECT"})


def read_ruleset(texts: Mapping[Family, str]) -> Ruleset:
    """All chains, policies and rules of `iptables-save` (ipv4) and `ip6tables-save` (ipv6) text."""
    ruleset = Ruleset()
    for family, text in texts.items():
        table: Table = "filter"
        for line in text.splitlines():
            if line.startswith("*"):
                table = line[1:].strip()  # type: ignore[assignment]  # whatever tables there are
            elif line.startswith(":"):
                _read_chain(ruleset, family, table, line[1:].split())
            elif line.startswith(("-A ", "[")):
                chain, _, rule = line[line.index("-A ") + 3 :].partition(" ")
                ruleset.chains.setdefault((family, table, chain), []).append(read_rule(rule, family))
    for (family, table, _), rules in ruleset.chains.items():
        rules[:] = [_without_false_jump(rule, ruleset, family, table) for rule in rules]
    return ruleset


def _without_false_jump(rule: Rule, ruleset: Ruleset, family: Family, table: Table) -> Rule:
    """`-j MASQUERADE` reads like a jump; it is one only where there is such a chain."""
    target = rule.target
    if not isinstance(target, Jump) or (family, table, target.chain) in ruleset.chains:
        return rule
    return Rule(rule.matches, Unknown(("-g" if target.goto else "-j", target.chain)))


def _read_chain(ruleset: Ruleset, family: Family, table: Table, words: list[str]) -> None:
    chain, policy = words[0], words[1]
    if chain not in BUILT_IN:
        ruleset.chains[family, table, chain] = []
    elif policy not in ("ACCEPT", "-"):
        ruleset.policies[family, table, chain] = policy


def read_rule(line: str, family: Family) -> Rule:
    """One rule without its `-A CHAIN`. What has no name here becomes an `Unknown` match or target."""
    matches: list[Match] = []
    target: Target = NoTarget()
    for group in _groups(split_quoted(line)):
        if group[0] in ("-j", "-g"):
            target = _read_target(group, family)
        else:
            matches += _read_match(group)
    return Rule(tuple(matches), target)


def split_quoted(line: str) -> list[str]:
    """The words of a saved line; a quoted one (a comment, say) is a single word, whatever it holds."""
    words: list[str] = []
    word, quoted, escaped = "", False, False
    for letter in line + " ":
        if escaped:
            word, escaped = word + letter, False
        elif letter == "\\" and quoted:
            escaped = True
        elif letter == '"':
            quoted = not quoted
        elif letter == " " and not quoted:
            if word:
                words.append(word)
            word = ""
        else:
            word += letter
    return words


def _groups(words: Sequence[str]) -> Iterator[list[str]]:
    """The words in groups, each begun by one of the short options, a `!` in front included."""
    group: list[str] = []
    for place, word in enumerate(words):
        head = words[place + 1] if word == "!" and place + 1 < len(words) else word
        negated_already = bool(group) and group[-1] == "!"
        if head in _HEADS and not negated_already and group:
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _read_match(group: list[str]) -> list[Match]:
    negated = group[0] == "!"
    words = group[1:] if negated else group
    match words:
        case ["-s" | "-d" as option, network]:
            return [Address(_side(option[1]), read_network(network), negated)]
        case ["-i", name]:
            return [Interface("in", name, negated)]
        case ["-o", name]:
            return [Interface("out", name, negated)]
        case ["-p", name]:
            return [Protocol(name, negated)]
        case ["-m", module, *options]:
            if not options and module in BARE:
                return [BARE[module]]
            found = [_read_option(module, *option) for option in _options(options)]
            known = [match for match in found if match is not None]
            if known and len(known) == len(found):
                return known
    return [Unknown(tuple(group))]


def _options(words: Sequence[str]) -> Iterator[tuple[bool, str, str]]:
    """Each `[!] --option value` of a match."""
    rest = list(words)
    while rest:
        negated = rest[0] == "!"
        option, *values = rest[1:] if negated else rest
        count = next((place for place, word in enumerate(values) if word == "!" or word.startswith("--")), len(values))
        yield negated, option, " ".join(values[:count])
        rest = values[count:]


def _read_option(module: str, negated: bool, option: str, value: str) -> Match | None:
    match module, option:
        case ("tcp" | "udp", "--dport" | "--sport") | ("multiport", "--dports" | "--sports"):
            ranges = tuple(_read_range(part, ":") for part in value.split(","))
            return Ports(_side(option[2]), ranges, negated)
        case "owner", "--uid-owner" | "--gid-owner":
            ids = _read_range(value, "-")
            return Owner("uid" if option == "--uid-owner" else "gid", ids.low, ids.high, negated)
        case ("state", "--state") | ("conntrack", "--ctstate"):
            return ConnState(tuple(value.split(",")), "state" if module == "state" else "conntrack", negated)
        case "mark" | "connmark", "--mark":
            number, _, mask = value.partition("/")
            kind = PacketMark if module == "mark" else ConnectionMark
            return kind(int(number, 16), int(mask, 16) if mask else 0xFFFFFFFF, negated)
    return None


def _side(letter: str) -> Side:
    return "source" if letter == "s" else "destination"


def _read_range(text: str, between: str) -> PortRange:
    low, _, high = text.partition(between)
    return PortRange(int(low), int(high or low))


def read_network(text: str) -> Network:
    """`10.0.0.0/8`, `10.0.5.0/255.0.255.0` or `fd00::/8`."""
    address, _, mask = text.partition("/")
    version, family, bits = (6, _socket.AF_INET6, 128) if ":" in address else (4, _socket.AF_INET, 32)
    if mask.isdigit() or not mask:
        prefix = int(mask or bits)
        mask_number = ((1 << prefix) - 1) << (bits - prefix)
    else:
        mask_number = int.from_bytes(_socket.inet_pton(family, mask))
    return Network(version, int.from_bytes(_socket.inet_pton(family, address)) & mask_number, mask_number)


def _read_target(group: list[str], family: Family) -> Target:
    known = _known_target(group, family)
    return Unknown(tuple(group)) if known is None else known


def _known_target(group: list[str], family: Family) -> Target | None:
    whole = "0xffffffff"
    match group:
        case ["-j", "ACCEPT" | "RETURN" | "DROP" as name]:
            return Verdict(name)
        case ["-j", "REJECT", "--reject-with", message]:
            return Reject("" if message == PORT_UNREACHABLE[family] else message)
        case ["-j", "REDIRECT", "--to-ports", ports]:
            return Redirect(_read_range(ports, "-"))
        case ["-j", "TPROXY", "--on-port", port, "--on-ip", "0.0.0.0" | "::", "--tproxy-mark", mark] if mark.endswith(
            f"/{whole}"
        ):
            return Tproxy(_read_range(port, "-"), int(mark.partition("/")[0], 16))
        case ["-j", "MARK", "--set-xmark", mark] if mark.endswith(f"/{whole}"):
            return SetMark(int(mark.partition("/")[0], 16))
        case ["-j", "CONNMARK", "--save-mark", "--nfmask", mask, "--ctmask", other] if mask == other == whole:
            return SaveMark()
        case ["-j", "CONNMARK", "--restore-mark", "--nfmask", mask, "--ctmask", other] if mask == other == whole:
            return RestoreMark()
        case ["-j", "CT", "--zone", number]:
            return Zone(int(number))
        case ["-j" | "-g" as option, chain] if chain not in _EXTENSIONS:
            return Jump(chain, goto=option == "-g")
    return None
