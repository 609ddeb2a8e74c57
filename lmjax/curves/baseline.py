"""The level that a loss had a moment ago, and how much it varies from step to step, without regard to outliers."""

import bisect
from collections.abc import Sequence

import numpy as np

SIGMA_OF_MEDIAN = 1.4826
"""The standard deviation of a normal distribution, divided by the median of its absolute deviations."""
FEWEST_BEFORE = 8
"""The number of earlier values without which a value has no baseline."""
_CHUNK = 20_000


def as_curve(name: str, values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Returns numbers as float64 [n]; None becomes NaN.

    Raises:
      ValueError: they are not a list of numbers.
    """
    try:
        curve = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a list of numbers") from None
    if curve.ndim != 1:
        raise ValueError(f"{name} has the shape {curve.shape}: must be a list of numbers")
    return curve


def rolling_median(values: np.ndarray, window: int, *, first: int = 0) -> np.ndarray:
    """Returns the median of the ``window`` values before each value, of fewer at the start, float64 [n - first].

    Args:
      values: float64 [n], finite.
      window: the number of earlier values.
      first: the first value for which the median is wanted; NaN where no value comes before it.
    """
    count = len(values) - first
    medians = np.full(max(count, 0), np.nan)
    full = max(first, window)
    # Sorting what there is so far, value by value, is faster than a median of each beginning.
    before: list[float] = []
    for index, value in enumerate(values[: min(full, len(values))].tolist()):
        if index >= max(first, 1):
            medians[index - first] = (before[index // 2] + before[(index - 1) // 2]) / 2
        bisect.insort(before, value)
    for begin in range(full, len(values), _CHUNK):
        end = min(begin + _CHUNK, len(values))
        windows = np.lib.stride_tricks.sliding_window_view(values[begin - window : end - 1], window)
        medians[begin - first : end - first] = np.median(windows, axis=1)
    return medians


def baseline(values: np.ndarray, window: int, *, first: int = 0) -> np.ndarray:
    """Returns the level just before each value, float64 [n - first].

    It is the lower one of two medians: that of the last ``window`` values, which a long spike does not raise, and that
    of a tenth of these, which follows a steep fall.

    Args:
      values: float64 [n], finite.
      window: the number of earlier values.
      first: the first value for which the level is wanted. NaN where too few values come before it.
    """
    short = max(5, window // 10)
    levels = np.minimum(
        rolling_median(values, window, first=first), rolling_median(values, min(short, window), first=first)
    )
    levels[: max(min(FEWEST_BEFORE, window) - first, 0)] = np.nan
    return levels


def rolling_noise(values: np.ndarray, window: int, *, first: int = 0) -> np.ndarray:
    """Returns the standard deviation of the noise just before each value, float64 [n - first].

    ``sigma = 1.4826 median |v_t - v_(t-k)| / sqrt(2)`` over the last ``window`` differences, which neither a slow trend
    nor a few outliers change. It is the larger one of those for ``k = 1`` and ``k = 5``, because the noise of
    neighbours may be alike, and is made larger where it comes from few differences.

    Args:
      values: float64 [n], finite.
      window: the number of earlier differences.
      first: the first value for which the noise is wanted.
    """
    known = np.minimum(np.arange(first, len(values)), window)
    uncertain = 1 + FEWEST_BEFORE / np.maximum(known, 1)
    spread = np.zeros(len(known))
    for lag in (1, 5):
        changes = np.abs(values[lag:] - values[:-lag])
        changes = np.concatenate((changes[: len(values) - len(changes)], changes))
        if len(changes) == len(values):
            spread = np.maximum(spread, rolling_median(changes, window, first=first))
    return uncertain * SIGMA_OF_MEDIAN / np.sqrt(2) * spread


def is_typical(residuals: np.ndarray) -> np.ndarray:
    """Returns which residuals are no outliers: at most 4 standard deviations, by their median, from 0, bool [n]."""
    off = np.abs(residuals)
    return off <= max(4 * SIGMA_OF_MEDIAN * float(np.median(off)), 1e-12)


def noise(values: np.ndarray, order: int = 1) -> float:
    """Returns the standard deviation of the noise of a whole curve, from its differences of some order; 0 if too short.

    Args:
      values: float64 [n], finite.
      order: 1 forgives a level, 2 a slope, 3 a bend.
    """
    if len(values) <= order:
        return 0.0
    # The variance of a difference of this order is this many times the variance of a value.
    factor = {1: 2, 2: 6, 3: 20}[order]
    return float(SIGMA_OF_MEDIAN * np.median(np.abs(np.diff(values, order))) / np.sqrt(factor))
