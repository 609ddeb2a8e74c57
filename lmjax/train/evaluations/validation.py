"""The objective's own losses on text that is not trained on."""

import collections
import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from lmjax.data.mixing import Weights
from lmjax.field_types import check_literals
from lmjax.models.parameters import Params
from lmjax.train.corpus import Corpus, prepared_corpus
from lmjax.train.evaluations.evaluation import Evaluation, Measure, Reading, Subject
from lmjax.train.text_bytes import text_bytes
from lmjax.train.validate import fixed_batches, measure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validation(Evaluation):
    """Exact means of the loss terms over a fixed set of rows, see :func:`lmjax.train.validate.measure`.

    The sources of a mixture are measured one by one (``NAME/SOURCE/loss``); the other numbers are the means of theirs,
    weighted by the shares that the sources have at the end of the run.
    """

    prepared: str | None = None
    """A folder of `lmjax prepare`, made with the run's tokenizer; the run's own data when unset."""
    split: Literal["valid", "train"] = "valid"
    """Which documents."""
    batches: int = 0
    """Batches to use, always the same, divided equally among the sources; 0 takes the whole split."""

    def __post_init__(self):
        super().__post_init__()
        check_literals(self, f"evaluations.{self.name}.")
        if self.batches < 0:
            raise ValueError(f"evaluations: {self.name}: batches={self.batches}: must not be negative")

    def begin(self, subject: Subject) -> Measure:
        """Opens the rows, and returns the function that measures parameters on them.

        Raises:
          ValueError: the split has no documents, or the folder cannot be used.
        """
        corpus = subject.corpus
        if self.prepared is not None:
            corpus = prepared_corpus(subject.data, self.prepared, subject.tokenizer)
        if corpus is None:
            raise ValueError(f"evaluations: {self.name}: the run's data are not at hand: name a folder in prepared")
        if not corpus.has(self.split):
            raise ValueError(
                f"evaluations: {self.name}: {corpus.folder} has no documents for split={self.split!r}: name another "
                f"split, or another folder in prepared"
            )
        sources = {name: one for name, one in corpus.sources.items() if one.has(self.split)}
        if not sources:
            return self._begin_one(subject, corpus, self.batches)
        # Each source gets an equal part of the batches, so that small ones are measured as well.
        num_batches = -(-self.batches // len(sources))
        measures = {name: self._begin_one(subject, one, num_batches) for name, one in sources.items()}
        shares = last_shares(corpus.weights, list(sources))

        def read(params: Params, after_batch: Callable[[], object]) -> Reading:
            return mean_of_sources({name: one(params, after_batch) for name, one in measures.items()}, shares)

        return read

    def _begin_one(self, subject: Subject, corpus: Corpus, num_batches: int) -> Measure:
        """Opens the rows of one source, and returns the function that measures parameters on them."""
        learner, batch_size = subject.learner, subject.batch_size
        rows = corpus.whole_rows(
            self.split,
            objective=learner.objective,
            sequence_length=subject.sequence_length,
            batch_size=batch_size,
        )
        text = text_bytes(corpus, self.split)

        def read(params: Params, after_batch: Callable[[], object]) -> Reading:
            batches = fixed_batches(learner, rows, batch_size=batch_size, num_batches=num_batches)
            with contextlib.closing(batches):
                return measure(learner, params, batches, text, after_batch=after_batch)

        return read


def last_shares(weights: Weights, names: Sequence[str]) -> dict[str, float]:
    """Returns the shares of these sources at the end of a run; equal ones if none of them is read then."""
    _, last = weights[-1]
    total = float(sum(last[name] for name in names))
    return {name: float(last[name]) / total if total else 1 / len(names) for name in names}


def mean_of_sources(readings: Mapping[str, Reading], shares: Mapping[str, float]) -> Reading:
    """Returns the numbers of each source as ``SOURCE/NAME``, and their means by the shares as ``NAME``.

    The mean of perplexities is geometric, so that it is the perplexity of the mean loss. A number that a source lacks
    has no mean.

    Args:
      readings: the result for each source.
      shares: the weight of each source, which add up to 1.
    """
    numbers: dict[str, float] = {}
    for name in next(iter(readings.values())).numbers:
        own = {source: reading.numbers.get(name) for source, reading in readings.items()}
        if (values := {source: value for source, value in own.items() if value is not None}).keys() != own.keys():
            continue
        if name.endswith("perplexity"):
            numbers[name] = math.prod(value ** shares[source] for source, value in values.items())
        else:
            numbers[name] = sum(value * shares[source] for source, value in values.items())
    for source, reading in readings.items():
        numbers |= {f"{source}/{name}": value for name, value in reading.numbers.items()}
    counts: collections.Counter[str] = collections.Counter()
    for reading in readings.values():
        counts.update(reading.counts)
    notes = dict.fromkeys(note for reading in readings.values() for note in reading.notes)
    return Reading(numbers=numbers, counts=dict(counts), notes=tuple(notes))
