"""The power law with an offset that a curve of losses follows, and what it says about later steps.

Axes: R curves that are fitted at once, P parts of a curve, G exponents of a grid.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lmjax.curves.baseline import as_curve, is_typical

FEWEST = 10
"""The number of losses without which no law is fitted."""
EXPONENTS = (0.02, 4.0)
"""The smallest and the largest exponent that is looked for."""
_PARTS = 80
_FORECASTS = (2.0, 5.0, 10.0)


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """``L(t) = offset + scale * t^(-exponent)``.

    Attributes:
      offset: E, the loss after infinitely many steps, at least 0.
      scale: A, what the first step has above the offset.
      exponent: alpha.
    """

    offset: float
    scale: float
    exponent: float

    def __call__(self, steps: float | np.ndarray) -> np.ndarray:
        """Returns the loss at steps above 0."""
        return self.offset + self.scale * np.asarray(steps, np.float64) ** -self.exponent

    def steps_to(self, loss: float) -> float:
        """Returns the step at which the loss is reached; infinite if the law never reaches it."""
        if loss <= self.offset:
            return float("inf")
        with np.errstate(over="ignore"):
            return float(np.power(self.scale / (loss - self.offset), 1 / self.exponent))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its error bar.

    Attributes:
      value: the best value.
      low: the lower end of the interval.
      high: the upper end of the interval.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PowerLawFit:
    """A power law fitted to a curve, with error bars by bootstrap.

    Attributes:
      law: the law that fits best.
      last_step: the last step of the curve.
      resampled: the laws of the resampled curves.
      confidence: the share of the resampled laws that an interval holds.
    """

    law: PowerLaw
    last_step: float
    resampled: tuple[PowerLaw, ...]
    confidence: float

    @property
    def offset(self) -> Estimate:
        """E, the loss after infinitely many steps."""
        return self._estimate(self.law.offset, [law.offset for law in self.resampled])

    @property
    def scale(self) -> Estimate:
        """A, the factor of the power."""
        return self._estimate(self.law.scale, [law.scale for law in self.resampled])

    @property
    def exponent(self) -> Estimate:
        """The exponent alpha."""
        return self._estimate(self.law.exponent, [law.exponent for law in self.resampled])

    def forecast(self, step: float) -> Estimate:
        """Returns the loss that the law gives for a step above 0."""
        if not step > 0:
            raise ValueError(f"step={step}: must be above 0")
        return self._estimate(float(self.law(step)), [float(law(step)) for law in self.resampled])

    def forecasts(self, times: Sequence[float] = _FORECASTS) -> dict[float, Estimate]:
        """Returns the loss at so many times the last step, by the number of times."""
        return {factor: self.forecast(factor * self.last_step) for factor in times}

    def steps_to(self, loss: float) -> Estimate:
        """Returns the step at which a loss is reached; infinite where a law never reaches it."""
        return self._estimate(self.law.steps_to(loss), [law.steps_to(loss) for law in self.resampled])

    def _estimate(self, value: float, resampled: Sequence[float]) -> Estimate:
        tail = (1 - self.confidence) / 2
        ordered = np.sort(resampled)
        # Infinities, which np.quantile would interpolate to NaN, are why elements are picked.
        low, high = (ordered[round(share * (len(ordered) - 1))] for share in (tail, 1 - tail))
        return Estimate(value=value, low=float(min(low, value)), high=float(max(high, value)))


def fit_power_law(
    steps: Sequence[float] | np.ndarray,
    losses: Sequence[float] | np.ndarray,
    *,
    skip: float = 0.0,
    confidence: float = 0.9,
    num_resamples: int = 200,
    seed: int = 0,
) -> PowerLawFit:
    """Fits ``L(t) = E + A t^(-alpha)`` with ``E >= 0`` to a curve of losses, by least squares, with error bars.

    The form is that of Kaplan et al. 2020 with the offset of Henighan et al. 2020. The curve is averaged over parts
    that are even in log t, without outliers. Error bars come from a wild bootstrap (Wu 1986): the residual of each
    part is multiplied by a random number and added to the law, and the law is fitted again.

    Args:
      steps: the step of each loss, [n]. Losses at steps that are not above 0 are left out.
      losses: the losses, [n]. Those that are not finite are left out.
      skip: the share of the last step before which losses are left out, such as 0.1 for a warm-up.
      confidence: the share of the resampled laws that an interval holds.
      num_resamples: the number of resampled curves.
      seed: decides the random numbers.

    Raises:
      ValueError: there are fewer than 10 losses at different steps, they do not fall, or an option is impossible.

    Example:
      >>> import numpy as np
      >>> from lmjax.analysis import fit_power_law
      >>> steps = np.arange(1, 1001)
      >>> fit = fit_power_law(steps, 2 + 5 * steps**-0.5)
      >>> print(f"{fit.law.offset:.2f} {fit.law.exponent:.2f} {fit.forecast(10_000).value:.2f}")
      2.00 0.50 2.05
    """
    if not 0 <= skip < 1:
        raise ValueError(f"skip={skip}: must be at least 0 and below 1")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: must lie between 0 and 1")
    if num_resamples < 10:
        raise ValueError(f"num_resamples={num_resamples}: must be at least 10")
    at, values = as_curve("steps", steps), as_curve("losses", losses)
    if len(at) != len(values):
        raise ValueError(f"steps has {len(at)} entries for {len(values)} losses: must have one for each")
    kept = np.isfinite(values) & np.isfinite(at) & (at > 0)
    kept &= at >= skip * np.max(at, where=kept, initial=0)
    at, values = at[kept], values[kept]
    if len(np.unique(at)) < FEWEST:
        raise ValueError(
            f"a power law needs at least {FEWEST} finite losses at different steps above 0, and there are "
            f"{len(np.unique(at))}: train for longer, or log more often (train.log_every)"
        )
    order = np.argsort(at, kind="stable")
    at_P, mean_P, count_P = _parts(at[order], values[order])
    law = _fit(at_P, mean_P[None], count_P)[0]
    if law.scale <= 0:
        raise ValueError(f"the losses do not fall ({values[order][0]:.4g} to {values[order][-1]:.4g}): no power law")
    fitted_P = law(at_P)
    residual_P = (mean_P - fitted_P) * np.sqrt(len(at_P) / max(len(at_P) - 3, 1))
    factors_RP = np.random.default_rng(seed).normal(size=(num_resamples, len(at_P)))
    resampled = _fit(at_P, fitted_P + factors_RP * residual_P, count_P)
    return PowerLawFit(law=law, last_step=float(at.max()), resampled=tuple(resampled), confidence=confidence)


def best_power_law(steps: np.ndarray, losses: np.ndarray) -> PowerLaw | None:
    """Returns the law that fits a curve best, without error bars; None if there is none. Faster than a whole fit."""
    kept = steps > 0
    if kept.sum() < FEWEST:
        return None
    at_P, mean_P, count_P = _parts(steps[kept], losses[kept])
    law = _fit(at_P, mean_P[None], count_P)[0]
    return law if law.scale > 0 else None


def _parts(steps: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns mean step, mean loss without outliers, and number of losses of the parts, which are even in log t."""
    edges = np.geomspace(steps[0], steps[-1], _PARTS + 1)[1:-1]
    begins = np.unique(np.concatenate(([0], np.searchsorted(steps, edges, side="right"))))
    rows = []
    for begin, end in zip(begins, (*begins[1:], len(steps)), strict=True):
        at, values = steps[begin:end], losses[begin:end]
        if len(values) >= 8:
            kept = is_typical(values - np.median(values))
            at, values = at[kept], values[kept]
        if len(values):
            rows.append((np.exp(np.log(at).mean()), values.mean(), len(values)))
    at_P, mean_P, count_P = np.array(rows, np.float64).T
    return at_P, mean_P, count_P


