"""From a recipe and the command line's overrides to a run's configuration."""

import ast
import dataclasses
import pathlib
import sys
import typing
from collections.abc import Sequence
from typing import Any

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from lmjax.choice import Choice, members
from lmjax.field_types import check_types
from lmjax.schedules.ramp import Ramp, Scalar
from lmjax.train.config import RunConfig
from lmjax.train.config_file import differences
from lmjax.train.recipes import find_recipe, load_recipe, recipes

REGISTRY = ConstructorRegistry()
"""Says how to read a field that may follow a schedule: ``0.15``, or ``0.4:0.15:1000:linear``."""


@REGISTRY.primitive_rule
def _scalar(kind: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    if kind.type != Scalar:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT|START:END:STEPS[:SHAPE]",
        instance_from_str=lambda words: Ramp.parse(words[0]) if ":" in words[0] else float(words[0]),
        is_instance=lambda value: isinstance(value, int | float | Ramp),
        str_from_instance=lambda value: [str(value)],
    )


def parse_recipe(command: str, arguments: Sequence[str], *, options: str = "") -> RunConfig:
    """Reads ``RECIPE [--field value ...]``, prints what the overrides changed, and returns the configuration.

    RECIPE is a path or a name.

    Args:
      command: the subcommand, for the usage line.
      arguments: the words after the subcommand.
      options: lines of help on the command's own options.

    Raises:
      ValueError: the recipe does not exist, or a value is impossible.
      SystemExit: with 2 for an unknown field (tyro names the nearest), with 0 for ``--help``.
    """
    if not arguments or arguments[0].startswith("-"):
        usage = f"usage: lmjax {command} RECIPE [--field value ...]"
        if set(arguments) & {"-h", "--help"}:
            print(f"{usage}\n{options}\n{_help(command)}")
            sys.exit(0)
        raise ValueError(f"name a recipe first, as in `lmjax {command} configs/stdlib_demo.py`\n{usage}")
    path = find_recipe(arguments[0])
    recipe = load_recipe(path)
    start, overrides = with_classes(recipe, arguments[1:])
    description = (_top_comment(path), f"Objective: {type(recipe.objective).__name__}.", options.strip("\n"))
    config = tyro.cli(
        RunConfig,
        default=start,
        args=overrides,
        prog=f"lmjax {command} {path}",
        description="\n\n".join(part for part in description if part),
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
        registry=REGISTRY,
    )
    check_types(config)  # refuses NaN and infinity, which the command line takes as numbers
    for name, (old, new) in differences(recipe, config).items():
        print(f"{name}: {old} -> {new}", flush=True)
    return config


def with_classes(config: RunConfig, arguments: Sequence[str]) -> tuple[RunConfig, list[str]]:
    """Applies ``--optimizer CLASS``, ``--objective CLASS`` and similar options, and removes them from the arguments.

    Fields that all classes of the family have, such as the learning rate of an optimizer, keep the recipe's values; all
    other fields have the default of the class.

    Args:
      config: the recipe's configuration.
      arguments: words of the command line.

    Returns:
      The configuration with these classes, and the arguments that are left.

    Raises:
      ValueError: there is no such class, or it has fields without a default.
    """
    families = {name: kind for name, kind in typing.get_type_hints(RunConfig).items() if _is_family(kind)}
    words, left = iter(arguments), []
    for word in words:
        option, equals, value = word.partition("=")
        field = option.removeprefix("--").replace("-", "_")
        if field not in families or not option.startswith("--"):
            left.append(word)
            continue
        config = _with_class(config, field, families[field], value if equals else next(words, ""))
    return config, left


def _is_family(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Choice)


def _with_class(config: RunConfig, field: str, family: type[Choice], name: str) -> RunConfig:
    known = {kind.__name__: kind for kind in members(family).values()}
    if name not in known:
        raise ValueError(f"--{_option(field)} {name}: there is no such class; there are {', '.join(sorted(known))}")
    shared = {own.name: getattr(getattr(config, field), own.name) for own in dataclasses.fields(family)}  # type: ignore[arg-type]
    try:
        chosen: dict[str, Any] = {field: known[name](**shared)}
    except TypeError as error:
        raise ValueError(
            f"--{_option(field)} {name}: it has fields without a default ({error}): set it in a recipe"
        ) from None
    return dataclasses.replace(config, **chosen)


def _option(field: str) -> str:
    return field.replace("_", "-")


def _help(command: str) -> str:
    return (
        f"A recipe is a Python file with a function that returns a RunConfig; these can be called by name:\n\n"
        f"  {', '.join(recipes())}\n\n"
        f"Any field of it is changed by its path:\n\n"
        f"  lmjax {command} configs/stdlib_demo.py --train.steps 500 --optimizer.learning-rate 1e-3\n"
        f"  lmjax {command} configs/stdlib_demo.py --optimizer Lion      another class, its other options by default\n"
        f"  lmjax {command} configs/stdlib_demo.py --help      every field, its help and its value"
    )


def _top_comment(path: pathlib.Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
