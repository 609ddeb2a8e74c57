"""Whether the values of a configuration are of the types that its fields declare."""

import dataclasses
import math
import types
import typing
from typing import Any

LARGEST = 2**63 - 1
"""Whole numbers beyond this fit into no array and no file format."""


def check_types(config: Any, *, where: str = "") -> None:
    """Refuses a value of another type than its field's, which Python would let pass.

    Args:
      config: a configuration.
      where: what comes before a field's name in messages.

    Raises:
      ValueError: naming the field, the value and the type.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        check_type(hints[field.name], value, f"{where}{field.name}", default=field.default)
        for path, item in _records(value, f"{where}{field.name}"):
            check_types(item, where=f"{path}.")


def _records(value: Any, where: str) -> list[tuple[str, Any]]:
    """The dataclasses in a value or in a tuple of them, with their paths."""
    items = [(where, value)]
    if isinstance(value, tuple):
        items = [(f"{where}.{index}", item) for index, item in enumerate(value)]
    return [(path, item) for path, item in items if dataclasses.is_dataclass(item)]


def check_type(kind: Any, value: Any, where: str, *, default: Any) -> None:
    """:func:`check_types` of one value; a number that is not finite can only be the field's default.

    Raises:
      ValueError: naming ``where``, the value and the type.
    """
    if isinstance(value, float) and not math.isfinite(value) and value != default:
        raise ValueError(f"{where} is {value}: must be finite")
    if not _fits(kind, value):
        raise ValueError(f"{where} is {value!r}: must be {kind.__name__ if isinstance(kind, type) else kind}")


def _fits(kind: Any, value: Any) -> bool:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(arg, value) for arg in args)
    if origin is typing.Literal:
        return value in args
    if origin is tuple and isinstance(value, tuple):
        item_kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
        return len(value) == len(item_kinds) and all(map(_fits, item_kinds, value))
    if kind in (int, float):
        if isinstance(value, int):
            return not isinstance(value, bool) and abs(value) <= LARGEST
        return kind is float and isinstance(value, float)
    return isinstance(value, origin or kind)
