"""The tables in docs/reference say what the code says; `scripts/reference` writes them anew."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from mesh_iptables.cli.reference import policy
from mesh_iptables.cli.reference.options import commands
from mesh_iptables.cli.reference.pages import SECTIONS, filled, names
from mesh_iptables.inject.annotations import ANNOTATIONS, OTHERS
from mesh_iptables.policy import istio_schema, osm_schema

ROOT = Path(__file__).parents[3]
PAGES = sorted((ROOT / "docs/reference").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_is_as_the_code_is(page: Path) -> None:
    assert page.read_text() == filled(page.read_text()), "scripts/reference writes it anew"


def test_every_table_is_in_one_page() -> None:
    """`options of golden …` say that there are none, which the page says itself."""
    shown = [name for page in PAGES for name in names(page.read_text())]
    assert sorted(shown) == sorted(name for name in SECTIONS if "golden" not in name)


def test_every_command_is_in_the_reference() -> None:
    page = (ROOT / "docs/reference/command-line.md").read_text()
    assert all(f"| `{name}` |" in page for name, _ in commands())


def test_every_annotation_is_in_the_reference() -> None:
    page = (ROOT / "docs/reference/inject.md").read_text()
    assert all(f"| `{name}` |" in page for name in (*(each.name for each in ANNOTATIONS), *OTHERS))


def test_every_complaint_is_in_the_reference() -> None:
    """What looks like an id in the sources of the policy is one."""
    page = (ROOT / "docs/reference/policy.md").read_text()
    beginnings = "|".join((*policy.ALL_PREFIXES, "bad-", "yaml-", "exportto-", "configscope-", "unknown-", "W-"))
    sources = "".join(path.read_text() for path in (ROOT / "mesh_iptables/policy").glob("*.py"))
    found = set(re.findall(rf'"((?:{beginnings})[A-Za-z-]+)"', sources))
    assert len(found) > 100
    assert not [name for name in found if f"| `{name}` |" not in page]


@pytest.mark.parametrize(("kind", "names"), policy.NO_EFFECT.items())
def test_fields_without_effect_are_fields(kind: str, names: tuple[str, ...]) -> None:
    message = getattr(istio_schema, kind, None) or getattr(osm_schema, kind)
    assert {*names} <= {field.encode_name for field in msgspec.structs.fields(message)}
