"""Finds the spikes of a curve of losses."""

import dataclasses

import numpy as np

from lmjax.curves.baseline import baseline, rolling_noise

DEVIATIONS = 6.0
"""How many standard deviations of the noise a spike is above the baseline."""
LOG_DEVIATIONS = 5.0
"""How many it is above the baseline in logarithms, where the noise of a small loss is more even."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spike:
    """A loss far above its recent level.

    Attributes:
      step: the step of its highest loss.
      loss: its highest loss.
      baseline: the level before it.
      ratio: ``loss / baseline``; infinite if the level is not above 0.
      first: its first step.
      last: its last step.
    """

    step: int
    loss: float
    baseline: float
    ratio: float
    first: int
    last: int

    def __str__(self) -> str:
        times = f"{self.ratio:.1f} times" if np.isfinite(self.ratio) else "far above"
        return (
            f"a spike at step {self.step:,}: the loss is {self.loss:.4g}, {times} its recent level {self.baseline:.4g}"
        )


def check_threshold(window_size: int, spike_threshold: float) -> None:
    """Refuses impossible options.

    Raises:
      ValueError: the window is below 2, or the threshold is not above 1.
    """
    if window_size < 2:
        raise ValueError(f"window_size={window_size}: must be at least 2")
    if not 1 < spike_threshold < np.inf:
        raise ValueError(f"spike_threshold={spike_threshold}: must be a number above 1")


def is_spike(losses: np.ndarray, *, window_size: int, spike_threshold: float, first: int = 0) -> np.ndarray:
    """Returns whether each loss from ``first`` on is far above its baseline, bool [n - first].

    Args:
      losses: float64 [n], finite.
      window_size: the number of earlier losses of the baseline.
      spike_threshold: how many times the baseline a spike is.
      first: the first loss to judge.
    """
    levels = baseline(losses, window_size, first=first)
    rise = losses[first:] - levels
    high = rise > (spike_threshold - 1) * np.abs(levels)
    if not high.any():
        return high
    with np.errstate(invalid="ignore", divide="ignore"):
        found = high & (rise > DEVIATIONS * rolling_noise(losses, window_size, first=first))
        logs = np.log(np.where(losses > 0, losses, np.nan))
        log_sigma = rolling_noise(np.nan_to_num(logs), window_size, first=first)
        in_logs = logs[first:] - np.log(levels) > LOG_DEVIATIONS * log_sigma
    return found & (in_logs | ~(levels > 0))


def find_spikes(losses: np.ndarray, steps: np.ndarray, *, window_size: int, spike_threshold: float) -> list[Spike]:
    """Returns the spikes of a curve in order. Losses near each other that are far above the baseline are one spike.

    Args:
      losses: float64 [n], finite.
      steps: the step of each loss, [n].
      window_size: the number of earlier losses of the baseline.
      spike_threshold: how many times the baseline a spike is.
    """
    found = np.flatnonzero(is_spike(losses, window_size=window_size, spike_threshold=spike_threshold))
    if not len(found):
        return []
    # A spike that decays crosses the threshold several times.
    groups = np.split(found, np.flatnonzero(np.diff(found) > max(2, window_size // 20)) + 1)
    return [_spike(losses, steps, group, window_size) for group in groups]


def _spike(losses: np.ndarray, steps: np.ndarray, group: np.ndarray, window_size: int) -> Spike:
    peak = int(group[np.argmax(losses[group])])
    first = int(group[0])
    start = max(first - window_size, 0)
    level = float(baseline(losses[start : first + 1], window_size, first=first - start)[0])
    return Spike(
        step=int(steps[peak]),
        loss=float(losses[peak]),
        baseline=level,
        ratio=float(losses[peak]) / level if level > 0 else float("inf"),
        first=int(steps[first]),
        last=int(steps[group[-1]]),
    )
