"""The annotations that `inject` reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mesh_iptables.cli.reference.tables import code, codes, table
from mesh_iptables.inject.annotations import ANNOTATIONS, INJECT, ISTIO_STATUS, MESHES, OTHERS, SWITCH, Annotation
from mesh_iptables.inject.values import STATUS
from mesh_iptables.options import ISTIO_1_0
from mesh_iptables.options_1_2x import ISTIO_1_2X

# What each reader of values takes.
VALUES = {
    "_mode": "`REDIRECT` or `TPROXY`",
    "parse_ports": "ports",
    "_ports_or_all": "ports or `*`",
    "_ranges": "networks",
    "_ranges_or_all": "networks or `*`",
    "_interfaces": "names of interfaces",
    "_uids": "users",
    "_uids_of_all_ports": "`1000`, `*:1000` or `tcp:*:1000-1010`, separated by `;`; single ports are refused",
    "_nothing": "",
}
# The wishes that replace what the manifest says otherwise, or count only beside another one.
REMARKS = {
    "inbound_ports": "instead of the containers' ports",
    "exclude_inbound_ports": "where `-b` is `*`; else they are left out of `-b`",
    "outbound_ranges": "instead of `*`",
}


def read() -> list[str]:
    """Every annotation that says something about the rules."""
    return table(("annotation", "setting", "value"), map(_annotation, ANNOTATIONS))


def _annotation(annotation: Annotation) -> tuple[str, ...]:
    value = VALUES[annotation.read.__name__]
    if not annotation.setting:
        return code(annotation.name), "cannot be had: refused unless it is empty", value
    option = next(each for each in ISTIO_1_2X if each.name == annotation.setting)
    only = "" if annotation.setting in {each.name for each in ISTIO_1_0} else "`istio-1.2x` only"
    remarks = [code(option.words[0]), REMARKS.get(annotation.setting, ""), only]
    return code(annotation.name), ", ".join(filter(None, remarks)), value


def others() -> list[str]:
    """Those that are read, but say nothing about rules."""
    true, false = (codes(word for word, value in SWITCH.items() if value is wanted) for wanted in (True, False))
    meaning = {
        INJECT: f"whether the Pod is injected: {true}; {false}; without it: yes. A label of this name is stronger",
        ISTIO_STATUS: "refused: Istio's injector was here before",
        STATUS: "`inject` writes it: what it added is there, `native` or `classic`, and a later run replaces it",
    }
    return table(("annotation", "means"), ((code(name), meaning[name]) for name in OTHERS))


def meshes() -> list[str]:
    """Whose annotations get a warning where they are not read."""
    return [f"Any other annotation of {codes(MESHES)} has no effect and gets a warning by name."]


SECTIONS: Mapping[str, Callable[[], list[str]]] = {
    "annotations": read,
    "other annotations": others,
    "meshes": meshes,
}
