"""Makes long curves short enough for a page, and keeps their peaks."""

import numpy as np

MOST_POINTS = 3000
"""The number of points of a curve above which it is thinned."""


def thinned(steps: np.ndarray, values: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Returns a curve of at most about ``most`` points: the lowest and the highest of each of equal parts.

    Args:
      steps: float64 [n].
      values: float64 [n]; NaN where there is none.
      most: the number of points.
    """
    if len(values) <= most:
        return steps, values
    kept = {0, len(values) - 1}
    for part in np.array_split(np.arange(len(values)), most // 2):
        finite = part[np.isfinite(values[part])]
        if len(finite):
            kept |= {int(finite[np.argmin(values[finite])]), int(finite[np.argmax(values[finite])])}
        if len(finite) < len(part):
            kept.add(int(part[~np.isfinite(values[part])][0]))  # The gap stays.
    index = np.array(sorted(kept))
    return steps[index], values[index]
