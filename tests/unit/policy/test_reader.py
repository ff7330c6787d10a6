"""Text into plain values with lines; hostile text into complaints."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh_iptables.policy.complaint import Severity
from mesh_iptables.policy.reader import MAX_BYTES, read


def _values(text: str | bytes) -> list[object]:
    documents, complaints = read("p.yaml", text)
    assert not complaints, complaints
    return [document.value for document in documents]


def _complaint(text: str | bytes) -> str:
    _, complaints = read("p.yaml", text)
    assert [complaint.severity for complaint in complaints] == [Severity.FATAL]
    return complaints[0].id


def test_every_document_of_a_stream_is_read() -> None:
    assert _values("a: 1\n---\nb: [true, 1.5, x, ~]\n") == [{"a": 1}, {"b": [True, 1.5, "x", None]}]


def test_json_may_be_indented_by_tabs() -> None:
    assert _values('{\n\t"a": "b\\/c"\n}') == [{"a": "b/c"}]


def test_members_of_a_list_are_documents_with_lines_of_their_own() -> None:
    documents, _ = read("p.yaml", "kind: List\nitems:\n- a: 1\n- a:\n    b: 2\n")
    assert [document.value for document in documents] == [{"a": 1}, {"a": {"b": 2}}]
    assert documents[1].lines["a.b"] == 5


def test_each_field_knows_its_line() -> None:
    documents, _ = read("p.yaml", "spec:\n  ports:\n  - number: 80\n  -\n    number: 81\n")
    lines = documents[0].lines
    assert [lines["spec"], lines["spec.ports[0].number"], lines["spec.ports[1].number"]] == [1, 3, 5]


def test_a_time_without_quotes_stays_text() -> None:
    assert _values("t: 2018-12-21T02:10:00Z") == [{"t": "2018-12-21T02:10:00Z"}]


def test_words_of_yaml_1_1_are_text_unless_it_is_asked_for() -> None:
    assert _values("a: yes") == [{"a": "yes"}]
    assert _values("%YAML 1.1\n---\na: yes") == [{"a": True}]


def test_an_alias_is_written_out() -> None:
    assert _values("a: &x [1]\nb: *x") == [{"a": [1], "b": [1]}]


@pytest.mark.filterwarnings("error")
def test_an_anchor_may_be_used_again_without_a_warning() -> None:
    assert _values("a: &x 1\nb: &x 2\nc: *x") == [{"a": 1, "b": 2, "c": 2}]


@pytest.mark.parametrize(
    ("text", "identifier"),
    [
        ("a: [", "yaml-syntax"),
        ("\ta: b", "yaml-syntax"),
        ("a: \x00", "yaml-syntax"),
        ("!!int a", "yaml-syntax"),
        ("a: 1\na: 2", "yaml-duplicate-key"),
        ("? [a]\n: b", "yaml-key"),
        ("<<: {a: 1}", "yaml-merge"),
        ("a: !!python/object:os.system x", "yaml-tag"),
        ("a: !!set {b}", "yaml-tag"),
        ("a: &x [*x]", "yaml-too-deep"),
        ("[" * 5000, "yaml-too-deep"),
        ('a: "\\ud800"', "yaml-not-utf8"),
        (b"a: \xff", "yaml-not-utf8"),
        (b"x" * (MAX_BYTES + 1), "yaml-too-large"),
    ],
)
def test_what_cannot_be_read_is_one_complaint(text: str | bytes, identifier: str) -> None:
    assert _complaint(text) == identifier


def test_aliases_that_multiply_end_early() -> None:
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
    bomb += "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
    assert _complaint(bomb) == "yaml-too-large"


def test_the_line_of_a_syntax_error_is_named() -> None:
    _, complaints = read("p.yaml", "a: 1\nb: [\n")
    assert str(complaints[0]).startswith("p.yaml:3: not YAML:")


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=200), st.binary(max_size=200), st.text("{}[]&*!|>:-? \n'\"#%@a0,", max_size=60)))
def test_no_text_crashes_the_reader(text: str | bytes) -> None:
    documents, complaints = read("p.yaml", text)
    assert all(document.lines for document in documents)
    assert all(complaint.origin.line >= 1 for complaint in complaints)
