"""Manifests with our parts: which documents get them, where they stand, and that nothing else is touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh_iptables.inject.emit import block, json
from mesh_iptables.inject.manifest import inject, joined
from mesh_iptables.inject.nodes import compose, plain
from mesh_iptables.inject.values import INIT, POLICY, PROXY, STATUS, Data, Settings

from .samples import TEMPLATES, found, pod, template, workload

STYLES: dict[str, Callable[[Data], str]] = {
    "json": json,
    "indented": lambda value: "\n".join(block(value, 0, 2)) + "\n",
    "flush": lambda value: "\n".join(block(value, 0, 0)),
    "windows": lambda value: "\r\n".join(block(value, 0, 2)) + "\r\n",
}
EVERY = (
    Settings(),
    Settings(sidecar="classic"),
    Settings(order="first", net_raw=True),
    Settings(dialect="istio-1.2x", mode="TPROXY", probes=False),
)
FENCED = Settings(proxy_words=("--allow", "a.example.com"))


def injected(value: Data, chosen: Settings = EVERY[0], style: str = "indented") -> Data:
    result = inject(STYLES[style](value), chosen)
    assert result.refusals == ()
    return plain(compose(result.text)[0])


def refusal(value: Data, chosen: Settings = EVERY[0]) -> str:
    text = STYLES["indented"](value)
    result = inject(text, chosen)
    assert result.text == text
    assert len(result.refusals) == 1
    assert "\n" not in result.refusals[0]
    return result.refusals[0]


def names(items: Data) -> list[Data]:
    assert isinstance(items, list)
    return [found(item, "name") for item in items]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", TEMPLATES)
def test_every_kind_gets_rules_proxy_volume_and_status(kind: str, style: str) -> None:
    inner = found(injected(workload(kind), style=style), *TEMPLATES[kind][1])
    assert names(found(inner, "spec", "initContainers")) == [INIT, PROXY]
    assert names(found(inner, "spec", "volumes")) == [POLICY]
    assert found(inner, "metadata", "annotations", STATUS)


@pytest.mark.parametrize("chosen", [*EVERY, FENCED])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_second_run_changes_nothing(kind: str, style: str, chosen: Settings) -> None:
    once = inject(STYLES[style](workload(kind)), chosen)
    assert once.refusals == ()
    assert inject(once.text, chosen).text == once.text


@pytest.mark.parametrize("style", ["json", "indented"])
@pytest.mark.parametrize("second", [*EVERY, FENCED])
@pytest.mark.parametrize("first", [*EVERY, FENCED])
def test_other_options_replace_what_an_earlier_run_added(first: Settings, second: Settings, style: str) -> None:
    before = STYLES[style](pod({"a": "b"}, initContainers=[{"name": "mine", "image": "x"}]))
    earlier = inject(before, first).text
    assert plain(compose(inject(earlier, second).text)[0]) == plain(compose(inject(before, second).text)[0])


COMMENTED = """\
# one
apiVersion: v1 # two
kind: Pod
metadata: {name: a,   labels: {}} # three
spec:
    # four
    containers:
    -   name: a # five
        image: 'a'
        command: ["sh",  '-c', "a", ]   # six
        args:
          - |
            text # not a comment

            more
        # seven
    # eight
    restartPolicy:    "Always"

