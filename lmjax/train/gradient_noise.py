"""The noise of the gradient, and the batch size at which it matters as much as the gradient itself.

McCandlish et al. 2018, "An Empirical Model of Large-Batch Training", appendix A.1.
"""

import math
from collections.abc import Mapping

import jax

SQUARE = "gradient_noise/square"
VARIANCE = "gradient_noise/variance"
CRITICAL = "critical_batch_size"


def noise_terms(
    small_square: jax.Array, big_square: jax.Array, *, small_batch: int, big_batch: int
) -> dict[str, jax.Array]:
    """Returns unbiased estimates of ``|G|^2``, the true gradient's square, and of ``S``, the variance of one row's.

    The squared norm of the gradient of B rows is ``|G|^2 + S / B`` on average, so two sizes of batches give both:
    ``|G|^2 = (B |G_B|^2 - b |G_b|^2) / (B - b)`` and ``S = (|G_b|^2 - |G_B|^2) / (1/b - 1/B)``.

    Args:
      small_square: the mean squared norm of the gradients of small batches, a scalar.
      big_square: the squared norm of the gradient of all of them together, a scalar.
      small_batch: b, the rows of a small batch.
      big_batch: B, the rows of all.

    Returns:
      Two scalars, which vary too much from step to step to be divided: see :class:`NoiseScale`.
    """
    square = (big_batch * big_square - small_batch * small_square) / (big_batch - small_batch)
    variance = (small_square - big_square) / (1 / small_batch - 1 / big_batch)
    return {SQUARE: square, VARIANCE: variance}


class NoiseScale:
    """Averages the two estimates over steps, and divides them: the critical batch size ``S / |G|^2``, in rows.

    Args:
      keep: the share of the average that a step keeps.
    """

    def __init__(self, *, keep: float = 0.99):
        self._keep = keep
        self._square = self._variance = 0.0

    def update(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Takes the numbers of a step. Returns the critical batch size, or nothing while it is not known.

        The averages are weighted alike, so that their beginning at 0 does not change the ratio.
        """
        if SQUARE not in numbers or not math.isfinite(numbers[SQUARE] + numbers[VARIANCE]):
            return {}
        self._square = self._keep * self._square + (1 - self._keep) * numbers[SQUARE]
        self._variance = self._keep * self._variance + (1 - self._keep) * numbers[VARIANCE]
        if self._square <= 0 or self._variance <= 0:
            return {}
        return {CRITICAL: self._variance / self._square}
