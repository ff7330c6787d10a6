"""Pages of Markdown whose tables come from the code, each between `<!-- from the code: NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from mesh_iptables.cli.reference import inject, options, policy, proxy

SECTIONS: Mapping[str, Callable[[], list[str]]] = {
    **options.SECTIONS,
    **proxy.SECTIONS,
    **policy.SECTIONS,
    **inject.SECTIONS,
}
_SECTION = re.compile(r"(<!-- from the code: (?P<name>[^\n]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """A page with its tables as the code is now; KeyError for a name that is none."""
    return _SECTION.sub(lambda found: "\n".join([found[1], *SECTIONS[found["name"]](), "", found[3]]), text)


def names(text: str) -> list[str]:
    """The tables of a page."""
    return [found["name"] for found in _SECTION.finditer(text)]
