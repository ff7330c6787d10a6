"""Whole files: what goes in (`NAME.yaml`, options in its first line) and what must come out (`NAME.injected.yaml`)."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from mesh_iptables.cli.main import program
from mesh_iptables.inject.emit import json
from mesh_iptables.inject.manifest import inject
from mesh_iptables.inject.nodes import compose, plain

from .samples import GOLDEN, TEMPLATES, workload
from .test_manifest import EVERY

CASES = sorted(path for path in GOLDEN.glob("*.yaml") if not path.name.endswith(".injected.yaml"))
MISSING = "kubernetes-validate is not installed (it is part of the extra dev)"


def options(path: Path) -> list[str]:
    return shlex.split(path.read_text().splitlines()[0].removeprefix("# options:"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_file_comes_out_as_it_was_looked_at(path: Path) -> None:
    result = CliRunner().invoke(program, ["inject", "-f", str(path), *options(path)])
    expected = path.with_suffix(".injected.yaml")
    assert result.stdout_bytes == expected.read_bytes()
    again = CliRunner().invoke(program, ["inject", "-f", str(expected), *options(path)])
    assert again.stdout_bytes == expected.read_bytes()


def test_every_result_belongs_to_a_case() -> None:
    assert len(CASES) >= 4
    assert len(list(GOLDEN.iterdir())) == 2 * len(CASES)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_every_golden_document_keeps_to_the_schema(path: Path) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason=MISSING)
    for node in compose(path.with_suffix(".injected.yaml").read_text()):
        document = plain(node)
        items = document["items"] if isinstance(document, dict) and document["kind"] == "List" else [document]
        assert isinstance(items, list)
        for item in items:
            kubernetes_validate.validate(item, "1.37", strict=True)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_every_kind_keeps_to_the_schema_with_any_options(kind: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason=MISSING)
    kubernetes_validate.validate(workload(kind), "1.37", strict=True)
    for chosen in EVERY:
        document = plain(compose(inject(json(workload(kind)), chosen).text)[0])
        kubernetes_validate.validate(document, "1.37", strict=True)


def test_the_example_is_injected_without_a_warning() -> None:
    result = inject((Path(__file__).parents[3] / "examples" / "web.yaml").read_text(), EVERY[0])
    assert (result.refusals, result.warnings) == ((), ())
    assert "mesh-iptables-init" in result.text
