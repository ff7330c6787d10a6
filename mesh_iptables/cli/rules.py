"""`apply`, `clean` and `render`: the way of an init container, so it loads next to nothing before it needs it."""

from __future__ import annotations

import os
import sys

from mesh_iptables.dialects import PROGRAM_1_2X, dialect, dialect_name, split
from mesh_iptables.errors import MachineError, MeshIptablesError, UsageError, shown
from mesh_iptables.model import Plan
from mesh_iptables.names import SystemNames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mesh_iptables.apply import Applied, Backend
    from mesh_iptables.dialect import Dialect, Surroundings, Task
    from mesh_iptables.options import Request


def run(words: Sequence[str]) -> int:
    """Carry out one of the three; the exit status. The words are those behind the program's name."""
    command = words[0] if words and not words[0].startswith("-") else "apply"
    rest = words[1:] if words and words[0] == command else words
    if command == PROGRAM_1_2X:  # the first argument that today's injector gives to an init container
        command, rest = "apply", ["--dialect", "istio-1.2x", *rest]
    try:
        return COMMANDS[command](rest)
    except MeshIptablesError as error:
        return complain(error)
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def complain(error: MeshIptablesError) -> int:
    """Tell what was wrong, in one line."""
    print(f"mesh-iptables: {error}", file=sys.stderr)
    return error.exit_status


def _say(run: Mapping[str, str], texts: Sequence[str]) -> None:
    if "quiet" not in run:
        for text in texts:
            print(f"mesh-iptables: {text}", file=sys.stderr)


def render(words: Sequence[str]) -> int:
    """Print the plan."""
    print(rendered(words, os.environ), end="")
    return 0


def rendered(words: Sequence[str], environment: Mapping[str, str]) -> str:
    """The plan of these words, those behind `render`, as text; warnings go to standard error."""
    chosen, request = _request(words, environment)
    task = _understand(chosen, request, environment, dry_run=True)
    return _text(chosen, task)


def _text(chosen: Dialect, task: Task) -> str:
    from importlib import import_module

    _say(task.run, task.warnings)
    name = task.run.get("format", "shell")
    if name not in chosen.formats:
        raise UsageError(f"--format: {shown(name)} is not for dialect {chosen.name}: {', '.join(chosen.formats)}")
    return str(import_module(chosen.formats[name]).render(task.plan))


def apply(words: Sequence[str]) -> int:
    """Put the rules into force; the settings and the resulting rules go to standard output."""
    chosen, request = _request(words, os.environ)
    task = _understand(chosen, request, os.environ, dry_run="dry_run" in request.run)
    if "dry_run" in task.run:
        return _dry_run(chosen, task)
    if task.clean:
        return _clean(chosen, task)
    _say(task.run, task.warnings)
    if not task.skip_rules:
        backend = _backend(chosen, task)
        print(task.report, flush=True)
        _say(task.run, _enforce(task.plan, backend, task).warnings)
        print(backend.dump(), end="", flush=True)
    if task.probe is not None:
        from mesh_iptables.apply.probe import prove

        print(prove(task.probe))
    return 0


def _dry_run(chosen: Dialect, task: Task) -> int:
    if task.dry_run_file:
        recorded = "nft" if task.run.get("format") == "nft" else "golden"
        try:
            with open(task.dry_run_file, "w", encoding="utf-8") as file:
                file.write(_text(chosen, task.replace(run={"format": recorded, "quiet": ""})))
        except OSError as error:
            raise UsageError(f"DRY_RUN_FILE_PATH: {shown(task.dry_run_file)}: {error.strerror}") from None
    print(_text(chosen, task), end="")
    return 0


def clean(words: Sequence[str]) -> int:
    """Remove all that is ours, and print what that was."""
    chosen, request = _request(words, os.environ)
    return _clean(chosen, _understand(chosen, request, os.environ, dry_run=False))


def _clean(chosen: Dialect, task: Task) -> int:
    applied = _enforce(Plan(chosen.name, (), ()), _backend(chosen, task), task)
    _say(task.run, applied.warnings)
    print("".join(f"{line}\n" for line in applied.removed) + "Only cleaning, no new rules added")
    return 0


COMMANDS = {"apply": apply, "clean": clean, "render": render}


def read_file(path: str) -> bytes | None:
    """What a file holds; None where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError):
        return None


def _request(words: Sequence[str], environment: Mapping[str, str]) -> tuple[Dialect, Request]:
    """The dialect that is meant, and the words in its terms."""
    chosen = dialect(dialect_name(words, environment, sys.argv[0]))
    return chosen, split(words, chosen)


def _understand(chosen: Dialect, request: Request, environment: Mapping[str, str], *, dry_run: bool) -> Task:
    return chosen.understand(request, environment, read_file, SystemNames(), _here, dry_run=dry_run)


def _here() -> Surroundings:
    from mesh_iptables.apply.surroundings import Here

    return Here()


def _backend(chosen: Dialect, task: Task) -> Backend:
    """The backend asked for, in the network namespace asked for, as soon as this run is alone there."""
    from mesh_iptables.apply.choose import choose_backend
    from mesh_iptables.apply.namespace import enter_namespace, is_first_namespace, namespace_path

    run = task.run
    wait = _seconds(run.get("wait", "30"))
    name, flavour = run.get("backend", "auto"), run.get("iptables", "")
    if flavour and name not in ("auto", "restore"):
        raise UsageError(f"--iptables: chooses the flavour of --backend restore, and not of {name}")
    if "netns" in run:
        enter_namespace(run["netns"])
        if "cni" in run:  # in the node's file system: the Pod's runs must not wait for those of every other Pod
            os.environ.setdefault("XTABLES_LOCKFILE", namespace_path(run["netns"]))
    if "host" not in run and is_first_namespace():
        raise MachineError("this is the machine's first network namespace, not a Pod's; --host if you mean it")
    return choose_backend(name, flavour, wait=wait, native=chosen.native)


def _seconds(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise UsageError(f"--wait: {shown(text)} is not a number of seconds")
    return int(text)


def _enforce(plan: Plan, backend: Backend, task: Task) -> Applied:
    from mesh_iptables.apply.enforce import enforce

    return enforce(plan, backend, marks=task.marks, tables=task.tables)
