"""From a recipe and the command line's overrides to a run's configuration."""

import ast
import pathlib
import sys
from collections.abc import Sequence

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from lmjax.field_types import check_types
from lmjax.schedules.ramp import Ramp, Scalar
from lmjax.train.config import RunConfig
from lmjax.train.config_file import differences
from lmjax.train.recipes import find_recipe, load_recipe, recipes

REGISTRY = ConstructorRegistry()
"""How a field that may follow a schedule is read: ``0.15``, or ``0.4:0.15:1000:linear``."""


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
    """Reads ``RECIPE [--field value ...]``, RECIPE a path or a name, and prints what the overrides changed.

    Args:
      command: the subcommand, for the usage line.
      arguments: what follows it.
      options: lines of help on options of the command's own.

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
    description = (_top_comment(path), f"Objective: {type(recipe.objective).__name__}.", options.strip("\n"))
    config = tyro.cli(
        RunConfig,
        default=recipe,
        args=list(arguments[1:]),
        prog=f"lmjax {command} {path}",
        description="\n\n".join(part for part in description if part),
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
        registry=REGISTRY,
    )
    check_types(config)  # of NaN and infinity, which are numbers to the command line
    for name, (old, new) in differences(recipe, config).items():
        print(f"{name}: {old} -> {new}", flush=True)
    return config


def _help(command: str) -> str:
    return (
        f"A recipe is a Python file with a function that returns a RunConfig; these can be called by name:\n\n"
        f"  {', '.join(recipes())}\n\n"
        f"Any field of it is changed by its path:\n\n"
        f"  lmjax {command} configs/stdlib_demo.py --train.steps 500 --optimizer.learning-rate 1e-3\n"
        f"  lmjax {command} configs/stdlib_demo.py --help      every field, its help and its value"
    )


def _top_comment(path: pathlib.Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
