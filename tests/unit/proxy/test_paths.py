from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_iptables.proxy.paths import normalised, split_absolute


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        # as Envoy 1.40 answered
        ("/a/../b", "/b"),
        ("/..", "/"),
        ("/a/..", "/"),
        ("/a/.", "/a/"),
        ("/./", "/"),
        ("/a/...", "/a/..."),
        ("/a/..b", "/a/..b"),
        ("/%41", "/A"),
        ("/%7e", "/~"),
        ("/a%2fb", "/a%2fb"),
        ("/%2E%2e/x", "/x"),
        ("/a\\..\\b", "/b"),
        ("/a//../b", "/a/b"),
        ("//a//..", "//a/"),
        ("/a/%zz", "/a/%zz"),
        ("/a/..;x/b", "/b"),
        ("/a/.;/b", "/a/b"),
        ("/a/%2e%2e;/b", "/a/..;/b"),
        ("/a/;../b", "/a/;../b"),
        ("/a/..;", "/"),
        ("/a/..%3b/b", "/a/..%3b/b"),
        ("/a/b/../../../c", "/c"),
        ("/%2e%2e%2f", "/..%2f"),
        ("/a|b", "/a%7Cb"),
        ("/a?b|c\\d/../e", "/a?b|c\\d/../e"),
        ("/a/..?x", "/?x"),
        ("/%%41", "/%A"),
        ("///", "///"),
    ],
)
def test_paths_are_normalised_as_envoy_does(target: str, expected: str) -> None:
    assert normalised(target) == expected


@given(st.text(alphabet="/.%2eE;a\\?", max_size=20).map("/".__add__))
def test_no_dot_segment_is_left(target: str) -> None:
    path = normalised(target).partition("?")[0]
    assert not {".", ".."} & set(path.split("/"))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("http://a/b?c", ("a", "/b?c")),
        ("HTTPS://a:1", ("a:1", "/")),
        ("http://u@a/", ("a", "/")),
        ("http://a?b", ("a", "?b")),
        ("/a", None),
        ("ftp://a/", None),
    ],
)
def test_absolute_targets_are_taken_apart(target: str, expected: tuple[str, str] | None) -> None:
    assert split_absolute(target) == expected
