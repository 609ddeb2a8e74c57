"""What the training loop knows of an evaluation: its name, how often it is due, and a function of the parameters.

To add an evaluation, derive a frozen dataclass from :class:`Evaluation` and name it in ``RunConfig.evaluations``.
"""

import abc
import dataclasses
import re
from collections.abc import Callable

from lmjax.choice import Choice
from lmjax.models.config import ModelConfig
from lmjax.models.parameters import Params
from lmjax.train.corpus import Corpus
from lmjax.train.step import Learner

_NAME = re.compile(r"\w[\w.-]*", re.ASCII)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """What an evaluation is told of the run it evaluates.

    Attributes:
      learner: the run's objective, module, vocabulary and mesh.
      corpus: the run's data and tokenizer.
      model: the resolved configuration of the model.
      batch_size: rows of a step.
      sequence_length: T, tokens of a row that the model sees.
    """

    learner: Learner
    corpus: Corpus
    model: ModelConfig
    batch_size: int
    sequence_length: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """What an evaluation found.

    Attributes:
      numbers: by name. Those whose names end with ``loss`` must be finite, or the state is not saved.
      counts: what the numbers are of, such as the ``tokens`` that were scored.
      notes: sentences for a person; the training loop shows each of them once in a run.
    """

    numbers: dict[str, float]
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


Measure = Callable[[Params, Callable[[], object]], Reading]
"""Evaluates parameters. It calls its second argument after each part of its work, such as a batch: the call tells the
watchdog that the process is alive, and raises an exception, which must be let through, when the run is to stop."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(Choice, abc.ABC, home="lmjax.train.evaluations"):
    """Numbers that are taken of a run's state; a subclass defines :meth:`begin`."""

    name: str
    """What its numbers are logged under, as in `NAME/loss`."""
    every_steps: int = 0
    """Steps between two evaluations, the first before any step; 0 evaluates only at the end of training."""

    def __post_init__(self):
        """Refuses a name that cannot be part of a metric's, and a negative period."""
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"evaluations: name={self.name!r}: use letters, digits, '.', '_' and '-'")
        if self.every_steps < 0:
            raise ValueError(f"evaluations: {self.name}: every_steps={self.every_steps}: must not be negative")

    def is_due(self, step: int) -> bool:
        """Whether to evaluate the state after ``step`` updates."""
        return self.every_steps > 0 and step % self.every_steps == 0

    @abc.abstractmethod
    def begin(self, subject: Subject) -> Measure:
        """Prepares the evaluation of a run, before its folder is made, and returns the function that evaluates.

        Raises:
          ValueError: the run cannot be evaluated like this; names the field and the remedy.
        """
