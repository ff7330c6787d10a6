from __future__ import annotations

import pytest

from mesh_iptables.policy import regex


def test_the_whole_text_must_match() -> None:
    test = regex.full_match("/get")
    assert test("/get")
    assert not test("/get/")


def test_bytes_that_are_no_utf_8_match_nothing_but_do_not_crash() -> None:
    assert not regex.full_match(".*")("\xff")
    assert regex.full_match(".")("é".encode().decode("latin-1"))


@pytest.mark.parametrize("pattern", ["(", "*status", "(?=a)", r"(a)\1", "a{1001}", "\ud800"])
def test_what_re2_refuses_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        regex.check(pattern)


def test_every_match_is_replaced_and_groups_are_kept() -> None:
    assert regex.substitution("/([a-z]+)", r"/\1x")("/a/b") == "/ax/bx"
    assert regex.substitution("b", r"\0\\")("abc") == "ab\\c"


@pytest.mark.parametrize("replacement", [r"\2", r"\x", "\\"])
def test_a_substitution_names_groups_that_exist(replacement: str) -> None:
    with pytest.raises(ValueError, match="group"):
        regex.check_substitution("(a)", replacement)
