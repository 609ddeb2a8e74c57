"""`lmjax inspect FOLDER`: what a folder holds. What the folder is decides which options there are."""

from collections.abc import Sequence

from lmjax.cli import inspect_data


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    inspect_data.run(arguments)
