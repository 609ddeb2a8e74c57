"""A run's objective on its own prepared data, or on another prepared folder."""

import pathlib
from typing import Literal

from lmjax import runs
from lmjax.runs.data import corpus_of
from lmjax.train.corpus import Corpus
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
    corpus = corpus_of(opened, opened.folder, prepared=prepared)
    if split == "valid" and not corpus.has("valid"):
        raise ValueError(f"{corpus.folder} kept nothing for validation: use --split train")
    if prepared is None and (changes := _changed_data(opened.folder, corpus)):
        print(f"warning: these are not the data that {opened.folder} was trained on ({changes})")
    validation = Validation(name=split, split=split, batches=batches)
    measure = validation.begin(subject_of(opened.config, opened.learner, opened.tokenizer, corpus))
    return measure(opened.params, lambda: None)


def _changed_data(folder: pathlib.Path, corpus: Corpus) -> str:
    """Returns how the data differ from those the run was trained on.

    The text is empty if they do not differ, or if the run has no record of its data.
    """
    try:
        record = read_record(folder)
    except ValueError as error:
        return str(error)
    return "" if record is None else "; ".join(data_changes(record.data, data_facts(corpus)))
