"""Network namespaces of one's own: made, worked in, removed."""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
PREFIX = "mi"
_numbers = itertools.count(1)


def missing() -> str:
    """What this machine lacks for network namespaces; "" where it has all."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    programs = ("ip", "nft", "iptables-legacy-restore", "ip6tables-legacy-restore", "iptables-nft-restore")
    if absent := [name for name in programs if shutil.which(name) is None]:
        return f"not on this machine: {', '.join(absent)}"
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return f"no network namespaces here: {probe.stderr.strip()}" if probe.returncode else ""


class Namespace:
    """A named network namespace; see `new_namespace`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(
        self, *words: str, stdin: str = "", check: bool = True, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in here and wait; with `check`, an AssertionError that quotes it where it fails.

        Of this process's environment only PATH is passed on, `env` besides.
        """
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *words],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **(env or {})},
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(words)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def mesh_iptables(
        self, *words: str, check: bool = True, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run this checkout's `mesh-iptables` in here."""
        return self.run(sys.executable, "-m", "mesh_iptables", *words, check=check, env=env)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is in here until the block ends: sockets it makes meanwhile stay here."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _set_namespace(there)
            yield
        finally:
            _set_namespace(home)
            os.close(home)
            os.close(there)

    def saved(self) -> dict[str, list[str]]:
        """What all save programs and `nft` print, by program; only rules; of nft everything."""
        texts = {
            name: self.run(name, check=False).stdout
            for name in (
                "iptables-legacy-save",
                "ip6tables-legacy-save",
                "iptables-nft-save",
                "ip6tables-nft-save",
            )
        }
        found = {name: [line for line in text.splitlines() if line.startswith("-A")] for name, text in texts.items()}
        return found | {"nft": self.run("nft", "list", "ruleset").stdout.splitlines()}


def _set_namespace(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, 0x40000000):
        raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def new_namespace() -> Iterator[Namespace]:
    """A fresh namespace with `lo` up; it and its interfaces are gone when the block ends."""
    namespace = Namespace(f"{PREFIX}{os.getpid()}-{next(_numbers)}")
    subprocess.run(["ip", "netns", "add", namespace.name], check=True)
    try:
        namespace.run("ip", "link", "set", "lo", "up")
        yield namespace
    finally:
        subprocess.run(["ip", "netns", "delete", namespace.name], check=True)
