"""Layouts that people and programs write: each is edited in place, and everything else of it stays."""

from __future__ import annotations

from itertools import pairwise

import pytest

from mesh_iptables.inject.manifest import inject
from mesh_iptables.inject.nodes import compose, plain
from mesh_iptables.inject.values import INIT, Settings

from .test_manifest import EVERY

H = "apiVersion: v1\nkind: Pod\n"
LAYOUTS = {
    "tabs-json": '{\n\t"apiVersion": "v1",\n\t"kind": "Pod",\n\t"spec": {"containers": [{"name": "a"}]}\n}\n',
    "multiline-plain": H + "spec:\n  containers:\n  - name: a\n    image: a\n      b\n  restartPolicy: Always\n",
    "folded": H + "spec:\n  containers:\n  - name: a\n    args:\n    - >-\n      foo\n      bar\n    # tail\n# tail2\n",
    "quoted-key": '"apiVersion": "v1"\n"kind": "Pod"\n"spec":\n    "containers":\n      - "name": "a"\n',
    "? key": H + "spec:\n  ? containers\n  : - name: a\n",
    "directive": "%YAML 1.1\n---\n"
    + H
    + "spec:\n  containers:\n  - name: a\n...\n---\n"
    + H
    + "spec: {containers: [name: a]}\n",
    "seq-inline": H + "spec:\n  containers: [\n    {name: a, # c\n     image: b}, # d\n  ] # e\n",
    "blank-end": H + "spec:\n  containers:\n  - name: a\n    tty: true   \n\n\n\n",
    "empty-string-scalars": H + "metadata:\n  annotations: {}\n  name: ''\nspec:\n  initContainers: []\n  volumes: []\n"
    "  containers:\n  - name: a\n",
    "null-last": H + "spec:\n  containers:\n  - name: a\n    env:\n  volumes:\n",
    "null-last-comment": H + "spec:\n  containers:\n  - name: a\n    env: # none\n    # below\n",
    "literal-keep-end": H + "spec:\n  containers:\n  - name: a\n    command:\n    - |+\n      x\n\n\n",
    "literal-indent": H + "spec:\n  containers:\n  - name: a\n    command:\n    - |2-\n        x\n      y\n",
    "crlf-literal": (
        H + "spec:\n  containers:\n  - name: a\n    command:\n    - |\n      x\n      y\n  volumes: # none\n"
    ).replace("\n", "\r\n"),
    "doc-on-dash": "--- # c\n" + H + "spec:\n  containers:\n  - name: a\n---\n--- !x\na: b\n",
    "helm-comment": H + '# {{ x }}\nspec:\n  containers:\n  - name: a\n    image: "{{ .x }}"\n',
    "nel": H + 'metadata:\n  name: "a\u0085b\u2028c"\nspec:\n  containers:\n  - name: a\n',
    "emoji": H + 'metadata:\n  name: "😀" # 😀\nspec:\n  containers:\n  - name: a\n',
}


@pytest.mark.parametrize("chosen", EVERY)
@pytest.mark.parametrize("text", LAYOUTS.values(), ids=LAYOUTS)
def test_an_unusual_layout_is_edited_in_place(text: str, chosen: Settings) -> None:
    result = inject(text, chosen)
    assert result.refusals == ()
    assert result.text.count(INIT) >= 1
    assert inject(result.text, chosen).text == result.text
    rest = iter(result.text)  # nothing of the user's is lost: all its letters are there, in their order
    assert all(letter in rest for letter in text)


@pytest.mark.parametrize("text", LAYOUTS.values(), ids=LAYOUTS)
def test_what_was_put_in_can_be_replaced(text: str) -> None:
    for first, second in pairwise((*EVERY, EVERY[0])):
        result = inject(inject(text, first).text, second)
        assert result.refusals == ()
        assert [*map(plain, compose(result.text))] == [*map(plain, compose(inject(text, second).text))]
