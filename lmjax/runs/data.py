"""Finds the data that a run was trained on."""

import contextlib
import dataclasses
import pathlib

from lmjax.runs.opened import Opened
from lmjax.train.corpus import Corpus, prepared_corpus
from lmjax.train.open_corpus import open_corpus


def corpus_of(opened: Opened, folder: pathlib.Path, *, prepared: pathlib.Path | None = None) -> Corpus:
    """Returns the data of a run, or other prepared data.

    Reading rows raises an error if another tokenizer than the run's made them.

    Args:
      opened: the run.
      folder: its folder, as the user named it.
      prepared: a prepared folder in place of the run's own data.

    Raises:
      ValueError: the data are not there.
    """
    data = opened.config.data
    if prepared is not None:
        return prepared_corpus(data, prepared, opened.tokenizer)
    # A recipe's relative paths start at the folder in which the run was started.
    start = _started_in(folder, opened.config.run_folder)
    try:
        with contextlib.chdir(start):
            corpus = open_corpus(data, opened.config.tokenizer)
    except ValueError as error:
        raise ValueError(
            f"{error} (looked for from {start}); name the prepared data of the run with --prepared, or run the "
            f"command in the folder it was started in"
        ) from None
    return dataclasses.replace(corpus, tokenizer=opened.tokenizer).below(start)


def _started_in(folder: pathlib.Path, run_folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder in which a run was started, which follows from its place and the path in its configuration.

    If it does not follow from them, it returns the current folder.
    """
    depth = len(run_folder.parts)
    resolved = folder.resolve()
    if run_folder.is_absolute() or resolved.parts[-depth:] != run_folder.parts:
        return pathlib.Path.cwd()
    return resolved.parents[depth - 1]
