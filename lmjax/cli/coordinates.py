"""`lmjax coordinates RECIPE --widths 64 128 256`: muP's check that widths train alike."""

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

    own, left = _own(arguments)
    config = parse_recipe("coordinates", left, options=OPTIONS)
    width = config.model.width
    widths = [_integer("--widths", word) for word in own["--widths"]] or [width // 2, width, 2 * width]
    steps = _integer("--steps", own["--steps"][0]) if own["--steps"] else 4
    found = check_coordinates(config, widths, steps=steps, say=lambda line: print(line, flush=True))
    Console(highlight=False).print(table(found))
    print(found.verdict)
    if config.model.width_base is None:
        print("model.width_base is not set, so nothing follows the width (muP): set it to the width you tuned at")
    for path in own["--plot"]:
        print(plot_coordinates(found, path))


def _own(arguments: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Returns the words of the command's own options, and all other words."""
    own: dict[str, list[str]] = {"--widths": [], "--steps": [], "--plot": []}
    left: list[str] = []
    taking: list[str] | None = None
    for word in arguments:
        if word in own:
            taking = own[word]
        elif word.startswith("--"):
            taking = None
            left.append(word)
        else:
            (left if taking is None else taking).append(word)
            if taking is not own["--widths"]:
                taking = None
    return own, left


def _integer(option: str, word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise ValueError(f"{option} {word}: must be a whole number") from None
