"""Finds what is wrong with a curve of losses: spikes, a plateau, divergence, overfitting."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lmjax.curves.baseline import as_curve
from lmjax.curves.divergence import Divergence, find_divergence
from lmjax.curves.overfitting import Overfitting, find_overfitting
from lmjax.curves.plateau import Plateau, find_plateau
from lmjax.curves.spikes import Spike, check_threshold, find_spikes


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossCurve:
    """What a curve of losses shows.

    Attributes:
      spikes: the spikes, in order.
      plateau: the plateau at its end, or None.
      divergence: the divergence at its end, or None.
      overfitting: the overfitting at its end, or None; always None without validation losses.
      not_finite: the steps whose loss is not finite.
    """

    spikes: tuple[Spike, ...] = ()
    plateau: Plateau | None = None
    divergence: Divergence | None = None
    overfitting: Overfitting | None = None
    not_finite: tuple[int, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """One sentence for each finding, without a full stop."""
        ending = [str(one) for one in (self.divergence, self.overfitting, self.plateau) if one is not None]
        missing = []
        if self.not_finite and (self.divergence is None or self.not_finite[0] < self.divergence.step):
            missing = [f"{len(self.not_finite):,} losses are not finite, the first at step {self.not_finite[0]:,}"]
        return [*ending, *missing, *map(str, self.spikes)]


def analyze_loss_curve(
    losses: Sequence[float] | np.ndarray,
    window_size: int = 100,
    spike_threshold: float = 1.5,
    *,
    steps: Sequence[int] | np.ndarray | None = None,
    valid_losses: Sequence[float] | np.ndarray | None = None,
    valid_steps: Sequence[int] | np.ndarray | None = None,
) -> LossCurve:
    """Returns what a curve of losses shows. Noise alone is no finding, and losses that are not finite are left out.

    - A *spike* is a loss of at least ``spike_threshold`` times the baseline that is outside of the noise as well. The
      baseline is the lower one of two medians of the losses before: of ``window_size`` and of a tenth of them.
    - A *plateau* improves the loss by less than 1% over the last fifth of the steps.
    - A *divergence* ends at least 20% above the best level, or at losses that are not finite.
    - *Overfitting* is a validation loss that rises from its lowest level while the training loss falls.

    Args:
      losses: training losses, [n].
      window_size: the number of earlier losses that the baseline is the median of.
      spike_threshold: how many times the baseline a spike is.
      steps: the step of each loss, rising; 0, 1, 2, ... when None.
      valid_losses: validation losses, [m].
      valid_steps: the step of each of them; when None, the ends of m equal parts of ``steps``.

    Raises:
      ValueError: there is no loss, the steps do not fit the losses, or an option is impossible.

    Example:
      >>> from lmjax.analysis import analyze_loss_curve
      >>> curve = analyze_loss_curve([3.0] * 40 + [6.0] + [3.0] * 9, window_size=10)
      >>> curve.spikes[0].step, curve.spikes[0].baseline, curve.spikes[0].ratio
      (40, 3.0, 2.0)
    """
    check_threshold(window_size, spike_threshold)
    all_losses = as_curve("losses", losses)
    all_steps = _steps_of("steps", steps, len(all_losses))
    if not len(all_losses):
        raise ValueError("losses is empty: there is no curve to analyze")
    finite = np.isfinite(all_losses)
    values, at = all_losses[finite], all_steps[finite]
    divergence = find_divergence(all_losses, all_steps, window_size=window_size)
    spikes = find_spikes(values, at, window_size=window_size, spike_threshold=spike_threshold)
    if divergence is not None:
        spikes = [spike for spike in spikes if spike.last < divergence.step]
    overfitting = None
    if valid_losses is not None and len(valid_losses):
        valid = as_curve("valid_losses", valid_losses)
        evenly = np.linspace(all_steps[0], all_steps[-1], len(valid) + 1)[1:]
        valid_at = _steps_of("valid_steps", evenly if valid_steps is None else valid_steps, len(valid))
        known = np.isfinite(valid)
        overfitting = find_overfitting(values, at, valid[known], valid_at[known])
    return LossCurve(
        spikes=tuple(spikes),
        plateau=None if divergence is not None else find_plateau(values, at),
        divergence=divergence,
        overfitting=overfitting,
        not_finite=tuple(int(step) for step in all_steps[~finite]),
    )


def _steps_of(name: str, steps: Sequence[int] | np.ndarray | None, count: int) -> np.ndarray:
    if steps is None:
        return np.arange(count, dtype=np.float64)
    at = as_curve(name, steps)
    if len(at) != count:
        raise ValueError(f"{name} has {len(at)} entries for {count} losses: must have one for each")
    if not np.isfinite(at).all() or (np.diff(at) <= 0).any():
        raise ValueError(f"{name} must rise from each entry to the next")
    return at
