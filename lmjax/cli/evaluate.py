"""`lmjax evaluate RUN`: loss, perplexity and bits per byte on the whole validation set."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Literal

import tyro

from lmjax.train.corpus import open_corpus
from lmjax.train.run_folder import open_run
from lmjax.train.validate import fixed_batches, validate


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """Evaluate a run's model on all of a split."""

    run: tyro.conf.Positional[pathlib.Path]
    """The run folder."""
    prepared: str | None = None
    """Another prepared folder than the run's own data."""
    split: Literal["valid", "train"] = "valid"
    """Which documents."""
    batches: int = 0
    """Batches to use; 0 takes the whole split."""
    step: int | None = None
    """The checkpoint to use; the newest when unset."""


def run(arguments: Sequence[str]) -> None:
    """Runs the command; the last line is one JSON object."""
    options = tyro.cli(EvaluateArguments, args=list(arguments), prog="lmjax evaluate")
    opened = open_run(options.run, step=options.step)
    config = opened.config
    data = config.data
    if options.prepared is not None:
        data = dataclasses.replace(data, prepared=options.prepared, mixture=(), mixture_weights=())
    tokenizer = dataclasses.replace(config.tokenizer, path=str(options.run / "tokenizer"))
    corpus = open_corpus(data, tokenizer if options.prepared is not None else config.tokenizer)
    if options.split == "valid" and not corpus.has_validation:
        raise ValueError(f"{corpus.folder} kept nothing for validation: use --split train")
    train = config.train
    rows = corpus.rows(options.split, row_length=config.objective.row_length(train.sequence_length), seed=None)
    batches = fixed_batches(opened.learner, rows, batch_size=train.batch_size, num_batches=options.batches)
    numbers = validate(opened.learner, opened.params, batches)
    print(json.dumps({"step": opened.step, **{f"{options.split}/{k}": v for k, v in numbers.items()}}))
