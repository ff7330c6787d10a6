"""Start the proxy under test in the pod, wait until it is ready, stop it again."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from .schema import Identity, Scalar
from .world import ROOT, World

ADMIN = 15000
START_LIMIT = 20.0  # seconds
STOP_LIMIT = 5.0


class EngineError(Exception):
    """The engine did not start, or ended early; the message holds what it said."""


@dataclass(frozen=True)
class Settings:
    """What one proxy is started with, beside its documents."""

    engine: str  # python or envoy
    profile: str
    compat: str | None
    options: Mapping[str, Scalar]
    client: Identity
    allow: tuple[str, ...] = ()  # in place of documents

    def words(self) -> list[str]:
        """The command line words that state these settings."""
        words = ["--profile", self.profile]
        words += ["--compat", self.compat] if self.compat else []
        for key, value in self.options.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            words += ["--option", f"{key}={text}"]
        words += ["--namespace", self.client.namespace, "--service-account", self.client.service_account]
        labels = ",".join(f"{key}={value}" for key, value in self.client.labels.items())
        return words + (["--labels", labels] if labels else [])


def yaml_stream(documents: Iterable[Mapping[str, Any]]) -> str:
    """The documents as one YAML stream."""
    text = StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.explicit_start = True
    for document in documents:
        yaml.dump(document, text)
    return text.getvalue()


def program() -> list[str]:
    return [sys.executable, "-m", "mesh_iptables"]


def environment() -> dict[str, str]:
    """Ours, with the checkout importable and this interpreter's programs first."""
    here = str(Path(sys.executable).parent)
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return {**kept, "PYTHONPATH": str(ROOT), "PATH": f"{here}:{kept.get('PATH', '')}"}


class Engine:
    """One running proxy; `log` is its standard error, `access_log` its standard output."""

    def __init__(
        self,
        world: World,
        settings: Settings,
        policies: list[dict[str, Any]],
        name: str,
        more: Sequence[str] = (),
    ) -> None:
        self._world = world
        self.settings = settings
        self.policy = world.folder / f"{name}.yaml"
        self.log = world.folder / f"{name}.err"
        self.access_log = world.folder / f"{name}.out"
        self.rewrite(policies)
        policy = [word for entry in settings.allow for word in ("--allow", entry)] or ["--policy", str(self.policy)]
        words = [*program(), "proxy", *policy, "--engine", settings.engine]
        words += [*settings.words(), "--admin", f"127.0.0.1:{ADMIN}", *more]
        uid = world.interception.proxy_uid
        with self.log.open("wb") as err, self.access_log.open("wb") as out:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                user=uid,
                group=uid,
                extra_groups=[],
                cwd="/",
                env=environment(),
                start_new_session=True,
            )

    def rewrite(self, policies: list[dict[str, Any]]) -> None:
        self.policy.write_text(yaml_stream(policies))
        self.policy.chmod(0o644)

    def wait_until_ready(self) -> None:
        """Return when the redirect port listens, or when the engine says it is ready without (default deny)."""
        limit = time.monotonic() + START_LIMIT
        while time.monotonic() < limit:
            if self.process.poll() is not None:
                raise EngineError(f"the engine ended with status {self.process.returncode}: {self.last_line()}")
            if self._listens() or self._says_ready():
                return
            time.sleep(0.03)
        raise EngineError(f"the engine was not ready after {START_LIMIT:.0f} s: {self.last_line()}")

    def _listens(self) -> bool:
        """Whether the redirect port is open, read from the kernel so that no connection is made."""
        port = f":{self._world.interception.port:04X} "
        tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
        lines = [line for table in tables if table.exists() for line in table.read_text().splitlines()]
        return any(port in line.split(" 0000")[0] and " 0A " in line for line in lines)

    def _says_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", ADMIN, timeout=1)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def tail(self) -> str:
        text = self.log.read_text(errors="replace").strip() + "\n" + self.access_log.read_text(errors="replace")
        return text.strip()[-1500:] or "(it said nothing)"

    def last_line(self) -> str:
        return self.tail().splitlines()[-1].strip()

    def stop(self) -> None:
        """Ask it to end; what has not ended after a while is killed, with all it started."""
        end(self.process)
        self._wait_until_closed()

    def _wait_until_closed(self) -> None:
        """The next engine needs the ports."""
        limit = time.monotonic() + STOP_LIMIT
        while self._listens() and time.monotonic() < limit:
            time.sleep(0.02)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, a moment, then SIGKILL for it and whatever it left in its session."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_LIMIT)
    for status in _session(process.pid):
        with suppress(ProcessLookupError):
            os.kill(int(status.parent.name), signal.SIGKILL)
    process.wait()


def _session(leader: int) -> Iterator[Path]:
    """/proc/N/status of every process in the session of its leader."""
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            session = path.with_name("stat").read_text().rsplit(")", 1)[1].split()[3]
        except OSError:  # it has just ended
            continue
        if int(session) == leader:
            yield path


def resident(leader: int) -> int:
    """KiB in memory of a process and of all it started in its session."""
    total = 0
    for path in _session(leader):
        with suppress(OSError):
            fields = dict(line.split(":", 1) for line in path.read_text().splitlines())
            total += int(fields.get("VmRSS", "0 kB").split()[0])
    return total
