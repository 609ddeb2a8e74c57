"""Copies the files of a published model from an imported run to the runs that begin with that run."""

import pathlib

from lmjax.parallel.contained import copy_inside

PUBLISHED = "published"
"""The name of the folder of these files in a run folder."""


def hand_on_published(source: pathlib.Path | str | None, run: pathlib.Path) -> None:
    """Copies the files of a published model from one run to another, if there are any.

    Args:
      source: the folder of the run to begin with, or of one of its checkpoints; None if there is no such run.
      run: the folder of the new run.

    Raises:
      ValueError: a link among the files leads out of their folder.
    """
    if source is None:
        return
    path = pathlib.Path(source)
    # A checkpoint lies two folders down in its run, named by its step.
    runs = [path, path.parent.parent] if path.name.isdecimal() else [path]
    for kept in [folder / PUBLISHED for folder in runs if (folder / PUBLISHED).is_dir()][:1]:
        copy_inside(kept.parent, run, PUBLISHED)
