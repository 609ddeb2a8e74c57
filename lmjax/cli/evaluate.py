"""`lmjax evaluate RUN`: loss, perplexity and bits per byte on the whole validation set, and what was scored of it."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Literal

import tyro

from lmjax.data.shards import Manifest
from lmjax.train.corpus import Corpus, open_corpus
from lmjax.train.run_folder import Run, open_run
from lmjax.train.text_bytes import text_bytes
from lmjax.train.validate import fixed_batches, measure


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
    step: int | None = None
    """The checkpoint to use; the newest when unset."""

    def __post_init__(self):
        if self.batches < 0:
            raise ValueError(f"batches={self.batches}: must not be negative; 0 takes the whole split")


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = tyro.cli(EvaluateArguments, args=list(arguments), prog="lmjax evaluate")
    opened = open_run(options.run, step=options.step)
    corpus = _corpus(opened, options.prepared)
    if options.split == "valid" and not corpus.has_validation:
        raise ValueError(f"{corpus.folder} kept nothing for validation: use --split train")
    train = opened.config.train
    rows = corpus.whole_rows(options.split, objective=opened.config.objective, train=train)
    batches = fixed_batches(opened.learner, rows, batch_size=train.batch_size, num_batches=options.batches)
    measured = measure(opened.learner, opened.params, batches, text_bytes(corpus, options.split))
    if measured.no_bits_per_byte:
        print(measured.no_bits_per_byte)
    numbers = {**measured.numbers, **measured.counts}
    print(json.dumps({"step": opened.step, **{f"{options.split}/{k}": v for k, v in numbers.items()}}))


def _corpus(opened: Run, prepared: pathlib.Path | None) -> Corpus:
    """The data to evaluate on; its rows refuse shards that another tokenizer than the run's has made."""
    data = opened.config.data
    if prepared is None:
        return dataclasses.replace(open_corpus(data, opened.config.tokenizer), tokenizer=opened.tokenizer)
    data = dataclasses.replace(data, prepared=str(prepared), mixture=(), mixture_weights=())
    return Corpus(data, prepared, Manifest.load(prepared), opened.tokenizer)
