"""A wrong request leaves the kernel as it was, and the machine's first namespace is left alone."""

from __future__ import annotations

import subprocess
import sys

from ..unit.cli.bad_input import BAD
from .namespace import Namespace


def test_no_wrong_request_reaches_the_kernel(namespace: Namespace) -> None:
    """All in one process per flavour of rules: what is refused is refused before a backend is chosen."""
    namespace.mesh_iptables("apply", "--iptables", "legacy", "-u", "1337", "-b", "80", "-i", "*")
    before = namespace.saved()
    code = (
        "import os, sys\n"
        "from mesh_iptables.cli import rules\n"
        "from tests.unit.cli.bad_input import BAD\n"
        "for name, bad in BAD.items():\n"
        "    os.environ.update(bad.environment)\n"
        "    status = rules.run(['apply', '--quiet', *bad.words])\n"
        "    assert status == 1, (name, status)\n"
        "    for variable in bad.environment: del os.environ[variable]\n"
    )
    done = namespace.run(sys.executable, "-c", code)
    assert namespace.saved() == before
    assert len(done.stderr.splitlines()) == len(BAD)
    assert "Traceback" not in done.stderr


def test_the_first_network_namespace_is_refused_without_host() -> None:
    for words in (["apply", "-u", "1337"], ["clean"], []):
        done = subprocess.run(
            [sys.executable, "-m", "mesh_iptables", *words], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (11, "")
        assert done.stderr.startswith("mesh-iptables: this is the machine's first network namespace")
