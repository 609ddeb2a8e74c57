"""Finds overfitting: a validation loss that rises from its lowest level while the training loss falls."""

import dataclasses

import numpy as np

from lmjax.curves.baseline import noise

LEAST_RISE = 0.01
"""By what share of its lowest level the validation loss has at least risen."""
FEWEST = 5
"""The number of validation losses without which nothing is said."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overfitting:
    """A validation loss that rises while the training loss falls.

    Attributes:
      step: the step with the lowest validation loss.
      best: the lowest level of the validation loss.
      final: its level at the end.
    """

    step: int
    best: float
    final: float

    def __str__(self) -> str:
        return (
            f"the run overfits from step {self.step:,} on: the validation loss rises from {self.best:.4g} to "
            f"{self.final:.4g} while the training loss falls"
        )


def find_overfitting(
    losses: np.ndarray, steps: np.ndarray, valid_losses: np.ndarray, valid_steps: np.ndarray
) -> Overfitting | None:
    """Returns the overfitting at the end of a run, or None.

    Both levels of the validation loss are means of a tenth of its values. Their difference has to be 1% of the level
    and far outside of the noise, which is taken from third differences: these forgive the bend of the curve.

    Args:
      losses: training losses, float64 [n], finite.
      steps: the step of each, rising.
      valid_losses: validation losses, float64 [m], finite.
      valid_steps: the step of each, rising.
    """
    if len(valid_losses) < FEWEST or not len(losses):
        return None
    width = max(1, len(valid_losses) // 10)
    levels = np.convolve(valid_losses, np.full(width, 1 / width), mode="valid")
    best, final = int(np.argmin(levels)), float(levels[-1])
    rise = final - levels[best]
    if rise <= max(LEAST_RISE * abs(levels[best]), 4 * noise(valid_losses, order=3) * (2 / width) ** 0.5):
        return None
    # The lowest single value among those that make the lowest level is what a reader sees in a plot.
    lowest = best + int(np.argmin(valid_losses[best : best + width]))
    if not _falls(losses, steps, valid_steps[lowest]):
        return None
    return Overfitting(step=int(valid_steps[lowest]), best=float(levels[best]), final=final)


def _falls(losses: np.ndarray, steps: np.ndarray, since: float) -> bool:
    """Returns whether the training loss falls from a step on: whether its last third is below its first third."""
    after = losses[steps >= since]
    third = len(after) // 3
    if third == 0:
        return len(after) > 1 and after[-1] < after[0]
    begin, end = np.median(after[:third]), np.median(after[-third:])
    return bool(begin > end)
