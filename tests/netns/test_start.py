"""What the start of a real run costs: it loads nothing slow, and starts no more programs than it needs."""

from __future__ import annotations

import sys

from ..unit.test_imports import SLOW
from .namespace import Namespace

CODE = (
    "import sys, mesh_iptables.__main__\n"
    "from mesh_iptables.cli.rules import run\n"
    "assert run(sys.argv[1:]) == 0\n"
    "print(*sys.modules, file=sys.stderr)"
)


def test_a_run_that_changes_the_kernel_loads_nothing_slow(namespace: Namespace) -> None:
    for flavour in ("legacy", "nft"):
        for words in (["-u", "1337", "-b", "*", "-i", "*"], ["-u", "1337", "-m", "TPROXY", "-b", "80"], ["clean"]):
            command, rest = (words[0], words[1:]) if words[0] == "clean" else ("apply", words)
            done = namespace.run(sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, '.')\n{CODE}", command,
                                 "--iptables", flavour, *rest)  # fmt: skip
            loaded = {name.partition(".")[0] for name in done.stderr.splitlines()[-1].split()}
            assert "mesh_iptables" in loaded
            assert not loaded & SLOW
