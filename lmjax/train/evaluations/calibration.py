"""Calibration: whether a model that is sure to 80% is right four times of five.

The expected calibration error is ``sum over bins of (n_b / n) |accuracy_b - confidence_b|``, the bins being equal parts
of (0, 1] into which predictions fall by the probability of the most likely answer (Guo et al. 2017, equation 3).

Axes: M bins, N predictions.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(eq=False)
class Reliability:
    """Predictions in bins of equal width by how sure they were.

    Attributes:
      counts_M: predictions of each bin.
      confidence_M: the sum of their confidences.
      right_M: the number that were right.
    """

    counts_M: np.ndarray
    confidence_M: np.ndarray
    right_M: np.ndarray

    @classmethod
    def empty(cls, num_bins: int) -> "Reliability":
        """Returns bins without predictions.

        Raises:
          ValueError: there is no bin.
        """
        if num_bins < 1:
            raise ValueError(f"bins={num_bins}: must be at least 1")
        return cls(np.zeros(num_bins, np.int64), np.zeros(num_bins), np.zeros(num_bins, np.int64))

    def add(self, confidence_N: np.ndarray, is_right_N: np.ndarray) -> None:
        """Adds predictions; a confidence between two bins belongs to the lower one."""
        num_bins = len(self.counts_M)
        confidence_N = np.asarray(confidence_N, np.float64)
        bin_N = np.clip(np.ceil(confidence_N * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
        self.counts_M += np.bincount(bin_N, minlength=num_bins)
        self.confidence_M += np.bincount(bin_N, weights=confidence_N, minlength=num_bins)
        self.right_M += np.bincount(bin_N[np.asarray(is_right_N, bool)], minlength=num_bins)

    @property
    def error(self) -> float:
        """The expected calibration error; NaN without predictions."""
        total = self.counts_M.sum()
        return float(np.abs(self.right_M - self.confidence_M).sum() / total) if total else float("nan")
