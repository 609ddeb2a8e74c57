"""`lmjax evaluate RUN`: loss, perplexity and bits per byte on the whole validation set, and what was scored of it."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Literal

import tyro

from lmjax import runs
from lmjax.cli.arguments import parse_arguments
from lmjax.runs.data import corpus_of
from lmjax.train.corpus import Corpus
from lmjax.train.evaluations.validation import Validation
from lmjax.train.plan import subject_of
from lmjax.train.record import data_changes, data_facts, read_record
from lmjax.train.run_folder import BestOrStep


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """Evaluate a run's model on all of a split; the last line is one JSON object."""

    run: tyro.conf.Positional[pathlib.Path]
    """The run folder."""
    prepared: pathlib.Path | None = None
    """Another prepared folder than the run's own data, made with the run's tokenizer."""
    split: Literal["valid", "train"] = "valid"
    """Which documents."""
    batches: int = 0
    """Batches to use; 0 takes the whole split."""
    step: BestOrStep = None
    """The checkpoint to use, a step or `best` (checkpoint.keep_best); the newest when unset."""

    def __post_init__(self):
        if self.batches < 0:
            raise ValueError(f"batches={self.batches}: must not be negative; 0 takes the whole split")


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse_arguments(EvaluateArguments, arguments, command="evaluate")
    opened = runs.open(options.run, step=options.step)
    corpus = corpus_of(opened, options.run, prepared=options.prepared)
    if options.split == "valid" and not corpus.has("valid"):
        raise ValueError(f"{corpus.folder} kept nothing for validation: use --split train")
    if options.prepared is None and (changes := _changed_data(options.run, corpus)):
        print(f"warning: these are not the data that {options.run} was trained on ({changes})")
    validation = Validation(name=options.split, split=options.split, batches=options.batches)
    measure = validation.begin(subject_of(opened.config, opened.learner, corpus))
    reading = measure(opened.params, lambda: None)
    for note in reading.notes:
        print(note)
    numbers = {**reading.numbers, **reading.counts}
    print(json.dumps({"step": opened.step, **{f"{options.split}/{k}": v for k, v in numbers.items()}}))


def _changed_data(folder: pathlib.Path, corpus: Corpus) -> str:
    """Returns how the data differ from those the run was trained on.

    The text is empty if they do not differ, or if the run has no record of its data.
    """
    try:
        record = read_record(folder)
    except ValueError as error:
        return str(error)
    return "" if record is None else "; ".join(data_changes(record.data, data_facts(corpus)))
