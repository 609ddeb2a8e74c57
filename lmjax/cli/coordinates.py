"""`lmjax coordinates RECIPE --widths 64 128 256`: muP's check that widths train alike."""

import argparse
from collections.abc import Sequence

from rich.console import Console

from lmjax.cli.recipe import parse_recipe

OPTIONS = """
  --widths W W ...   the widths to compare; half, once and twice the recipe's when unset
  --steps N          how many steps to train at each, 4 when unset
  --plot FILE        draw the activations over the width, too
"""


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    from lmjax.analysis.coordinates import check_coordinates, plot_coordinates, table

    parser = argparse.ArgumentParser(prog="lmjax coordinates", add_help=False, allow_abbrev=False)
    parser.add_argument("--widths", type=int, nargs="+")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--plot")
    own, left = parser.parse_known_args(list(arguments))
    config = parse_recipe("coordinates", left, options=OPTIONS)
    width = config.model.width
    widths = own.widths or [width // 2, width, 2 * width]
    found = check_coordinates(config, widths, steps=own.steps, say=lambda line: print(line, flush=True))
    Console(highlight=False).print(table(found))
    print(found.verdict)
    if config.model.width_base is None:
        print("model.width_base is not set, so nothing follows the width (muP): set it to the width you tuned at")
    if own.plot is not None:
        print(plot_coordinates(found, own.plot))
