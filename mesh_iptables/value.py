"""Frozen values compared by what they hold: `dataclass(frozen, slots)` without its start-up cost.

Importing `dataclasses` (and with it `inspect`, `re`, `ast` …) takes longer than the whole of `istio-iptables.sh`
does for a small rule set, and an init container delays every Pod. The type checker sees ordinary dataclasses.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar, Self, dataclass_transform
    from typing import assert_never as assert_never

    Setters = tuple[Callable[[object, object], None], ...]
else:

    def assert_never(value):
        raise AssertionError(f"no case for {value!r}")

    def dataclass_transform(**_options):
        return lambda cls: cls


_set = object.__setattr__


class _ValueType(type):
    """Turns the annotations of a class body into slots, positional match arguments and defaults."""

    _setters: Setters

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> _ValueType:
        fields = tuple(body.get("__annotations__", ()))
        body["_defaults"] = {field: body.pop(field) for field in fields if field in body}
        silent = body.get("_silent", ())
        body["_compared"] = tuple(field for field in fields if field not in silent)
        body["_fields"] = body["__match_args__"] = body["__slots__"] = fields
        cls = super().__new__(mcs, name, bases, body)
        cls._setters = tuple(vars(cls)[field].__set__ for field in fields)
        return cls


@dataclass_transform(frozen_default=True)
class Value(metaclass=_ValueType):
    """Base of the project's values: annotated fields, frozen, equal when class and compared fields are.

    A class names fields that play no part in comparison in `_silent`.
    """

    if TYPE_CHECKING:
        _fields: ClassVar[tuple[str, ...]]
        _compared: ClassVar[tuple[str, ...]]
        _setters: ClassVar[Setters]
        _defaults: ClassVar[dict[str, object]]

    def __init__(self, *args: object, **kwargs: object) -> None:
        setters = self._setters
        if len(args) == len(setters) and not kwargs:  # the common case, worth a shortcut: one rule of ten thousand
            for setter, value in zip(setters, args):  # noqa: B905  # of one length, and strict costs a tenth
                setter(self, value)
            return
        fields = self._fields
        given = dict(zip(fields, args, strict=False), **kwargs)
        if len(args) > len(fields) or len(given) != len(args) + len(kwargs) or given.keys() - set(fields):
            raise TypeError(f"{type(self).__name__} takes the fields {fields}, each once")
        for field in fields:
            if field in given:
                _set(self, field, given[field])
            elif field in self._defaults:
                _set(self, field, self._defaults[field])
            else:
                raise TypeError(f"{type(self).__name__} lacks {field!r}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} is frozen")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} is frozen")

    def _key(self) -> tuple[object, ...]:
        return tuple(getattr(self, field) for field in self._compared)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((type(self), self._key()))

    def as_dict(self) -> dict[str, object]:
        """Field names and what they hold, in order; nested values stay values."""
        return {field: getattr(self, field) for field in self._fields}

    def __repr__(self) -> str:
        shown = ", ".join(f"{field}={value!r}" for field, value in self.as_dict().items())
        return f"{type(self).__name__}({shown})"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), tuple(self.as_dict().values())

    def replace(self, **changes: object) -> Self:
        """This value with some fields changed."""
        return type(self)(**self.as_dict() | changes)
