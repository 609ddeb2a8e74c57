"""Finds divergence: a loss that has risen and stays high, or is no longer finite."""

import dataclasses

import numpy as np

from lmjax.curves.baseline import noise

LEAST_RISE = 0.2
"""By what share of the best level a loss has at least risen when it diverges."""
DEVIATIONS = 7.0
"""How many standard deviations of a level the loss has at least risen."""
_FEWEST = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Divergence:
    """A loss that has risen and stays high, or is no longer finite.

    Attributes:
      step: the step from which it rises.
      best: the lowest level before.
      final: the level at the end; NaN or infinite if the losses end so.
    """

    step: int
    best: float
    final: float

    def __str__(self) -> str:
        if not np.isfinite(self.final):
            return f"the loss is not finite from step {self.step:,} on"
        return f"the loss diverges from step {self.step:,} on: it was {self.best:.4g}, and is {self.final:.4g}"


def find_divergence(losses: np.ndarray, steps: np.ndarray, *, window_size: int) -> Divergence | None:
    """Returns the divergence at the end of a curve, or None.

    Args:
      losses: float64 [n]; they may be not finite.
      steps: float64 [n], rising.
      window_size: as of :func:`lmjax.curves.loss_curve.analyze_loss_curve`.
    """
    finite = np.isfinite(losses)
    values, at = losses[finite], steps[finite]
    width = max(3, min(window_size, len(values)) // 10)
    levels = np.empty(0)
    if len(values) >= width:
        levels = np.median(np.lib.stride_tricks.sliding_window_view(values, width), axis=1)
    if len(losses) and not finite[-1]:
        first = len(losses) - np.argmax(finite[::-1]) if finite.any() else 0
        best = float(levels.min()) if len(levels) else float("nan")
        return Divergence(step=int(steps[first]), best=best, final=float(losses[-1]))
    last = max(3, min(len(values) // 10, window_size // 4))
    if len(values) < max(_FEWEST, width + last):
        return None
    before = levels[: len(values) - last - width + 1]
    best, final = float(before.min()), float(np.median(values[-last:]))
    # The levels of separate parts, which vary by the noise alone, tell how far the lowest one of many may be off.
    uncertain = DEVIATIONS * noise(levels[::-1][:: max(width, last)], order=2)
    if final - best <= max(LEAST_RISE * abs(best), uncertain):
        return None
    low = np.flatnonzero(levels <= best + 0.1 * (final - best))[-1] + width // 2
    return Divergence(step=int(at[min(low + 1, len(at) - 1)]), best=best, final=final)
