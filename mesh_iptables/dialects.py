"""The dialects: which there are, and which one a command line means.

Only the module of the chosen one is loaded; an init container pays for nothing else.
"""

from __future__ import annotations

from mesh_iptables.errors import UsageError, shown
from mesh_iptables.options import DIALECTS, Request, UnknownOption, split_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mesh_iptables.dialect import Dialect

PROGRAM_1_2X = "istio-iptables"
_OLD, _NEW = DIALECTS


def dialect(name: str) -> Dialect:
    """The dialect of that name; UsageError where there is none."""
    if name == _OLD:
        from mesh_iptables.dialect_1_0 import OLD

        return OLD
    if name == _NEW:
        from mesh_iptables.dialect_1_2x import NEW

        return NEW
    raise UsageError(f"--dialect: {shown(name)} is not one of {', '.join(DIALECTS)}")


def dialect_name(words: Sequence[str], environment: Mapping[str, str], program: str) -> str:
    """Which dialect is meant: as an option says, the environment, or the name that the program was called by."""
    for place in range(len(words) - 1, -1, -1):
        name, equals, value = words[place].partition("=")
        if name == "--dialect" and (equals or place + 1 < len(words)):
            return value if equals else words[place + 1]
    by_name = _NEW if program.rpartition("/")[2] == PROGRAM_1_2X else _OLD
    return environment.get("MESH_IPTABLES_DIALECT") or by_name


def split(words: Sequence[str], chosen: Dialect) -> Request:
    """Take a command line apart; UsageError, which names the other dialect where only that one has an option."""
    try:
        return split_words(words, chosen.options)
    except UnknownOption as error:
        for name in DIALECTS:
            known = {word for option in dialect(name).options for word in option.words}
            word = next((found for found in (error.word, error.word[:2]) if found in known), "")
            if word:
                raise UsageError(f"{word}: only dialect {name} has this option, and this is {chosen.name}") from None
        raise
