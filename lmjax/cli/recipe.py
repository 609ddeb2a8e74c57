"""From a recipe and the command line's overrides to a run's configuration."""

import pathlib
import sys
from collections.abc import Sequence

import tyro

from lmjax.train.config import RunConfig
from lmjax.train.config_file import differences, load_recipe


def parse_recipe(command: str, arguments: Sequence[str]) -> RunConfig:
    """Reads ``RECIPE [--field value ...]`` and prints what the overrides changed.

    Args:
      command: the subcommand, for the usage line.
      arguments: what follows it.

    Raises:
      ValueError: the recipe does not exist, or a value is impossible.
      SystemExit: with 2 for an unknown field (tyro names the nearest), with 0 for ``--help``.
    """
    usage = f"usage: lmjax {command} RECIPE [--field value ...]"
    if not arguments or arguments[0].startswith("-"):
        if set(arguments) & {"-h", "--help"}:
            print(f"{usage}\n\n`lmjax {command} RECIPE --help` lists every field of the recipe with its value.")
            sys.exit(0)
        raise ValueError(f"name a recipe first, as in `lmjax {command} configs/stdlib_demo.py`\n{usage}")
    recipe = load_recipe(pathlib.Path(arguments[0]))
    config = tyro.cli(
        RunConfig,
        default=recipe,
        args=list(arguments[1:]),
        prog=f"lmjax {command} {arguments[0]}",
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
    )
    for path, (old, new) in differences(recipe, config).items():
        print(f"{path}: {old} -> {new}", flush=True)
    return config
