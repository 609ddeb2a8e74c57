"""Writes and reads the configuration of a run as JSON: the ``config.json`` of a run folder."""

import dataclasses
import json
import pathlib
import types
import typing
from typing import Any

from lmjax.atomic_files import write_file
from lmjax.choice import Choice, class_name, named_class
from lmjax.field_types import check_type
from lmjax.naming import naming
from lmjax.schedules.ramp import Ramp
from lmjax.train.config import RunConfig
from lmjax.train.older_config import as_of_today
from lmjax.train.strict_json import read_json


def to_json(config: Any) -> Any:
    """Returns a configuration as plain JSON values. A :class:`Choice` has its class as ``type``; a ramp is text."""
    if isinstance(config, Ramp):
        return str(config)
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {f.name: to_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"type": class_name(type(config))} | fields if isinstance(config, Choice) else fields
    if isinstance(config, tuple | list):
        return [to_json(item) for item in config]
    if isinstance(config, dict):
        return {key: to_json(value) for key, value in config.items()}
    return config


def from_json(kind: Any, value: Any, *, where: str = "config.json") -> Any:
    """Returns the configuration that :func:`to_json` has turned into JSON values.

    Args:
      kind: the type of the configuration.
      value: the JSON values.
      where: the name of the place in messages.

    Raises:
      ValueError: a field is unknown, missing or of another type, or a class cannot be found.
    """
    if dataclasses.is_dataclass(kind):
        return _dataclass_from_json(kind, value, where)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        if Ramp in args and isinstance(value, str):
            with naming(where):
                return Ramp.parse(value)
        (kind,) = [arg for arg in args if arg is not type(None)][:1]
        return from_json(kind, value, where=where)
    if origin is tuple and isinstance(value, list):
        item_kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
        if len(item_kinds) != len(value):
            raise ValueError(f"{where} is {value}: must be {len(item_kinds)} values")
        return tuple(from_json(k, item, where=where) for k, item in zip(item_kinds, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {name: from_json(args[1], item, where=f"{where}: {name}") for name, item in value.items()}
    return float(value) if kind is float and type(value) is int else value


def _dataclass_from_json(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {value!r}: must be an object of fields")
    value = as_of_today(kind, value)
    if issubclass(kind, Choice):
        kind = named_class(kind, value.get("type"), where)
        value = {name: item for name, item in value.items() if name != "type"}
    hints, fields = typing.get_type_hints(kind), {f.name: f for f in dataclasses.fields(kind)}
    for name in sorted(value.keys() - fields.keys()):
        raise ValueError(f"{where}: unknown field {name!r}: written by another version of lmjax?")
    for name, field in fields.items():
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if no_default and name not in value:
            raise ValueError(f"{where}: field {name!r} is missing: restore it")
    arguments = {name: from_json(hints[name], item, where=f"{where}: {name}") for name, item in value.items()}
    for name, item in arguments.items():
        check_type(hints[name], item, f"{where}: {name}", default=fields[name].default)
    with naming(where):
        return kind(**arguments)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the JSON values of a configuration by dotted path."""
    if isinstance(config, list) and any(isinstance(item, dict) for item in config):
        config = {str(index): item for index, item in enumerate(config)}
    if not isinstance(config, dict):
        return {prefix: config}
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}.{name}" if prefix else name)
    return flat


def differences(old: RunConfig, new: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Returns the dotted paths at which two configurations differ, with both values."""
    old_flat, new_flat = flatten(to_json(old)), flatten(to_json(new))
    paths = sorted(old_flat.keys() | new_flat.keys())
    return {
        path: (old_flat.get(path), new_flat.get(path)) for path in paths if old_flat.get(path) != new_flat.get(path)
    }


def config_text(config: RunConfig) -> str:
    """Returns ``config`` as the text of a ``config.json``."""
    return json.dumps(to_json(config), indent=2) + "\n"


def write_config(config: RunConfig, path: pathlib.Path) -> None:
    """Writes ``config`` as JSON; an interruption never leaves a part of the file."""
    write_file(path, config_text(config))


def read_config(path: pathlib.Path) -> RunConfig:
    """Returns the configuration that a run folder was made with.

    Raises:
      ValueError: there is no configuration, or it is not readable.
    """
    try:
        value = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path.parent} is not a run folder: it has no {path.name}") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): restore it, or start the run anew in another folder") from None
    try:
        return from_json(RunConfig, value, where=str(path))
    except RecursionError:
        raise ValueError(f"{path} is damaged (nested too deeply): restore it") from None
