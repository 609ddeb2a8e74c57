"""Evaluates the state of a run between two steps, and tells what follows from the numbers."""

import dataclasses
import math
from collections.abc import Collection, Mapping

from lmjax.models.parameters import Params
from lmjax.train.evaluations.evaluation import Evaluation, Measure, Reading
from lmjax.train.guard import StoppedError, signs_of_life
from lmjax.train.instruments import Instruments
from lmjax.train.scored import NothingScored

Numbers = Mapping[str, Mapping[str, float]]
"""The numbers that the evaluations of one state have found, by the name of the evaluation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluations:
    """The evaluations of a run.

    Attributes:
      begun: the evaluations, each with the function that measures it.
      instruments: the instruments of the run.
      decides: the number that decides which checkpoint is the best, as ``EVALUATION/NUMBER``; None if none does.
      said: the notes that have been shown already.
    """

    begun: tuple[tuple[Evaluation, Measure], ...]
    instruments: Instruments
    decides: str | None = None
    said: set[str] = dataclasses.field(default_factory=set)

    def due(self, step: int) -> list[str]:
        """Returns the names of the evaluations of the state after ``step`` updates."""
        return [evaluation.name for evaluation, _ in self.begun if evaluation.is_due(step)]

    def missing(self, numbers: Numbers) -> list[str]:
        """Returns the names of the evaluations that have no numbers."""
        return [evaluation.name for evaluation, _ in self.begun if evaluation.name not in numbers]

    def run(self, names: Collection[str], params: Params, step: int) -> dict[str, dict[str, float]]:
        """Runs evaluations, and shows and writes their numbers; a signal ends all of them.

        Args:
          names: the names of the evaluations.
          params: the parameters to evaluate.
          step: the number of updates that the parameters have had.

        Returns:
          The numbers of those evaluations that were completed.

        Raises:
          ValueError: at step 0, an evaluation has nothing to score, or not the number that is to decide. At later steps
            this is only a note, because the trained state is worth more than its evaluation.
        """
        tools, numbers = self.instruments, {}
        for evaluation, measure in self.begun:
            if evaluation.name not in names:
                continue
            tools.watchdog.expect_long()
            try:
                with tools.throughput.paused(), tools.goodput.spending("evaluation"):
                    reading = measure(params, signs_of_life(tools.watchdog, tools.graceful))
            except StoppedError:
                break
            except NothingScored as error:
                if step == 0:
                    raise
                self.instruments.progress.note(f"step {step}: no numbers of {evaluation.name!r}: {error}")
                continue
            tools.watchdog.touch(step)
            numbers[evaluation.name] = reading.numbers
            self._check_decides(step, evaluation.name, reading.numbers)
            self._show(step, evaluation.name, reading)
        return numbers

    def _check_decides(self, step: int, name: str, numbers: Mapping[str, float]) -> None:
        """Says at step 0 by an error, and later by a note, that the number that is to decide is not there."""
        evaluation, _, number = (self.decides or "").partition("/")
        if evaluation != name or number in numbers:
            return
        problem = (
            f"checkpoint.best_by={self.decides!r}: {name} has no number {number!r}, so no checkpoint is the best: name "
            f"one of {', '.join(f'{name}/{found}' for found in numbers)}"
        )
        if step == 0:
            raise ValueError(problem)
        self._note(problem)

    def _note(self, text: str) -> None:
        """Shows a note, once in a run."""
        if text not in self.said:
            self.instruments.progress.note(text)
            self.said.add(text)

    def _show(self, step: int, name: str, reading: Reading) -> None:
        numbers = reading.numbers
        for note in reading.notes:
            self._note(note)
        self.instruments.writers.write_texts(step, name, reading.written)
        self.instruments.writers.write(step, {f"{name}/{number}": value for number, value in numbers.items()})
        self.instruments.progress.note(f"step {step}: " + ", ".join(f"{name}/{n} {v:.4f}" for n, v in numbers.items()))
        bad = not_finite_losses({name: numbers})
        if bad:
            self.instruments.progress.note(f"step {step}: {', '.join(bad)} is not finite: this state will not be saved")


def not_finite_losses(numbers: Numbers) -> dict[str, float]:
    """Returns the losses among the numbers that are not finite; perplexities may overflow."""
    losses = {
        f"{name}/{number}": value
        for name, own in numbers.items()
        for number, value in own.items()
        if number.endswith("loss")
    }
    return {name: value for name, value in losses.items() if not math.isfinite(value)}


def deciding_value(numbers: Numbers, name: str) -> float:
    """Returns the number that decides which checkpoint is the best; NaN if the state has none.

    Args:
      numbers: the numbers of a state.
      name: ``EVALUATION/NUMBER`` (``checkpoint.best_by``).
    """
    evaluation, _, number = name.partition("/")
    return numbers.get(evaluation, {}).get(number, math.nan)
