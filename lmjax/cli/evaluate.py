"""`lmjax evaluate RUN`: loss, perplexity and bits per byte on the whole validation set, and what was scored of it."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Literal

import tyro

from lmjax import runs
from lmjax.cli.arguments import parse_arguments
from lmjax.train.corpus import Corpus, open_corpus, prepared_corpus
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
    corpus = _corpus(opened, options.run, options.prepared)
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


def _corpus(opened: runs.Run, folder: pathlib.Path, prepared: pathlib.Path | None) -> Corpus:
    """Returns the data to evaluate on; reading rows raises an error if another tokenizer than the run's made them."""
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
            f"{error} (looked for from {start}); name the prepared data of the run with --prepared, or evaluate it in "
            f"the folder it was started in"
        ) from None
    return dataclasses.replace(corpus, tokenizer=opened.tokenizer).below(start)


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
