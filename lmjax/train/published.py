"""The files of a published folder beside a run made of it, handed on to runs that begin with that run."""

import pathlib
import shutil

PUBLISHED = "published"
"""Their folder in a run's."""


def hand_on_published(source: pathlib.Path | str | None, run: pathlib.Path) -> None:
    """Copies them from one run to another, if there are any.

    Args:
      source: the run to begin with, or a checkpoint of it; None for none.
      run: the new run's folder.
    """
    if source is None:
        return
    path = pathlib.Path(source)
    # A checkpoint lies two folders down in its run, named by its step.
    runs = [path, path.parent.parent] if path.name.isdecimal() else [path]
    for kept in [folder / PUBLISHED for folder in runs if (folder / PUBLISHED).is_dir()][:1]:
        shutil.copytree(kept, run / PUBLISHED, dirs_exist_ok=True)
