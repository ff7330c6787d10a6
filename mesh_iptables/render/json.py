"""A plan for programs: its operations in order, every value by name. Pure."""

from __future__ import annotations

import json

from mesh_iptables import model
from mesh_iptables.model import ChainOperation, LoopbackAddress, Network, PortRange, RouteMarked, Rule, RuleOperation
from mesh_iptables.render.iptables import network_text
from mesh_iptables.value import Value, assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mesh_iptables.model import Operation, Plan

    Json = str | int | bool | None | list["Json"] | dict[str, "Json"]


def render(plan: Plan) -> str:
    """`{"dialect", "operations": […]}`; the clean-up operations come first and say so in `phase`."""
    operations: list[Json] = [_operation(operation, "cleanup") for operation in plan.cleanup]
    operations += [_operation(operation, "setup") for operation in plan.setup]
    return json.dumps({"dialect": plan.dialect, "operations": operations}, indent=2, ensure_ascii=True) + "\n"


def _operation(operation: Operation, phase: str) -> Json:
    match operation:
        case ChainOperation(verb, family, table, chain):
            return {"phase": phase, "verb": verb, "family": family, "table": table, "chain": chain}
        case RuleOperation(verb, family, table, chain, rule, position):
            place: dict[str, Json] = {"family": family, "table": table, "chain": chain}
            if verb == "insert":
                place["position"] = position
            return {"phase": phase, "verb": verb, **place, **_rule(rule)}
        case RouteMarked(family, mark, table_number):
            return {"phase": phase, "verb": "route", "family": family, "mark": mark, "routing_table": table_number}
        case LoopbackAddress(family, network):
            return {"phase": phase, "verb": "address", "family": family, "address": network_text(network)}
    assert_never(operation)


def _rule(rule: Rule) -> dict[str, Json]:
    return {
        "matches": [_value(match) for match in rule.matches],
        "target": _value(rule.target),
        "option": rule.option or None,
        "why": rule.why or None,
    }


def _value(value: Value) -> Json:
    """A match or target: its kind and its fields; spellings are kept where the user's differs."""
    fields = {name: _field(held) for name, held in value.as_dict().items() if held != ""}
    return {"kind": KINDS[type(value)], **fields}


def _field(value: object) -> Json:
    match value:
        case PortRange(low, high):
            return [low, high]
        case Network():
            return network_text(value)
        case tuple():
            return [_field(item) for item in value]
        case bool() | int() | str():
            return value
    raise AssertionError(f"no JSON for {value!r}")


def _kind(name: str) -> str:
    """`SetMark` becomes `set_mark`."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).removeprefix("_")


KINDS = {found: _kind(found.__name__) for found in vars(model).values() if isinstance(found, type)}
