"""podman with settings, storage and a network namespace of its own: what it makes is gone when it is closed."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.netns.namespace import Namespace, new_namespace

PROGRAMS = ("podman", "runc", "conmon", "mmdebstrap", "nsenter", "unshare")
# netavark is in no PATH
NETAVARK = (Path("/usr/lib/podman/netavark"), Path("/usr/libexec/podman/netavark"))
# Replaces the machine's settings: nothing of them is to decide whether a test passes.
CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
tmp_dir = "{folder}/tmp"
volume_path = "{folder}/volumes"
[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
"""
TIME_LIMIT = 240  # seconds for one command of the engine


def missing() -> str:
    """What this machine lacks for containers; "" where it has all."""
    if os.geteuid() != 0:
        return "containers need root"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if not any(path.exists() for path in NETAVARK):
        absent.append("netavark")
    return f"not on this machine: {', '.join(absent)}; scripts/setup --containers installs it" if absent else ""


@dataclass(frozen=True)
class Done:
    """How a command ended and what it printed, standard output and error apart."""

    status: int
    out: str
    err: str


class Engine:
    """podman; see `new_engine`. Containers live in `namespace`, images are built in the machine's own."""

    def __init__(self, folder: Path, namespace: Namespace) -> None:
        self.folder = folder
        self.namespace = namespace
        places = [f"--root={folder}/storage", f"--runroot={folder}/run", f"--tmpdir={folder}/tmp"]
        self._words = ["podman", "--log-level=error", *places]

    def run(self, *words: str, stdin: str = "", check: bool = True) -> Done:
        """One command in the test's own namespace; with `check` an AssertionError where it fails."""
        inside = ["nsenter", f"--net=/run/netns/{self.namespace.name}"]
        return self._run([*inside, *self._words, *words], stdin, check=check)

    def build(self, *words: str) -> str:
        """Build an image with the machine's own network, as that of the tests has no way out; gives its ID."""
        options = ("build", "--quiet", "--network=host", "--pull=never")
        return self._run([*self._words, *options, *words], "", check=True).out.split()[-1]

    def _run(self, words: Sequence[str], stdin: str, *, check: bool) -> Done:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "CONTAINERS_CONF": f"{self.folder}/conf"}
        done = subprocess.run(
            words,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIME_LIMIT,
            env=environment,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(words)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return Done(done.returncode, done.stdout, done.stderr)

    def size(self, image: str) -> int:
        """Bytes of an image with all of its layers."""
        return int(json.loads(self.run("image", "inspect", image).out)[0]["Size"])

    def close(self) -> None:
        """Remove pods, containers and images; the folder and the namespace are their maker's."""
        self.run("pod", "rm", "--all", "--force", "--time=0", check=False)
        self.run("rm", "--all", "--force", "--time=0", "--volumes", check=False)
        self.run("image", "rm", "--all", "--force", check=False)


@contextmanager
def new_engine(folder: Path) -> Iterator[Engine]:
    """An engine that keeps all it has below `folder`, an empty directory, and leaves nothing there."""
    (folder / "conf").write_text(_settings(folder))
    with ExitStack() as stack:
        engine = Engine(folder, stack.enter_context(new_namespace()))
        stack.callback(_remove, folder)
        stack.callback(engine.close)
        yield engine


def _settings(folder: Path) -> str:
    """containers.conf; the limits are those this process has, as not every root may raise them as podman does."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    pids = int(Path("/proc/sys/kernel/pid_max").read_text())
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    processes = pids if hard == resource.RLIM_INFINITY else min(hard, pids)
    return CONTAINERS_CONF.format(files=files, processes=processes, folder=folder)


def _remove(folder: Path) -> None:
    """Unmount what podman left mounted below the folder (its storage is a mount of itself), then delete it."""
    for point in reversed(mounts_below(folder)):
        subprocess.run(["umount", "--lazy", point], check=False)
    shutil.rmtree(folder)


def mounts_below(folder: Path) -> list[str]:
    """Mount points of this machine in a folder."""
    points = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if re.match(re.escape(str(folder)) + "(/|$)", point)]
