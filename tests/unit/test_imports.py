"""Who may import whom, what the core must not touch, and what a start must not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "mesh_iptables"
# From the core to the edge: no module imports one of a later layer.
LAYERS = (
    ("value", "errors"),
    ("model",),
    ("config", "envfile"),
    ("spelling", "names"),
    ("options",),
    ("plan",),
    ("ruleset",),
    ("render",),
    ("saved", "listed", "transition", "golden"),
    ("dialect", "dialects"),
    ("inject",),
    ("apply",),
    ("cli",),
    ("__main__",),
)
CORE = (
    "value",
    "model",
    "config",
    "envfile",
    "spelling",
    "options",
    "plan",
    "ruleset",
    "render",
    "saved",
    "listed",
    "transition",
    "inject",
)
TOUCHING = {"os", "sys", "time", "subprocess", "pathlib", "socket", "select", "random", "datetime", "io", "pwd", "grp"}
ALLOWED = {("render/table", "io")}  # a text buffer for rich
# Reading addresses and formatting them: pure functions that live in the socket module.
PURE_SOCKET_FUNCTIONS = {"inet_aton", "inet_pton", "inet_ntop", "AF_INET", "AF_INET6"}
SLOW = {"click", "rich", "netaddr", "dataclasses", "inspect", "enum", "typing", "re", "subprocess", "json", "socket"}


def modules() -> dict[str, ast.Module]:
    """Every module of the rule engine by its path below the package."""
    found = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in PACKAGE.rglob("*.py")}
    return {
        name.removesuffix("/__init__"): ast.parse(path.read_text())
        for name, path in found.items()
        if name.partition("/")[0] not in ("policy", "proxy", "__init__")
        and "policy" not in name
        and "proxy" not in name
    }


MODULES = modules()


def layer(name: str) -> int:
    head = name.partition("/")[0]
    return next(
        number for number, names in enumerate(LAYERS) if head.removesuffix("_1_2x").removesuffix("_1_0") in names
    )


def imported(tree: ast.Module, *, at_run_time: bool) -> set[str]:
    """The modules that a module imports, dotted; at run time: without those for the type checker only."""
    skipped = {
        node
        for branch in ast.walk(tree)
        if at_run_time and isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for statement in branch.body
        for node in ast.walk(statement)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and node not in skipped:
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node not in skipped and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def own(name: str) -> str | None:
    """The module of ours that a dotted name means."""
    path = name.removeprefix("mesh_iptables.").replace(".", "/")
    return path if name.startswith("mesh_iptables.") and path in MODULES else None


@pytest.mark.parametrize("name", MODULES)
def test_no_module_imports_one_of_a_later_layer(name: str) -> None:
    for dotted in imported(MODULES[name], at_run_time=True):
        other = own(dotted)
        assert other is None or layer(other) <= layer(name), f"{name} imports {other}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    paths = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    trees = {name.removesuffix(".__init__"): ast.parse(path.read_text()) for name, path in paths.items()}
    graph = {name: imported(tree, at_run_time=False) & trees.keys() for name, tree in trees.items()}
    for name, others in graph.items():  # `from package import module` is no import of the package's own names
        others -= {other for other in others if any(deeper.startswith(f"{other}.") for deeper in others)} | {name}
    TopologicalSorter(graph).prepare()  # CycleError names them


@pytest.mark.parametrize("name", [name for name in MODULES if name.partition("/")[0].removesuffix("_1_2x") in CORE])
def test_the_core_touches_no_file_process_clock_or_environment(name: str) -> None:
    tree = MODULES[name]
    touched = {dotted.partition(".")[0] for dotted in imported(tree, at_run_time=True)} & TOUCHING
    assert {(name, module) for module in touched} <= ALLOWED
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not calls & {"open", "input", "print", "exec", "eval", "__import__"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "_socket":
            assert node.attr in PURE_SOCKET_FUNCTIONS


def loaded_by(*words: str) -> set[str]:
    """The top-level modules that a run of the program has loaded at its end."""
    code = (
        "import sys, mesh_iptables.__main__\n"
        "from mesh_iptables.cli.rules import run\n"  # what main() calls, without its sudden end
        f"run({words!r})\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}"],
        capture_output=True,
        text=True,
    )
    return {name.partition(".")[0] for name in done.stderr.splitlines()[-1].split()}


def test_a_drop_in_run_loads_nothing_slow() -> None:
    # In the first network namespace it stops at the guard, with the backend's modules still to load.
    assert not loaded_by("-u", "1337", "-b", "*", "-i", "*") & SLOW
    assert not loaded_by("apply", "-n", "-u", "1337") & SLOW
