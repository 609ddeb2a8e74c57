"""`lmjax train RECIPE [--field value ...]`: trains, or goes on where the same command stopped."""

import importlib.util
from collections.abc import Sequence

from lmjax.cli.progress_bar import bytes_bar
from lmjax.cli.recipe import parse_recipe
from lmjax.parallel.distributed import is_primary
from lmjax.train.loop import train


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    config = parse_recipe("train", arguments)
    with bytes_bar("preparing") as progress:
        finished = train(config, progress=progress)
    if not is_primary():
        return
    if finished.stopped_by is not None:
        print(f"{finished.stopped_by}: saved step {finished.step}; run the same command again to go on")
        return
    print(f"done: {finished.step} steps in {finished.folder}")
    if importlib.util.find_spec("matplotlib") is not None:
        from lmjax.analysis.plots import plot_loss

        print(f"loss curve: {plot_loss([finished.folder], finished.folder / 'loss.png')}")
