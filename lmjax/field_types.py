"""Whether the values of a configuration are of the types that its fields declare."""

import dataclasses
import functools
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


def check_literals(config: object, where: str) -> None:
    """Refuses a value that its field's ``Literal`` does not name; a configuration calls it in ``__post_init__``.

    Args:
      config: a configuration, whose fields may be of type ``Literal[...]``, such a type or None, or tuples of them.
      where: what comes before a field's name in messages, as in ``model.``.

    Raises:
      ValueError: naming the field, the value and the values that are possible.
    """
    config_class: Any = type(config)
    for name, (kind, allowed) in _literal_fields(config_class).items():
        value = getattr(config, name)
        if not _fits(kind, value):
            raise ValueError(f"{where}{name}={value!r}: use one of {', '.join(map(str, allowed))}")


@functools.cache
def _literal_fields(config_class: type) -> dict[str, tuple[Any, list[Any]]]:
    """The type and the possible values of each field whose type has a ``Literal`` in it."""
    hints = typing.get_type_hints(config_class)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(config_class)}
    return {name: (kind, _named_by(kind)) for name, kind in fields.items() if _named_by(kind)}


def _named_by(kind: Any) -> list[Any]:
    """The values that the ``Literal`` within a type names; with None if it may be that too."""
    if typing.get_origin(kind) is typing.Literal:
        return list(typing.get_args(kind))
    inner = [value for arg in typing.get_args(kind) for value in _named_by(arg)]
    return [*inner, None] if inner and type(None) in typing.get_args(kind) else inner


def _records(value: Any, where: str) -> list[tuple[str, Any]]:
    """The dataclasses in a value, or in a tuple or a dictionary of them, with their paths."""
    items = [(where, value)]
    if isinstance(value, tuple):
        items = [(f"{where}.{index}", item) for index, item in enumerate(value)]
    elif isinstance(value, dict):
        items = [(f"{where}.{name}", item) for name, item in value.items()]
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
    """Whether a value is of a type, as annotations have it."""
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
    if origin is dict and isinstance(value, dict):
        return all(_fits(args[0], name) and _fits(args[1], item) for name, item in value.items())
    if kind in (int, float):
        if isinstance(value, int):
            return not isinstance(value, bool) and abs(value) <= LARGEST
        return kind is float and isinstance(value, float)
    return isinstance(value, origin or kind)
