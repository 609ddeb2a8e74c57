"""`lmjax train RECIPE [--field value ...]`: trains, or goes on where the same command stopped."""

import dataclasses
import importlib.util
import sys
from collections.abc import Sequence
from typing import NoReturn

from lmjax.cli.progress_bar import bytes_bar
from lmjax.cli.recipe import parse_recipe
from lmjax.cli.streams import unfailing_output
from lmjax.cli.supervise import command_of, supervise
from lmjax.parallel.distributed import is_primary
from lmjax.parallel.signals import kept
from lmjax.train.checkpoint.folder import steps_there
from lmjax.train.config import RunConfig
from lmjax.train.dry_run import describe_run
from lmjax.train.loop import Finished, train
from lmjax.train.run_folder import CHECKPOINTS

DRY_RUN = "--dry-run"
PROFILE = "--profile"
PROFILED_STEPS = (10, 15)
SUPERVISE = "--supervise"
OPTIONS = f"""
  {DRY_RUN}    print every parameter with its shape, layout, optimizer and decay, and train nothing
  {PROFILE}    write a jax profile of steps {PROFILED_STEPS[0]} to {PROFILED_STEPS[1]} to RUN/profile
               (--train.profile FIRST LAST chooses others)
  {SUPERVISE} N  start the run again after a fault, until N starts in a row have saved nothing new
"""


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    limit, arguments = _supervised(arguments)
    own = (DRY_RUN, PROFILE)
    config = parse_recipe("train", [word for word in arguments if word not in own], options=OPTIONS)
    if DRY_RUN in arguments:
        print(describe_run(config))
        return
    if limit is not None:
        _supervise(config, arguments, limit)
    if PROFILE in arguments:
        config = _profiled(config)
    # A run of weeks should not end because the terminal in which it was started has closed.
    with unfailing_output():
        with bytes_bar("preparing") as progress:
            finished = train(config, progress=progress)
        if is_primary():
            _report(finished, config.place)


def _supervised(arguments: Sequence[str]) -> tuple[int | None, list[str]]:
    """Returns the number after ``--supervise``, None without it, and the other arguments."""
    words = [
        part for word in arguments for part in (word.split("=", 1) if word.startswith(f"{SUPERVISE}=") else [word])
    ]
    if SUPERVISE not in words:
        return None, words
    place = words.index(SUPERVISE)
    number = words[place + 1] if place + 1 < len(words) else ""
    if not number.isdecimal() or int(number) < 1:
        raise ValueError(
            f"{SUPERVISE} {number!r}: give the number of starts in a row without a new checkpoint after which to give "
            f"up, at least 1"
        )
    return int(number), words[:place] + words[place + 2 :]


def _supervise(config: RunConfig, arguments: Sequence[str], limit: int) -> NoReturn:
    """Trains in a child process, and starts it again after faults.

    Raises:
      SystemExit: always, with the exit code of the last child.
    """
    checkpoints = config.run_folder / CHECKPOINTS

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    with unfailing_output():
        code = supervise(
            command_of(arguments),
            limit=limit,
            saved_step=lambda: max(steps_there(checkpoints), default=None),
            say=say,
        )
    sys.exit(code)


def _report(finished: Finished, place: str) -> None:
    if finished.stopped_by is not None:
        saved = finished.saved_step
        what = f"saved step {saved}" if saved == finished.step else f"step {finished.step} is not saved"
        goal = "to begin anew" if saved is None else "to go on"
        where = "" if saved in (None, finished.step) else f" from step {saved}"
        print(f"{finished.stopped_by}: {what}; run the same command again {goal}{where}")
        return
    print(f"done: {finished.step} steps in {place}")
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