def _fit(steps_P: np.ndarray, losses_RP: np.ndarray, weights_P: np.ndarray) -> list[PowerLaw]:
    """Returns the law of each of R curves: the best exponent of a grid, then a golden-section search beside it."""
    middle = np.exp(np.log(steps_P).mean())
    x_P = np.log(steps_P / middle)

    def solve(log_exponent_R: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return _offset_and_scale(np.exp(-np.exp(log_exponent_R)[:, None] * x_P), losses_RP, weights_P)

    grid = np.log(np.geomspace(*EXPONENTS, 80))
    powers_G1P = np.exp(-np.exp(grid)[:, None, None] * x_P)
    errors_GR = _offset_and_scale(powers_G1P, losses_RP, weights_P)[2]
    best_R = errors_GR.argmin(axis=0)
    low_R, high_R = grid[np.maximum(best_R - 1, 0)], grid[np.minimum(best_R + 1, len(grid) - 1)]
    golden = (5**0.5 - 1) / 2
    for _ in range(30):
        left_R, right_R = high_R - golden * (high_R - low_R), low_R + golden * (high_R - low_R)
        is_left_R = solve(left_R)[2] < solve(right_R)[2]
        low_R, high_R = np.where(is_left_R, low_R, left_R), np.where(is_left_R, right_R, high_R)
    log_exponent_R = (low_R + high_R) / 2
    offset_R, scale_R, _ = solve(log_exponent_R)
    exponent_R = np.exp(log_exponent_R)
    scale_R = scale_R * middle**exponent_R
    return [PowerLaw(*map(float, row)) for row in zip(offset_R, scale_R, exponent_R, strict=True)]


def _offset_and_scale(
    powers: np.ndarray, losses: np.ndarray, weights_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns offset, scale and weighted squared error of the best ``offset + scale * power``, with ``offset >= 0``.

    Args:
      powers: [..., P].
      losses: [..., P]; the axes before P are broadcast.
      weights_P: the weight of each part.
    """
    share_P = weights_P / weights_P.sum()
    power, loss = powers @ share_P, losses @ share_P
    around = powers - power[..., None]
    scale = ((around * losses) @ share_P) / np.maximum((around**2) @ share_P, 1e-300)
    offset = loss - scale * power
    without = ((powers * losses) @ share_P) / np.maximum((powers**2) @ share_P, 1e-300)
    scale = np.where(offset < 0, without, scale)
    offset = np.maximum(offset, 0)
    off = losses - offset[..., None] - scale[..., None] * powers
    return offset, scale, (off**2) @ share_P
