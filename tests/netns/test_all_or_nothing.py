"""Whatever refuses, and whenever: the kernel holds what it held before, and one line says why."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh_iptables.errors import ApplyError, MachineError
from mesh_iptables.options import configure, gather, split_words
from mesh_iptables.plan import istio_1_0

from ..unit.names import FewNames
from .backends import EVERY, WORDS, kernel_text, needs_iptc, own_rules
from .namespace import Namespace
from .test_again_and_clean import REDIRECT, TPROXY, put_foreign_rules

FLAVOURS = ("legacy", "nft")
LEGACY = ["legacy", pytest.param("iptc", marks=needs_iptc)]
PROGRAMS = [f"{program}-{flavour}-restore" for flavour in FLAVOURS for program in ("iptables", "ip6tables")]
PASS_ON = 'exec {real} "$@"'
REFUSE = 'echo "{name}: line 3 failed: made to fail" >&2; exit 1'
# The first commit stops behind its first table, as if the kernel refused the second; later ones are passed on.
FIRST_TABLE_ONLY = """
if [ ! -e {folder}/ran ]; then
    touch {folder}/ran
    sed /COMMIT/q | {real} "$@"
    {refuse}
fi
"""


def stand_in(folder: Path, name: str, body: str) -> dict[str, str]:
    """An environment in which the program `name` is a shell script: `{real}` in `body` is the real one."""
    real = shutil.which(name)
    refuse = REFUSE.format(name=name)
    pass_on = PASS_ON.format(real=real)
    text = body.format(real=real, folder=folder, refuse=refuse, pass_on=pass_on)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n{pass_on}\n")
    path.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


BODIES = {
    "refused when tried out": "{refuse}",
    "tried out, but refused at the commit": 'case "$*" in *--test*) {pass_on} ;; esac\n{refuse}',
    "refused behind the first table": 'case "$*" in *--test*) {pass_on} ;; esac\n' + FIRST_TABLE_ONLY,
    "killed at the commit": 'case "$*" in *--test*) {pass_on} ;; esac\nkill -9 $$',
    "says nothing": "exit 1",
}


def assert_untouched(namespace: Namespace, before: dict[str, str], done: subprocess.CompletedProcess[str]) -> None:
    """Nothing changed, and one line says why."""
    assert kernel_text(namespace) == before
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("mesh-iptables: ")


@pytest.mark.parametrize("earlier", [(), REDIRECT], ids=["first run", "second run"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_refused_restore_leaves_everything_as_it_was(
    program: str, body: str, earlier: tuple[str, ...], namespace: Namespace, tmp_path: Path
) -> None:
    words = WORDS["nft" if "nft" in program else "legacy"]
    put_foreign_rules(namespace)
    if earlier:
        namespace.mesh_iptables("apply", *words, *earlier)
    before = kernel_text(namespace)
    # The lockdown comes with the first run and goes with the second, so that both families change.
    environment = stand_in(tmp_path, program, body) | ({"ENABLE_INBOUND_IPV6": "1"} if earlier else {})
    done = namespace.mesh_iptables("apply", *words, *TPROXY, check=False, env=environment)
    assert_untouched(namespace, before, done)
    assert done.returncode in (2, 3, 4)
    assert program in done.stderr
    namespace.mesh_iptables("apply", *words, *TPROXY)


@pytest.fixture
def lock() -> Iterator[socket.socket]:
    """A stand-in for the lock: these tests are alone in their namespaces."""
    with socket.socket(socket.AF_UNIX) as held:
        yield held


@needs_iptc
@pytest.mark.parametrize("failing", [0, 1, 2])
@pytest.mark.parametrize("earlier", [(), REDIRECT], ids=["first run", "second run"])
def test_a_refused_commit_of_libiptc_puts_the_others_back(
    failing: int,
    earlier: tuple[str, ...],
    namespace: Namespace,
    lock: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mesh_iptables.apply.iptc import IptcBackend
    from mesh_iptables.apply.libiptc import Table

    put_foreign_rules(namespace)
    namespace.mesh_iptables("apply", *WORDS["iptc"], *earlier) if earlier else None
    namespace.run("ping", "-c", "1", "127.0.0.1", check=False)
    before = kernel_text(namespace, counters=True)
    commits = 0
    commit = Table.commit

    def commit_or_fail(table: Table) -> None:
        nonlocal commits
        commits += 1
        if commits == failing + 1:
            raise ApplyError("made to fail", 4)
        commit(table)

    monkeypatch.setattr(Table, "commit", commit_or_fail)
    environment = {"ENABLE_INBOUND_IPV6": "1"} if earlier else {}
    config = configure(
        gather(split_words(TPROXY).rules, environment, lambda _: None, dry_run=True), FewNames(), dry_run=True
    )
    plan = istio_1_0.plan(config)
    with namespace.entered(), pytest.raises(ApplyError, match="made to fail"):
        IptcBackend(lock, wait=1).apply(plan)
    assert commits == 2 * failing + 1  # as many put back as were committed before
    assert kernel_text(namespace, counters=True) == before


@pytest.mark.parametrize("backend", ["legacy", "nft", pytest.param("iptc", marks=needs_iptc)])
def test_without_the_socket_match_the_rest_is_applied(backend: str, namespace: Namespace, tmp_path: Path) -> None:
    extensions = Path(next(Path("/usr/lib").glob("**/xtables/libxt_socket.so"))).parent
    for path in extensions.iterdir():
        if path.name != "libxt_socket.so":
            (tmp_path / path.name).symlink_to(path)
    environment = {"XTABLES_LIBDIR": str(tmp_path)}
    for _ in range(2):
        done = namespace.mesh_iptables("apply", *WORDS[backend], *TPROXY, env=environment)
        assert done.stderr == "mesh-iptables: No socket match support\n"
        text = str(own_rules(namespace, backend))
        assert "TPROXY --on-port 15001" in text
        assert "-m socket" not in text


@pytest.mark.parametrize("backend", ["legacy", "nft", "native"])
def test_a_missing_program_is_named(backend: str, namespace: Namespace, tmp_path: Path) -> None:
    name = {"legacy": "xtables-legacy-multi", "nft": "xtables-nft-multi", "native": "nft"}[backend]
    program = Path(str(shutil.which(name))).resolve()
    put_foreign_rules(namespace)
    before = kernel_text(namespace)
    hidden = tmp_path / "hidden"
    hidden.touch()
    run = f'mount --bind {hidden} {program} && exec {sys.executable} -m mesh_iptables "$@"'
    done = namespace.run("unshare", "--mount", "sh", "-c", run, "-", "apply", *WORDS[backend], *TPROXY, check=False)
    assert_untouched(namespace, before, done)
    assert done.returncode == MachineError.exit_status
    assert "is not on this machine; install" in done.stderr


@pytest.mark.parametrize("flavour", ["legacy", "nft"])
@pytest.mark.parametrize("words", [TPROXY, REDIRECT], ids=["TPROXY", "REDIRECT"])
def test_where_there_is_no_ipv6_the_rest_is_applied_and_that_is_told(
    flavour: str, words: tuple[str, ...], namespace: Namespace, tmp_path: Path
) -> None:
    complaint = {"legacy": "unable to initialize table 'filter'", "nft": "Failed to initialize nft: not supported"}
    for name in ("restore", "save"):
        program = tmp_path / f"ip6tables-{flavour}-{name}"
        program.write_text(f'#!/bin/sh\necho "ip6tables: {complaint[flavour]}" >&2; exit 2\n')
        program.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for _ in range(2):
        done = namespace.mesh_iptables("apply", *WORDS[flavour], *words, env=environment)
        assert done.stderr.startswith("mesh-iptables: inbound IPv6 is not refused")
        assert done.stderr.count("\n") == 1
    assert "-A OUTPUT -p tcp -j ISTIO_OUTPUT" in namespace.saved()[f"iptables-{flavour}-save"]


@pytest.mark.parametrize(
    "words", [("apply", *TPROXY), ("apply", *REDIRECT), ("clean",)], ids=["TPROXY", "REDIRECT", "clean"]
)
@pytest.mark.parametrize("capabilities", ["-all", "-net_admin"])
@pytest.mark.parametrize("backend", EVERY)
def test_without_rights_nothing_happens(
    backend: str, capabilities: str, words: tuple[str, ...], namespace: Namespace
) -> None:
    put_foreign_rules(namespace)
    namespace.mesh_iptables("apply", *WORDS[backend], *REDIRECT)
    before = kernel_text(namespace)
    less = ("--reuid=65534", "--clear-groups") if capabilities == "-all" else ()
    less = ("setpriv", *less, f"--bounding-set={capabilities}", f"--inh-caps={capabilities}")
    run = (*less, sys.executable, "-m", "mesh_iptables", words[0], *WORDS[backend], *words[1:])
    done = namespace.run(*run, check=False)
    if words[1:] == REDIRECT and done.returncode == 0:  # it could be read that nothing is to be done
        assert kernel_text(namespace) == before
        return
    assert_untouched(namespace, before, done)
    assert done.returncode == MachineError.exit_status
    assert "NET_ADMIN" in done.stderr


@pytest.mark.parametrize("backend", LEGACY)
def test_a_lock_file_that_cannot_be_made_is_told(backend: str, namespace: Namespace) -> None:
    put_foreign_rules(namespace)
    before = kernel_text(namespace)
    environment = {"XTABLES_LOCKFILE": "/proc/no-such-folder/lock"}
    done = namespace.mesh_iptables("apply", *WORDS[backend], *TPROXY, check=False, env=environment)
    assert_untouched(namespace, before, done)
    assert done.returncode == MachineError.exit_status
    assert "XTABLES_LOCKFILE" in done.stderr


@needs_iptc
def test_a_missing_python_iptables_is_told(namespace: Namespace) -> None:
    before = kernel_text(namespace)
    hide = "import sys; sys.modules['iptc'] = None; sys.argv[0] = 'x'; from mesh_iptables.__main__ import main; main()"
    run = (sys.executable, "-c", hide, "apply", *WORDS["iptc"], *TPROXY)
    done = namespace.run(*run, check=False)
    assert_untouched(namespace, before, done)
    assert done.returncode == MachineError.exit_status
    assert "pip install 'mesh-iptables[iptc]'" in done.stderr
