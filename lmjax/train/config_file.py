"""Configurations in files: recipes (Python functions) in, ``config.json`` of a run folder in and out."""

import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import json
import pathlib
import types
import typing
from typing import Any

from lmjax.objectives import Objective
from lmjax.train.config import RunConfig

FREE_ON_RESUME = (
    "name", "folder", "mesh", "checkpoint", "distributed", "train.steps", "train.log_every", "train.eval_every",
    "train.eval_batches", "train.profile", "train.watchdog_minutes", "train.tensorboard", "train.wandb",
    "train.microbatches", "model.remat", "model.attention",
)  # fmt: skip
"""Fields that may differ when a run goes on: they change no result, or (``train.steps``) the user says so."""


def to_json(config: Any) -> Any:
    """A configuration as plain JSON values; dataclasses of open type carry their class as ``type``."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {f.name: to_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
        tag = {"type": f"{type(config).__module__}:{type(config).__qualname__}"}
        return tag | fields if isinstance(config, Objective) else fields
    if isinstance(config, tuple | list):
        return [to_json(item) for item in config]
    if isinstance(config, dict):
        return {key: to_json(value) for key, value in config.items()}
    return config


def from_json(kind: Any, value: Any, *, where: str = "config.json") -> Any:
    """The inverse of :func:`to_json`.

    Args:
      kind: the type to make.
      value: JSON values.
      where: what to call the place in messages.

    Raises:
      ValueError: a field is unknown or missing, or a class cannot be found.
    """
    if isinstance(kind, type) and issubclass(kind, Objective):
        kind = _objective_class(value.get("type"), where)
        value = {name: item for name, item in value.items() if name != "type"}
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        unknown = set(value) - {f.name for f in dataclasses.fields(kind)}
        if unknown:
            raise ValueError(f"{where}: unknown field {sorted(unknown)[0]!r}: written by another version of lmjax?")
        fields = {name: from_json(hints[name], item, where=f"{where}: {name}") for name, item in value.items()}
        make: Any = kind
        return make(**fields)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        (kind,) = [arg for arg in args if arg is not type(None)][:1]
        return from_json(kind, value, where=where)
    if origin is tuple:
        item_kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
        return tuple(from_json(k, item, where=where) for k, item in zip(item_kinds, value, strict=True))
    return float(value) if kind is float else value


def _objective_class(name: Any, where: str) -> type[Objective]:
    module_name, _, class_name = str(name).partition(":")
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError):
        kind = None
    if not (isinstance(kind, type) and issubclass(kind, Objective)):
        raise ValueError(f"{where}: {name!r} is not an objective that can be imported: install the module it is in")
    return kind


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """JSON values of a configuration by dotted path."""
    if not isinstance(config, dict):
        return {prefix: config}
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}.{name}" if prefix else name)
    return flat


def differences(old: RunConfig, new: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Dotted paths at which two configurations differ, with both values."""
    old_flat, new_flat = flatten(to_json(old)), flatten(to_json(new))
    paths = sorted(old_flat.keys() | new_flat.keys())
    return {
        path: (old_flat.get(path), new_flat.get(path)) for path in paths if old_flat.get(path) != new_flat.get(path)
    }


def write_config(config: RunConfig, path: pathlib.Path) -> None:
    """Writes ``config`` as JSON, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(to_json(config), indent=2) + "\n")
    temporary.replace(path)


def read_config(path: pathlib.Path) -> RunConfig:
    """The configuration a run folder was made with.

    Raises:
      ValueError: there is none, or it is not readable.
    """
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path.parent} is not a run folder: it has no {path.name}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    return from_json(RunConfig, value, where=str(path))


def load_recipe(path: pathlib.Path) -> RunConfig:
    """Runs the function named as the file (or ``recipe``) of a Python recipe.

    Raises:
      ValueError: there is no such file, or it defines no recipe.
    """
    if not path.is_file():
        raise ValueError(f"no recipe {path}{_nearest(path)}")
    # A name of its own, so that a recipe called like a package does not hide it.
    name = f"lmjax_recipe_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    recipe = getattr(module, path.stem, None) or getattr(module, "recipe", None)
    if not callable(recipe):
        raise ValueError(f"{path} must define a function {path.stem}() (or recipe()) that returns a RunConfig")
    config = recipe()
    if not isinstance(config, RunConfig):
        raise ValueError(f"{path}: {path.stem}() returned {type(config).__name__}, not a RunConfig")
    return config


def _nearest(path: pathlib.Path) -> str:
    folder = path.parent if path.parent.is_dir() else pathlib.Path("configs")
    there = sorted(p.stem for p in folder.glob("*.py"))
    near = difflib.get_close_matches(path.stem, there, n=1)
    if near:
        return f": did you mean {folder / near[0]}.py?"
    return f": {folder} has {', '.join(there)}" if there else ""
