"""Finds a plateau: the end of a curve of losses that improves by less than 1%."""

import dataclasses

import numpy as np

from lmjax.curves.baseline import is_typical, noise
from lmjax.curves.power_law import PowerLaw, best_power_law

LEAST_IMPROVEMENT = 0.01
"""By what share of the loss the last fifth of a healthy curve improves it."""
FEWEST = 20
"""The number of losses without which nothing is said."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plateau:
    """The end of a curve that hardly improves.

    Attributes:
      step: the step from which the loss is at about its last level.
      level: the loss at the end.
      improvement: by what share of the loss the last fifth of the steps has improved it; below 0 if it has risen.
    """

    step: int
    level: float
    improvement: float

    def __str__(self) -> str:
        return (
            f"the loss is on a plateau of {self.level:.4g} since about step {self.step:,}: the last fifth of the steps "
            f"improved it by {self.improvement:.1%}"
        )


def find_plateau(losses: np.ndarray, steps: np.ndarray) -> Plateau | None:
    """Returns the plateau at the end of a curve, or None.

    A straight line through the last fifth says by how much it improves the loss. Noise makes this uncertain; where a
    power law fits the whole curve and agrees with the line within its error, the law's improvement is taken.

    Args:
      losses: float64 [n], finite.
      steps: the step of each, rising.
    """
    count = len(losses) // 5
    if len(losses) < FEWEST:
        return None
    at, values = steps[-count:], losses[-count:]
    begin, end, error = _line(at, values)
    if begin <= 0:
        return None
    improvement, error = (begin - end) / begin, error / begin
    if error > LEAST_IMPROVEMENT:
        return None  # The noise is too large to tell.
    uncertain = error > 0 and improvement < LEAST_IMPROVEMENT + 4 * error
    law = best_power_law(steps, losses) if uncertain else None
    if law is not None and _fits(law, steps, losses):
        lawful = (law(at[0]) - law(at[-1])) / max(law(at[0]), 1e-12)
        if abs(lawful - improvement) < 4 * error:
            improvement = lawful
    if improvement >= LEAST_IMPROVEMENT:
        return None
    return Plateau(step=_begin(losses, steps, end), level=end, improvement=float(improvement))


def _line(steps: np.ndarray, losses: np.ndarray) -> tuple[float, float, float]:
    """Returns the ends of the straight line through losses, without outliers, and the error of their difference.

    The error comes from means of up to 20 parts, because the noise of neighbours may be alike.
    """
    place = (steps - steps[0]) / max(steps[-1] - steps[0], 1e-12)
    slope, start = np.polyfit(place, losses, 1)
    kept = is_typical(losses - start - slope * place)
    if kept.sum() >= 4:
        place, losses = place[kept], losses[kept]
        slope, start = np.polyfit(place, losses, 1)
    residual = losses - start - slope * place
    means = np.array([part.mean() for part in np.array_split(residual, min(20, len(losses) // 2))])
    error = (12 * (means**2).sum()) ** 0.5 / max(len(means) - 2, 1)
    return float(start), float(start + slope), float(error)


def _fits(law: PowerLaw, steps: np.ndarray, losses: np.ndarray) -> bool:
    """Returns whether what a law leaves of a curve is noise.

    The ratio of von Neumann (1941), of the squared differences of neighbours to the squares, is about 2 for noise and
    near 0 for a bend. It is taken over the medians of 40 parts.
    """
    kept = steps > 0
    residual = losses[kept] - law(steps[kept])
    medians = np.array([np.median(part) for part in np.array_split(residual, min(40, len(residual) // 2))])
    return bool((np.diff(medians) ** 2).sum() > (medians**2).sum())


def _begin(losses: np.ndarray, steps: np.ndarray, level: float) -> int:
    """Returns the step from which all medians of 50 parts of a curve are at a level, within 1% and their noise."""
    parts = np.array_split(np.arange(len(losses)), min(50, len(losses) // 4))
    medians = np.array([np.median(losses[part]) for part in parts])
    away = np.flatnonzero(np.abs(medians - level) > max(LEAST_IMPROVEMENT * abs(level), 4 * noise(medians, order=2)))
    number = min(int(away[-1]) + 1, len(parts) - 1) if len(away) else 0
    return int(steps[parts[number][0]])
