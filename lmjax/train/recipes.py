"""Recipes: Python files with a function that returns a run's configuration, found by path or by name."""

import contextlib
import difflib
import hashlib
import importlib.util
import os
import pathlib
import sys
import traceback
from collections.abc import Iterator
from typing import TypeVar

from lmjax.choice import chosen_classes
from lmjax.field_types import check_types
from lmjax.train.config import RunConfig

FOLDERS = (
    pathlib.Path("configs"),
    pathlib.Path(__file__).parents[2] / "configs",
    pathlib.Path(sys.prefix) / "share" / "lmjax" / "configs",
)
"""Folders in which recipes are looked for by name: in the working folder, in the checkout, and where a wheel installs
them."""


def recipes() -> dict[str, pathlib.Path]:
    """Returns the recipes that can be called by name, in the order of their names."""
    found: dict[str, pathlib.Path] = {}
    for folder in reversed(FOLDERS):
        found |= {path.stem: path for path in folder.glob("*.py")}
        found |= {path.stem: path for room in ("papers", "small") for path in (folder / room).glob("*.py")}
    return dict(sorted(found.items()))


def find_recipe(name: str) -> pathlib.Path:
    """Returns the path of a recipe, given its path or its name, such as ``masked_small``.

    Raises:
      ValueError: there is no such recipe; the message names the one with the most similar name.
    """
    path = pathlib.Path(name)
    if path.is_file():
        return path
    found = recipes()
    if name in found:
        return found[name]
    raise ValueError(f"no recipe {path}{_nearest(path, found)}")


def _nearest(path: pathlib.Path, found: dict[str, pathlib.Path]) -> str:
    folder = path if path.is_dir() else path.parent
    there = found | {file.stem: file for file in sorted(folder.glob("*.py"))}
    near = difflib.get_close_matches(path.stem, there, n=1)
    if near:
        return f": did you mean {there[near[0]]}?"
    return f": there are {', '.join(found)}" if found else ": name a Python file, as in configs/stdlib_demo.py"


Config = TypeVar("Config")


def load_recipe(path: pathlib.Path) -> RunConfig:
    """Returns the configuration of a run that a recipe returns, see :func:`load_recipe_of`."""
    return load_recipe_of(RunConfig, path)


def load_recipe_of(kind: type[Config], path: pathlib.Path) -> Config:
    """Returns the configuration that a recipe returns.

    The recipe's function is named like its file, or ``recipe``.

    Args:
      kind: the class of the configuration.
      path: the recipe's path or name.

    Raises:
      ValueError: there is no such file, it fails, or it does not return a valid configuration.
    """
    path = find_recipe(str(path))
    # The module gets a unique name, so that a recipe that is named like a package does not hide the package.
    name = f"lmjax_recipe_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with _failures_of(path):
        spec.loader.exec_module(module)
    recipe = getattr(module, path.stem, None) or getattr(module, "recipe", None)
    if not callable(recipe):
        raise ValueError(f"{path} must define a function {path.stem}() (or recipe()) that returns a {kind.__name__}")
    with _failures_of(path):
        config = recipe()
    if not isinstance(config, kind):
        raise ValueError(f"{path}: {path.stem}() returned {type(config).__name__}, not a {kind.__name__}")
    check_types(config, where=f"{path}: ")
    for chosen in chosen_classes(config):
        if chosen.__module__ == name:
            raise ValueError(
                f"{path}: {chosen.family.__name__.lower()} {chosen.__name__} is defined in the recipe: move it to a "
                f"module that can be imported, for {path.stem}'s config.json names it"
            )
    return config


@contextlib.contextmanager
def _failures_of(path: pathlib.Path) -> Iterator[None]:
    """Turns an error inside of the block into one that says where in the recipe it was raised."""
    try:
        yield
    except Exception as error:
        stack = traceback.extract_tb(error.__traceback__)
        lines = [f", line {frame.lineno}" for frame in stack if frame.filename == os.path.abspath(path)]
        kind = "" if isinstance(error, ValueError | ImportError | SyntaxError) else f"{type(error).__name__}: "
        raise ValueError(f"{path}{lines[-1] if lines else ''}: {kind}{error}") from error