# nine
---
{{not yaml: [}}
""".replace("{{not yaml: [}}\n", "a:   'b'   # ten\n...\n")


@pytest.mark.parametrize("chosen", EVERY)
def test_every_line_of_the_user_stays_in_its_order(chosen: Settings) -> None:
    rest = iter(inject(COMMENTED, chosen).text.splitlines())
    lines = [line for line in COMMENTED.splitlines() if "metadata" not in line]  # that one gets the annotation
    assert all(line in rest for line in lines)


def test_a_comment_stays_above_what_it_is_about() -> None:
    text = COMMENTED.replace("    # four\n", "    initContainers:\n    # mine\n    - {name: mine}\n    # four\n")
    lines = inject(text, Settings(order="first")).text.splitlines()
    assert lines[lines.index("    # mine") + 1] == "    - {name: mine}"
    assert lines[lines.index("    # four") + 1] == "    containers:"
    assert lines.index("    # mine") > lines.index(f"    - name: {PROXY}")


@pytest.mark.parametrize("chosen", EVERY)
def test_a_switch_turned_off_takes_everything_out_again(chosen: Settings) -> None:
    text = COMMENTED.replace("labels: {}", "labels: {sidecar.istio.io/inject: 'true'}")
    off = inject(text, chosen).text.replace("'true'", "'false'")
    result = inject(off, chosen)
    assert plain(compose(result.text)[0]) == plain(compose(text.replace("'true'", "'false'"))[0])
    assert 'inject: "false"' in result.warnings[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "---\n---\n",
        "a: b",
        "[1, 2]\n",
        "\ufeffkind: Service\r\n",
        "kind: Job\napiVersion: batch.volcano.sh/v1alpha1\n",
        "kind: Deployment\napiVersion: example.org/v1\nspec: &a {b: *a}\n",
        "kind: ConfigMap\napiVersion: v1\ndata:\n   x:   !odd |+\n     y\n\n\n---\n# end",
        "kind: ServiceList\napiVersion: v1\nitems:  []",
        "kind: [Pod]",
        "kind: List\napiVersion: v1\nitems: nothing",
    ],
)
def test_other_documents_pass_to_the_byte(text: str) -> None:
    result = inject(text, Settings())
    assert (result.text, result.refusals) == (text, ())


def test_lists_are_taken_apart() -> None:
    item = workload("Pod")
    bare = {key: value for key, value in item.items() if key not in ("kind", "apiVersion")}
    lists: list[dict[str, Data]] = [
        {"apiVersion": "v1", "kind": "List", "items": [item, {"apiVersion": "v1", "kind": "Secret"}]},
        {"apiVersion": "v1", "kind": "PodList", "items": [bare]},
        {"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "PodList", "items": [bare]}]},
    ]
    for value in lists:
        assert json(injected(value)).count(f'"name": "{INIT}"') == 1


# --- order and values --------------------------------------------------------------------------------------

MINE: list[Data] = [{"name": "mine", "image": "x"}]


def test_the_rules_come_behind_other_init_containers_so_that_these_keep_their_network() -> None:
    value = pod(initContainers=MINE)
    assert names(found(injected(value), "spec", "initContainers")) == ["mine", INIT, PROXY]
    assert names(found(injected(value, Settings(order="first")), "spec", "initContainers")) == [INIT, PROXY, "mine"]
    classic = injected(value, Settings(sidecar="classic"))
    assert names(found(classic, "spec", "initContainers")) == ["mine", INIT]
    assert names(found(classic, "spec", "containers")) == ["web", PROXY]


def words(value: Data, chosen: Settings = EVERY[0]) -> dict[str, str]:
    """The arguments of the init container, by option."""
    args = found(injected(value, chosen), "spec", "initContainers", INIT, "args")
    assert isinstance(args, list)
    return dict(zip(map(str, args[::2]), map(str, args[1::2]), strict=True))


def test_inbound_ports_are_the_tcp_ports_of_running_containers() -> None:
    ports: list[Data] = [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}, {"containerPort": 80}]
    side: list[Data] = [
        {"name": "side", "image": "x", "restartPolicy": "Always", "ports": [{"containerPort": 90}]},
        {"name": "once", "image": "x", "ports": [{"containerPort": 91}]},
    ]
    value = pod(containers=[{"name": "web", "image": "web", "ports": ports}], initContainers=side)
    assert words(value)["-b"] == "90,80"
    assert words(pod(containers=[{"name": "web", "image": "web"}]))["-b"] == ""


def test_the_arguments_are_those_of_the_script() -> None:
    args = found(injected(pod()), "spec", "initContainers", INIT, "args")
    expected = ["-p", "15001", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "8080", "-d", ""]
    assert args == expected


def test_the_init_container_has_only_the_rights_it_needs() -> None:
    context = found(injected(pod()), "spec", "initContainers", INIT, "securityContext")
    assert found(context, "capabilities") == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    assert (found(context, "runAsUser"), found(context, "readOnlyRootFilesystem")) == (0, True)
    assert found(context, "allowPrivilegeEscalation") is False
    raw = found(injected(pod(), Settings(net_raw=True)), "spec", "initContainers", INIT, "securityContext")
    assert found(raw, "capabilities", "add") == ["NET_ADMIN", "NET_RAW"]


def test_the_proxy_is_known_by_its_user_or_for_tproxy_by_its_group() -> None:
    context = found(injected(pod()), "spec", "initContainers", PROXY, "securityContext")
    assert (found(context, "runAsUser"), found(context, "runAsGroup")) == (1337, 1337)
    context = found(injected(pod(), EVERY[3]), "spec", "initContainers", PROXY, "securityContext")
    assert (found(context, "runAsUser"), found(context, "runAsGroup")) == (0, 1337)


@pytest.mark.parametrize("words", [("--allow", "a.example.com"), ("--strict", "--allow=a.example.com")])
def test_a_fence_takes_no_policy_files(words: tuple[str, ...]) -> None:
    spec = found(injected(pod(), Settings(proxy_words=words)), "spec")
    proxy = found(spec, "initContainers", 1)
    assert found(proxy, "args")[-len(words) :] == [*words]  # type: ignore[index]
    assert "--policy" not in str(spec)
    assert "volume" not in str(spec)


def test_the_proxy_learns_who_it_works_for() -> None:
    value = workload("Pod", {"metadata": {"namespace": "shop", "labels": {"app": "web"}}, "spec": pod()["spec"]})
    env = found(injected(value), "spec", "initContainers", PROXY, "env")
    assert found(env, "POD_NAMESPACE", "value") == "shop"
    assert found(env, "SERVICE_ACCOUNT", "value") == "default"
    assert found(env, "POD_LABELS", "value") == "app=web"


# --- refusals and warnings ---------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Data], str]] = {
    "hostNetwork": (pod(hostNetwork=True), "hostNetwork"),
    "hostNetwork in quotes": (pod(hostNetwork="true"), "hostNetwork"),
    "windows": (pod(os={"name": "windows"}), "Windows"),
    "no containers": (pod(containers=[]), "has no containers"),
    "no spec": ({"apiVersion": "v1", "kind": "Pod"}, "has no containers"),
    "containers as text": (pod(containers="web"), "spec.containers is not a list"),
    "Istio's container": (pod(initContainers=[{"name": "istio-init"}]), "another mesh"),
    "a container of our name": (pod(initContainers=[{"name": INIT}]), "was not added by us"),
    "a volume of our name": (pod(volumes=[{"name": POLICY}]), "was not added by us"),
    "Istio's status": (pod({"sidecar.istio.io/status": "{}"}), "Istio's injector was here"),
    "the proxy's port": (pod(containers=[{"name": "a", "ports": [{"containerPort": 15001}]}]), "15001"),
    "inject as a boolean": (pod({"sidecar.istio.io/inject": True}), "put it in quotes"),
    "inject as nonsense": (pod({"sidecar.istio.io/inject": "maybe"}), "neither true nor false"),
    "a broken item": (pod(containers=["web"]), "containers[0] is not a mapping"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_with_line_and_name(case: tuple[dict[str, Data], str]) -> None:
    told = refusal(case[0])
    assert told.partition(":")[0].isdigit()
    assert ": Pod/" in told
    assert case[1] in told


def test_tproxy_needs_the_newer_dialect() -> None:
    assert "--dialect istio-1.2x" in refusal(pod(), Settings(mode="TPROXY"))


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "kind: Pod\napiVersion: v1\nspec: {}\nspec: {}\n",
        "kind: Pod\napiVersion: v1\nspec: &a [*a]\n",
        "[" * 5000,
        "\x00",
        "kind: Pod\napiVersion: v1\nspec:\n  <<: 1\n",
        "a: &a [b,b]\n" + "".join(f"a{n}: &a{n} [*a{n - 1 if n else ''},*a{n - 1 if n else ''}]\n" for n in range(30))
        + "kind: Pod\napiVersion: v1\n",
    ],
)  # fmt: skip
def test_hostile_or_broken_yaml_is_refused_in_one_line(text: str) -> None:
    result = inject(text, Settings())
    assert result.text == text
    assert [line.count("\n") for line in result.refusals] == [0]


SHARED = (
    "apiVersion: v1\nkind: List\nitems:\n- &p\n  apiVersion: v1\n  kind: Pod\n  spec:\n    containers: [{name: a}]\n"
)


def test_parts_that_an_anchor_shares_are_refused_and_not_changed_twice() -> None:
    assert inject(SHARED, Settings()).refusals == ()
    assert "anchors" in inject(SHARED + "- *p\n", Settings()).refusals[0]


def test_annotations_on_the_workload_are_warned_about() -> None:
    value = workload("Deployment")
    metadata = value["metadata"]
    assert isinstance(metadata, dict)
    metadata["annotations"] = {"traffic.sidecar.istio.io/excludeInboundPorts": "80", "example.org/a": "b"}
    assert [line.count("belongs on the Pod template") for line in inject(json(value), Settings()).warnings] == [1]


def test_a_classic_proxy_in_a_job_is_warned_about() -> None:
    result = inject(json(workload("Job")), Settings(sidecar="classic"))
    assert "use a native sidecar" in result.warnings[0]


def test_several_files_become_one_stream() -> None:
    assert joined(["a: b\n"]) == "a: b\n"
    assert joined(["a: b", "---\nc: d\n", "e: f\n"]) == "a: b\n---\nc: d\n---\ne: f\n"


# --- any input ---------------------------------------------------------------------------------------------

LEAVES = st.none() | st.booleans() | st.integers(-5, 70000) | st.text(max_size=5)
KEYS = st.sampled_from(
    ["name", "ports", "containerPort", "annotations", "labels", "metadata", "spec", "containers", STATUS,
    "volumes", "initContainers", "securityContext", "template", "items", "a", INIT, "sidecar.istio.io/inject"]
)  # fmt: skip
TREES: Any = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))
KINDS = st.sampled_from([*TEMPLATES, "List", "PodList"])


@settings(max_examples=120, deadline=None)
@given(KINDS, TREES, TREES, TREES, st.sampled_from(EVERY), st.sampled_from(sorted(STYLES)))
def test_no_manifest_crashes_and_a_second_run_changes_nothing(
    kind: str, metadata: Data, containers: Data, more: Data, chosen: Settings, style: str
) -> None:
    spec: dict[str, Data] = {"containers": containers} | (more if isinstance(more, dict) else {})
    inner: dict[str, Data] = {"metadata": metadata, "spec": spec | {"template": {"metadata": metadata, "spec": spec}}}
    version = TEMPLATES[kind][0] if kind in TEMPLATES else "v1"
    text = STYLES[style]({"apiVersion": version, "kind": kind, **inner, "items": [more, template()]})
    result = inject(text, chosen)
    again = inject(result.text, chosen)
    assert again.text == result.text
    assert bool(again.refusals) == bool(result.refusals)


@settings(max_examples=120, deadline=None)
@given(st.text(st.sampled_from("kind: Pod\n-{}[],\"'&*a!|>#?<\t\r%@`\ufeff\u2028é"), max_size=60))
def test_no_text_crashes(text: str) -> None:
    for head in ("", "apiVersion: v1\nkind: Pod\n"):
        result = inject(head + text, Settings())
        assert result.refusals or inject(result.text, Settings()).text == result.text


@settings(max_examples=60, deadline=None)
@given(TREES)
def test_what_is_written_reads_back_the_same(value: Data) -> None:
    for write in STYLES.values():
        nodes = compose(write({"a": value}))
        assert plain(nodes[0]) == {"a": value}
