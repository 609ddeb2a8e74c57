"""`lmjax train RECIPE [--field value ...]`: trains, or goes on where the same command stopped."""

import dataclasses
import importlib.util
from collections.abc import Sequence

from lmjax.cli.progress_bar import bytes_bar
from lmjax.cli.recipe import parse_recipe
from lmjax.cli.streams import unfailing_output
from lmjax.parallel.distributed import is_primary
from lmjax.parallel.signals import kept
from lmjax.train.config import RunConfig
from lmjax.train.dry_run import describe_run
from lmjax.train.loop import Finished, train

DRY_RUN = "--dry-run"
PROFILE = "--profile"
PROFILED_STEPS = (10, 15)
OPTIONS = f"""
  {DRY_RUN}    print every parameter with its shape, layout, optimizer and decay, and train nothing
  {PROFILE}    write a jax profile of steps {PROFILED_STEPS[0]} to {PROFILED_STEPS[1]} to RUN/profile
               (--train.profile FIRST LAST chooses others)
"""


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    own = (DRY_RUN, PROFILE)
    config = parse_recipe("train", [word for word in arguments if word not in own], options=OPTIONS)
    if DRY_RUN in arguments:
        print(describe_run(config))
        return
    if PROFILE in arguments:
        config = _profiled(config)
    # A run of weeks should not end because the terminal in which it was started has closed.
    with unfailing_output():
        with bytes_bar("preparing") as progress:
            finished = train(config, progress=progress)
        if is_primary():
            _report(finished)


def _report(finished: Finished) -> None:
    if finished.stopped_by is not None:
        print(f"{finished.stopped_by}: saved step {finished.step}; run the same command again to go on")
        return
    print(f"done: {finished.step} steps in {finished.folder}")
    if importlib.util.find_spec("matplotlib") is not None:
        from lmjax.analysis.plots import plot_loss

        try:
            with kept("the run is done and saved, without its picture"):
                print(f"loss curve: {plot_loss([finished.folder], finished.folder / 'loss.png')}")
        except (OSError, ValueError) as error:
            print(f"no loss curve: {error}")


def _profiled(config: RunConfig) -> RunConfig:
    """Returns the configuration with a profile of steps after compilation, unless the recipe names other steps."""
    first, last = (min(step, config.train.steps) for step in PROFILED_STEPS)
    steps = config.train.profile or (first, last)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, profile=steps))
