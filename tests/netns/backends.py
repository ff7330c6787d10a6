"""The ways into the kernel that a test is repeated for, and what they leave there."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from .namespace import Namespace

WORDS: dict[str, tuple[str, ...]] = {
    "legacy": ("--backend", "restore", "--iptables", "legacy"),
    "nft": ("--backend", "restore", "--iptables", "nft"),
    "native": ("--backend", "nft"),
    "iptc": ("--backend", "iptc"),
}
needs_iptc = pytest.mark.skipif(find_spec("iptc") is None, reason="python-iptables is not installed")
EVERY = [
    pytest.param(name, marks=needs_iptc) if name == "iptc" else name for name in WORDS
]  # for parametrize("backend", …)
SAVES = tuple(f"{program}-{flavour}-save" for flavour in ("legacy", "nft") for program in ("iptables", "ip6tables"))
LEGACY_TABLES = ("filter", "mangle", "nat", "raw")


def make_legacy_tables(namespace: Namespace) -> None:
    """Have the kernel make all legacy tables: once made they stay, and are printed, however empty."""
    for program in ("iptables-legacy", "ip6tables-legacy"):
        for table in LEGACY_TABLES:
            namespace.run(program, "-t", table, "-S")


def kernel_text(namespace: Namespace, *, counters: bool = False) -> dict[str, str]:
    """All that any tool prints about rules and routing, by command, without the dates and counters."""
    flag = ("--counters",) if counters else ()
    texts = {name: _undated(namespace.run(name, *flag).stdout, counters=counters) for name in SAVES}
    for words in (
        ("rule",),
        ("-6", "rule"),
        ("route", "show", "table", "all"),
        ("-6", "route", "show", "table", "all"),
    ):
        texts[" ".join(words)] = namespace.run("ip", *words).stdout
    return texts | {"nft": namespace.run("nft", "list", "ruleset").stdout}


def _undated(text: str, *, counters: bool) -> str:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    if not counters:  # those of a policy are printed anyway
        lines = [line.partition(" [")[0] if line.startswith(":") else line for line in lines]
    return "\n".join(lines)


def own_rules(namespace: Namespace, backend: str) -> dict[str, list[str]]:
    """The rules that a backend left, by the command that prints them."""
    if backend == "native":
        return {"nft": namespace.run("nft", "list", "ruleset").stdout.splitlines()}
    flavour = "nft" if backend == "nft" else "legacy"
    names = (f"iptables-{flavour}-save", f"ip6tables-{flavour}-save")
    return {name: _rules_by_table(namespace.run(name).stdout) for name in names}


def _rules_by_table(text: str) -> list[str]:
    """Tables by name; the kernel lists them in the order in which they were made."""
    tables = sorted(part[part.index("*") :] for part in text.split("COMMIT") if "*" in part)
    return [line for table in tables for line in table.splitlines() if line.startswith("-A")]
