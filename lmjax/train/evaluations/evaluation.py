"""The base class of evaluations: a name, how often the evaluation is due, and a function of the parameters.

To add an evaluation, derive a frozen dataclass from :class:`Evaluation` and name it in ``RunConfig.evaluations``.
"""

import abc
import dataclasses
import re
from collections.abc import Callable, Mapping

from lmjax.choice import Choice
from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.parameters import Params
from lmjax.tokenizers import Tokenizer
from lmjax.train.corpus import Corpus
from lmjax.train.samples_file import Written
from lmjax.train.step import Learner

_NAME = re.compile(r"\w[\w.-]*", re.ASCII)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """The facts about a run that its evaluations are given.

    Attributes:
      learner: the run's objective, module, vocabulary and mesh.
      tokenizer: the run's tokenizer.
      data: the configuration of the run's data, which says how texts are read and what stands around documents.
      corpus: the run's data; None where they are not at hand.
      model: the resolved configuration of the model.
      batch_size: number of rows of a step.
      sequence_length: T, tokens of a row that the model sees.
    """

    learner: Learner
    tokenizer: Tokenizer
    data: DataConfig
    corpus: Corpus | None
    model: ModelConfig
    batch_size: int
    sequence_length: int

    @property
    def max_length(self) -> int | None:
        """The number of positions that the model has learned; None where it has no such limit."""
        return self.model.max_length if self.model.positions == "learned" else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """The result of an evaluation.

    Attributes:
      numbers: the measured numbers by name. If a number whose name ends with ``loss`` is not finite, the state is not
        saved.
      counts: how much was measured, by name, such as the number of ``tokens`` that were scored.
      notes: sentences for a person; the training loop shows each of them once in a run.
      tables: the same numbers of parts of what was measured: a table's name ("file"), a part, a number's name. The
        training loop does not write them.
      written: texts that the model wrote; the training loop keeps them in ``samples.jsonl``.
    """

    numbers: dict[str, float]
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tables: Mapping[str, Mapping[str, Mapping[str, float]]] = dataclasses.field(default_factory=dict)
    written: tuple[Written, ...] = ()


Measure = Callable[[Params, Callable[[], object]], Reading]
"""A function that evaluates parameters. It must call its second argument after each part of its work, such as a batch.
This call tells the watchdog that the process is alive. It raises an exception if the run is to stop; the function must
not catch this exception."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(Choice, abc.ABC, home="lmjax.train.evaluations"):
    """A measurement of a run's state; a subclass defines :meth:`begin`."""

    name: str
    """What its numbers are logged under, as in `NAME/loss`."""
    every_steps: int = 0
    """Steps between two evaluations, the first before any step; 0 evaluates only at the end of training."""

    def __post_init__(self):
        """Refuses a name that cannot be part of a metric's name, and a negative period."""
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"evaluations: name={self.name!r}: use letters, digits, '.', '_' and '-'")
        if self.every_steps < 0:
            raise ValueError(f"evaluations: {self.name}: every_steps={self.every_steps}: must not be negative")

    def is_due(self, step: int) -> bool:
        """Returns whether the state after ``step`` updates is to be evaluated."""
        return self.every_steps > 0 and step % self.every_steps == 0

    @abc.abstractmethod
    def begin(self, subject: Subject) -> Measure:
        """Prepares the evaluation of a run, before its folder is made, and returns the function that evaluates.

        Raises:
          ValueError: the run cannot be evaluated in this way; the message names the field and the remedy.
        """
