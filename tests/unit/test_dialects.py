"""Which dialect a command line means, whose option an unknown one is, and what a run must not load."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mesh_iptables.__main__ import is_plain_run
from mesh_iptables.cli.rules import rendered, run
from mesh_iptables.dialects import dialect, dialect_name, split
from mesh_iptables.errors import UsageError
from mesh_iptables.options import DIALECTS

OLD, NEW = DIALECTS
LOG = ("--log_output_level=default:info", "--log_as_json")  # the injector passes these
VARIABLE = "MESH_IPTABLES_DIALECT"


@pytest.mark.parametrize(
    ("words", "environment", "program", "expected"),
    [
        ([], {}, "mesh-iptables", OLD),
        ([], {}, "/usr/bin/istio-iptables.sh", OLD),
        ([], {}, "/usr/local/bin/istio-iptables", NEW),
        ([], {VARIABLE: NEW}, "mesh-iptables", NEW),
        ([], {VARIABLE: ""}, "istio-iptables", NEW),
        ([], {VARIABLE: OLD}, "istio-iptables", OLD),
        (["--dialect", NEW], {VARIABLE: OLD}, "x", NEW),
        (["-u", "5", f"--dialect={OLD}", "-i", "*"], {VARIABLE: NEW}, "istio-iptables", OLD),
        (["--dialect", OLD, "--dialect", NEW], {}, "x", NEW),
    ],
)
def test_the_strongest_source_says_the_dialect(
    words: list[str], environment: dict[str, str], program: str, expected: str
) -> None:
    assert dialect_name(words, environment, program) == expected


def test_an_unknown_dialect_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"^--dialect: 'istio-2' is not one of istio-1\.0, istio-1\.2x$"):
        dialect("istio-2")


@pytest.mark.parametrize("word", ["-q", "-q80", "--dual-stack", "--redirect-dns=true"])
def test_an_option_of_today_names_its_dialect(word: str) -> None:
    with pytest.raises(UsageError, match=r"only dialect istio-1\.2x has this option"):
        split([word], dialect(OLD))


@pytest.mark.parametrize("word", ["--mode", "--inbound-ports=80"])
def test_an_option_of_the_script_names_its_dialect(word: str) -> None:
    with pytest.raises(UsageError, match=r"only dialect istio-1\.0 has this option"):
        split([word, "x"], dialect(NEW))


def test_a_format_of_one_dialect_is_refused_by_the_other() -> None:
    with pytest.raises(UsageError, match=r"^--format: 'golden' is not for dialect istio-1\.0: shell, "):
        rendered(["--format", "golden"], {})
    assert rendered(["--format", "golden"], {VARIABLE: NEW}).startswith("iptables-save\n")


def test_native_nftables_is_printed_as_nft_unless_a_format_is_asked_for() -> None:
    words = ["--dialect", NEW, "--native-nftables"]
    assert rendered(words, {}).startswith("add table inet istio-proxy-nat\n")
    assert rendered(["--dialect", NEW, "--backend", "nft"], {}) == rendered(words, {})
    assert rendered([*words, "--format", "restore"], {}).startswith("* nat\n")


def test_json_names_the_dialect_and_the_option_behind_each_rule() -> None:
    printed = json.loads(rendered(["--dialect", NEW, "--format", "json", "-o", "3306"], {}))
    assert printed["dialect"] == NEW
    assert "-o" in {operation.get("option") for operation in printed["operations"]}


def test_a_name_that_no_machine_need_know_is_printed_as_it_is_in_every_format() -> None:
    environment = {"ISTIO_OUTBOUND_OWNER_GROUPS": "nobodys-group"}
    for name in dialect(NEW).formats:
        text = rendered(["--dialect", NEW, "--format", name], environment)
        assert "nobodys-group" in text
        assert "4294967295" not in text or name == "json"


def loaded_modules(*words: str) -> list[str]:
    code = (
        "import sys\nfrom mesh_iptables.cli.rules import run\n"
        f"run({words!r})\nprint(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [name for name in done.stderr.splitlines() if name.startswith("mesh_iptables")]


def test_a_run_of_the_old_dialect_loads_nothing_of_the_new_one() -> None:
    assert not [name for name in loaded_modules("apply", "-n", "-u", "5", "--format", "restore") if "1_2x" in name]
    assert [name for name in loaded_modules("apply", "-n", "--dialect", NEW) if "1_2x" in name]


def test_a_run_of_the_new_dialect_loads_neither_backends_nor_the_checks_of_listed_tables() -> None:
    loaded = loaded_modules("apply", "-n", "--dialect", NEW, "--format", "restore")
    assert not [name for name in loaded if ".apply" in name or "listed" in name]


def test_the_first_argument_of_todays_init_containers_means_its_dialect(capsys: pytest.CaptureFixture[str]) -> None:
    assert is_plain_run(["istio-iptables", "-p", "15001"])
    assert run(["istio-iptables", "-n", "-z", "15106", "--format", "restore", *LOG]) == 0
    assert "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15106" in capsys.readouterr().out
