"""A run's objective on its own prepared data, or on another prepared folder."""

import contextlib
import dataclasses
import pathlib
from typing import Literal

from lmjax import runs
from lmjax.train.corpus import Corpus, open_corpus, prepared_corpus
from lmjax.train.evaluations.evaluation import Reading
from lmjax.train.evaluations.validation import Validation
from lmjax.train.plan import subject_of
from lmjax.train.record import data_changes, data_facts, read_record


def measure_own_data(
    opened: runs.Run, *, prepared: pathlib.Path | None, split: Literal["valid", "train"], batches: int
) -> Reading:
    """Returns the losses of the run's objective on a split, and prints a warning if its data have changed.

    Args:
      opened: the run.
      prepared: another prepared folder than the run's own data.
      split: which documents.
      batches: the number of batches to use; 0 takes all.

    Raises:
      ValueError: the data are not found, were made with another tokenizer, or hold no such documents.
    """
    corpus = _corpus(opened, prepared)
    if split == "valid" and not corpus.has("valid"):
        raise ValueError(f"{corpus.folder} kept nothing for validation: use --split train")
    if prepared is None and (changes := _changed_data(opened.folder, corpus)):
        print(f"warning: these are not the data that {opened.folder} was trained on ({changes})")
    validation = Validation(name=split, split=split, batches=batches)
    measure = validation.begin(subject_of(opened.config, opened.learner, opened.tokenizer, corpus))
    return measure(opened.params, lambda: None)


def _corpus(opened: runs.Run, prepared: pathlib.Path | None) -> Corpus:
    """Returns the data to evaluate on; reading rows raises an error if another tokenizer than the run's made them."""
    data = opened.config.data
    if prepared is not None:
        return prepared_corpus(data, prepared, opened.tokenizer)
    # A recipe's relative paths start at the folder in which the run was started.
    start = _started_in(opened.folder, opened.config.run_folder)
    try:
        with contextlib.chdir(start):
            corpus = open_corpus(data, opened.config.tokenizer)
    except ValueError as error:
        raise ValueError(
            f"{error} (looked for from {start}); name the prepared data of the run with --prepared, or evaluate it in "
            f"the folder it was started in"
        ) from None
    data = dataclasses.replace(corpus.config, mixture=tuple(str(start / part) for part in corpus.config.mixture))
    return dataclasses.replace(corpus, config=data, folder=start / corpus.folder, tokenizer=opened.tokenizer)


def _changed_data(folder: pathlib.Path, corpus: Corpus) -> str:
    """Returns how the data differ from those the run was trained on.

    The text is empty if they do not differ, or if the run has no record of its data.
    """
    try:
        record = read_record(folder)
    except ValueError as error:
        return str(error)
    return "" if record is None else "; ".join(data_changes(record.data, data_facts(corpus)))


def _started_in(folder: pathlib.Path, run_folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder in which a run was started, which follows from its place and the path in its configuration.

    If it does not follow from them, it returns the current folder.
    """
    depth = len(run_folder.parts)
    resolved = folder.resolve()
    if run_folder.is_absolute() or resolved.parts[-depth:] != run_folder.parts:
        return pathlib.Path.cwd()
    return resolved.parents[depth - 1]
