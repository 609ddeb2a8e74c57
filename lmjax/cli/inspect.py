"""`lmjax inspect FOLDER`: what a folder holds. The options depend on the kind of folder."""

import pathlib
from collections.abc import Sequence

from lmjax.cli import inspect_data, inspect_run
from lmjax.train.run_folder import CONFIG


def run(arguments: Sequence[str]) -> None:
    """Runs the command: on a run it shows the rows of a step, on prepared data what they hold."""
    is_run = "--step" in arguments or any((pathlib.Path(word) / CONFIG).is_file() for word in arguments)
    (inspect_run if is_run else inspect_data).run(arguments)
