"""Warns while a run trains: a spike, a divergence or a plateau of its loss begins."""

import collections
from collections.abc import Iterable, Mapping

import numpy as np

from lmjax.curves.divergence import find_divergence
from lmjax.curves.plateau import find_plateau
from lmjax.curves.spikes import find_spikes, is_spike

WINDOW = 100
"""The number of earlier losses that the baseline is the median of."""
THRESHOLD = 1.5
"""How many times the baseline a spike is."""
FEWEST_LINES = 50
"""The number of logged losses without which nothing is said about the whole curve."""
GROWTH = 0.1
"""By what share the curve has grown when it is looked at again, so that all looks together stay cheap."""


class LossWatch:
    """Watches the loss of one objective of a run, with the rules of :func:`lmjax.analysis.analyze_loss_curve`.

    Args:
      before: the losses that were logged before this start, as pairs (step, loss).
    """

    def __init__(self, before: Iterable[tuple[int, float]] = ()):
        self._recent: collections.deque[float] = collections.deque(maxlen=WINDOW)
        self._since_spike: int | None = None
        self._curve = [(step, loss) for step, loss in before if np.isfinite(loss)]
        self._next_look = self._later()
        self._said: set[type] = set()

    def spike(self, step: int, loss: float) -> str | None:
        """Takes the loss of a step; every step has to be told. Returns a sentence if a spike begins with it.

        Args:
          step: the step.
          loss: its loss, which is finite.
        """
        # Most losses are not far above the lowest one of the window, and are no spike for any baseline.
        low = min(self._recent, default=loss)
        found = False
        if low <= 0 or loss > THRESHOLD * low:
            losses = np.array([*self._recent, loss])
            first = len(losses) - 1
            found = bool(is_spike(losses, window_size=WINDOW, spike_threshold=THRESHOLD, first=first)[0])
        self._recent.append(loss)
        begins = found and self._since_spike is None
        if found:
            self._since_spike = 0
        elif self._since_spike is not None:
            self._since_spike += 1
            if self._since_spike > WINDOW // 20:
                self._since_spike = None
        if not begins:
            return None
        losses = np.array(self._recent)
        at = np.arange(step - len(losses) + 1, step + 1)
        return str(find_spikes(losses, at, window_size=WINDOW, spike_threshold=THRESHOLD)[-1])

    def logged(self, step: int, loss: float) -> list[str]:
        """Takes a loss that is logged. Returns a sentence for a divergence or a plateau that has begun."""
        self._curve.append((step, loss))
        if len(self._curve) < self._next_look:
            return []
        self._next_look = self._later()
        steps, losses = np.array(self._curve, np.float64).T
        divergence = find_divergence(losses, steps, window_size=WINDOW)
        plateau = find_plateau(losses, steps) if divergence is None else None
        found = [one for one in (divergence, plateau) if one is not None]
        new = [str(one) for one in found if type(one) not in self._said]
        # What has ended may begin again, and is said again then.
        self._said = {type(one) for one in found}
        return new

    def _later(self) -> int:
        return max(FEWEST_LINES, len(self._curve) + max(5, int(GROWTH * len(self._curve))))


def logged_losses(lines: Iterable[Mapping[str, float]], name: str, *, first_step: int) -> list[tuple[int, float]]:
    """Returns the pairs (step, loss) of the lines of ``metrics.jsonl`` from a step on.

    Args:
      lines: see :func:`lmjax.train.metrics.read_metrics`.
      name: the name of the loss, such as ``train/loss``.
      first_step: lines of this step and before it are left out.
    """
    return [(int(line["step"]), line[name]) for line in lines if name in line and line["step"] > first_step]
