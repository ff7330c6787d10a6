"""Build the world around this process: the pod here, the outside in a second network namespace.

Runs as the first process of fresh network, mount and process namespaces (`runner.py` sees to that), so nothing here
needs undoing: when this process ends, the kernel removes namespaces, rules, mounts and every process left in them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .schema import FixtureError, WorldFile, read_world

ROOT = Path(__file__).resolve().parents[3]  # the checkout: scripts/, mesh_iptables/, tests/
START_LIMIT = 30  # seconds for anything that has to come up


class WorldError(Exception):
    """The world could not be built on this machine."""


@dataclass(frozen=True)
class Interception:
    """Who is captured in the pod, and where to."""

    proxy_uid: int
    exempt: tuple[str, ...]  # destinations
    port: int


class Outside:
    """The running outside process; orders go through its stdin."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def order(self, order: Mapping[str, Any]) -> Any:
        """Send one order, see `outside.py`; gives what it answers."""
        self.say(json.dumps(order))
        return json.loads(self.heard())

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def heard(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorldError("the outside has ended")
        return line.strip()


@dataclass(frozen=True)
class World:
    file: WorldFile
    outside: Outside
    interception: Interception
    pki: Path
    folder: Path  # scratch; readable by the proxy's user

    @property
    def lab_root(self) -> Path:
        return self.pki / "root.pem"

    @property
    def pod_address(self) -> str:
        return str(self.file.networks["pod"]["address"]).split("/")[0]


@contextmanager
def build(world_file: Path, pki: Path, folder: Path, *, redirect: bool = True) -> Iterator[World]:
    """The world of a file; `pki` was made for it before, `folder` is an empty directory."""
    world = read_world(world_file)
    interception = read_interception(world)
    _mount_files(world, pki, folder)
    # the outside stays where unshare puts it: no fork, so its pid names its network namespace
    words = ["unshare", "--net", "--", sys.executable, "-m", f"{__package__}.outside"]
    with subprocess.Popen(
        [*words, str(world_file), str(pki)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        try:
            outside = Outside(process)
            _expect(outside, "link")
            _connect(world, process.pid)
            outside.say("go")
            _expect(outside, "up")
            if redirect:
                _redirect(interception)
            yield World(world, outside, interception, pki, folder)
        finally:
            process.kill()


def _expect(outside: Outside, word: str) -> None:
    if (heard := outside.heard()) != word:
        raise WorldError(f"the outside said {heard!r}, expected {word!r}")


def read_interception(world: WorldFile) -> Interception:
    """The rules a world file states in words."""
    text = json.dumps(world.interception)
    uid, port = re.search(r"uid (\d+)", text), re.search(r"REDIRECT to port (\d+)", text)
    if not uid or not port:
        raise FixtureError(f"interception: no uid or no redirect port in {text}")
    exempt = re.findall(r"\d+\.\d+\.\d+\.\d+(?:/\d+)?", text)
    if "the pod's own address" in text:
        exempt.append(str(world.networks["pod"]["address"]).split("/")[0])
    return Interception(int(uid[1]), tuple(exempt), int(port[1]))


def run(*words: str, stdin: str | None = None) -> str:
    """Run one command that has to succeed; gives its standard output."""
    result = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=START_LIMIT, check=False)
    if result.returncode:
        raise WorldError(f"{' '.join(words)}: {result.stderr.strip()}")
    return result.stdout


def _connect(world: WorldFile, outside: int) -> None:
    """A cable between the two namespaces; the pod has no other way out."""
    pod, far = world.networks["pod"], world.networks["outside"]
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(outside))
    beyond = ["nsenter", f"--net=/proc/{outside}/ns/net", "ip", "-batch", "-"]
    run(*beyond, stdin=f"link set lo up\nlink set eth0 up\naddr add {far['address']} dev eth0\n")
    run(
        *("ip", "-batch", "-"),
        stdin=f"addr add {pod['address']} dev eth0\nlink set eth0 up\nroute add default via {pod['default_route']}\n",
    )


def _redirect(interception: Interception) -> None:
    lines = [f"-A OUTPUT -m owner --uid-owner {interception.proxy_uid} -j RETURN"]
    lines += [f"-A OUTPUT -d {network} -j RETURN" for network in interception.exempt]
    lines += [f"-A OUTPUT -p tcp -j REDIRECT --to-ports {interception.port}"]
    rules = "\n".join(["*nat", *lines, "COMMIT", ""])
    for command in ("iptables-restore", "iptables-nft-restore", "iptables-legacy-restore"):
        if shutil.which(command) is None:
            continue
        try:
            run(command, stdin=rules)
            return
        except WorldError as error:
            refused = error
    raise refused


def allow_many_connections() -> None:
    """Let the pod open more short connections than it has ports per minute; ports that listen stay out of it."""
    run("sysctl", "-qw", "net.ipv4.ip_local_port_range=20000 65000", "net.ipv4.tcp_tw_reuse=1")
    run("sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_timeout_time_wait=1")


def look_for_vanished_peers() -> None:
    """Ask a silent peer after a second already, where a program wants it asked at all."""
    settings = {"time": 1, "intvl": 1, "probes": 2}
    run("sysctl", "-qw", *(f"net.ipv4.tcp_keepalive_{name}={value}" for name, value in settings.items()))


# --- files ---------------------------------------------------------------------------------------------


def _mount_files(world: WorldFile, pki: Path, folder: Path) -> None:
    """Put the resolver and the certificates where policies and programs look for them, seen from here only."""
    run("mount", "-t", "tmpfs", "-o", "mode=755", "egress", str(folder))
    run("mount", "-t", "tmpfs", "-o", "mode=1777", "egress", "/dev/shm")
    tops = sorted({"/etc", *(_existing_ancestor(path) for path in world.pki.files)})
    for number, top in enumerate(tops):
        upper, work = folder / f"upper{number}", folder / f"work{number}"
        upper.mkdir(mode=0o755)
        work.mkdir()
        layers = f"lowerdir={top},upperdir={upper},workdir={work}"
        run("mount", "-t", "overlay", "-o", layers, "overlay", top)
    for path in world.pki.files:
        target = Path(path)
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        shutil.copy(pki / "files" / path.lstrip("/"), target)
    _replace(Path("/etc/resolv.conf"), f"nameserver {world.networks['pod']['resolver']}\n")
    _replace(Path("/etc/nsswitch.conf"), "hosts: files dns\n")


def _existing_ancestor(path: str) -> str:
    """The deepest directory above `path` that is there: what an overlay can be laid over."""
    folder = next(parent for parent in Path(path).parents if parent.is_dir())
    if folder == Path("/"):
        raise WorldError(f"{path}: its first directory does not exist on this machine")
    return str(folder)


def _replace(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)  # it may be a link into a place we must not touch
    path.write_text(text)
