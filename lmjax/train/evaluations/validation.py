"""The objective's own losses on text that is not trained on."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Literal

from lmjax.field_types import check_literals
from lmjax.models.parameters import Params
from lmjax.train.corpus import prepared_corpus
from lmjax.train.evaluations.evaluation import Evaluation, Measure, Reading, Subject
from lmjax.train.text_bytes import text_bytes
from lmjax.train.validate import fixed_batches, measure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validation(Evaluation):
    """Exact means of the loss terms over a fixed set of rows, see :func:`lmjax.train.validate.measure`."""

    prepared: str | None = None
    """A folder of `lmjax prepare`, made with the run's tokenizer; the run's own data when unset."""
    split: Literal["valid", "train"] = "valid"
    """Which documents."""
    batches: int = 0
    """Batches to use, always the same; 0 takes the whole split."""

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
        learner, batch_size = subject.learner, subject.batch_size
        rows = corpus.whole_rows(
            self.split,
            objective=learner.objective,
            sequence_length=subject.sequence_length,
            batch_size=batch_size,
        )
        text = text_bytes(corpus, self.split)

        def read(params: Params, after_batch: Callable[[], object]) -> Reading:
            batches = fixed_batches(learner, rows, batch_size=batch_size, num_batches=self.batches)
            with contextlib.closing(batches):
                return measure(learner, params, batches, text, after_batch=after_batch)

        return read
