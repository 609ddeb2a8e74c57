"""Scaling laws over several runs: how loss depends on parameters and tokens, and which model a budget is best spent on.

Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", approaches 2 and 3.

Axes: R runs.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from lmjax.curves.baseline import as_curve
from lmjax.curves.power_law import Estimate

FEWEST = 6
"""The number of runs without which the five numbers of the law are not fitted."""
HUBER = 1e-3
"""Where the loss of a residual in log loss turns from square to linear (appendix D.2)."""
FLOPS_PER_PARAMETER = 6.0
"""The FLOPs of forward and backward pass for one token, for each parameter."""
_STARTS = tuple(
    itertools.product((0.0, 5.0, 10.0, 15.0, 20.0, 25.0), (0.0, 5.0, 10.0, 15.0, 20.0, 25.0),
                      (-1.0, -0.5, 0.0, 0.5, 1.0), (0.0, 0.5, 1.0, 1.5, 2.0), (0.0, 0.5, 1.0, 1.5, 2.0))
)  # fmt: skip
"""The grid of starts of appendix D.2: log A, log B, log E, alpha, beta."""
_TRIED = 8


@dataclasses.dataclass(frozen=True)
class ScalingLaw:
    """``L(N, D) = E + A / N^alpha + B / D^beta`` for N parameters and D tokens.

    Attributes:
      offset: E.
      parameter_scale: A.
      token_scale: B.
      parameter_exponent: alpha.
      token_exponent: beta.
    """

    offset: float
    parameter_scale: float
    token_scale: float
    parameter_exponent: float
    token_exponent: float

    def __call__(self, parameters: float | np.ndarray, tokens: float | np.ndarray) -> np.ndarray:
        """Returns the loss of models with so many parameters after so many tokens."""
        of_parameters = self.parameter_scale * np.asarray(parameters, np.float64) ** -self.parameter_exponent
        return self.offset + of_parameters + self.token_scale * np.asarray(tokens, np.float64) ** -self.token_exponent

    def best_split(self, flops: float) -> tuple[float, float]:
        """Returns the parameters and tokens with the lowest loss for a budget of ``6 N D`` FLOPs (equation 4)."""
        alpha, beta = self.parameter_exponent, self.token_exponent
        factor = (alpha * self.parameter_scale / (beta * self.token_scale)) ** (1 / (alpha + beta))
        product = flops / FLOPS_PER_PARAMETER
        parameters = factor * product ** (beta / (alpha + beta))
        return float(parameters), float(product / parameters)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalingFit:
    """A scaling law fitted to runs, with error bars by bootstrap over the runs.

    Attributes:
      law: the law that fits best.
      resampled: the laws of the resampled runs.
    """

    law: ScalingLaw
    resampled: tuple[ScalingLaw, ...]

    def estimate(self, field: str) -> Estimate:
        """Returns a number of the law, such as ``parameter_exponent``, with its 90% interval."""
        low, high = np.quantile([getattr(law, field) for law in self.resampled], (0.05, 0.95))
        value = getattr(self.law, field)
        return Estimate(value=value, low=float(min(low, value)), high=float(max(high, value)))


def fit_scaling_law(
    parameters: Sequence[float],
    tokens: Sequence[float],
    losses: Sequence[float],
    *,
    num_resamples: int = 50,
    seed: int = 0,
) -> ScalingFit:
    """Fits ``L(N, D) = E + A / N^alpha + B / D^beta`` to the final losses of runs (Hoffmann et al. 2022, approach 3).

    The residuals are those of log L, with a Huber loss; the logarithms of E, A and B are fitted by L-BFGS from the
    best of a grid of starts. Error bars come from fits to runs that are drawn with replacement.

    Args:
      parameters: N of each run, [R].
      tokens: D of each run, [R].
      losses: the final loss of each run, [R].
      num_resamples: the number of draws.
      seed: decides the draws.

    Raises:
      ValueError: there are fewer than 6 runs, or N or D is the same for all, or a number is not above 0.
    """
    runs_R3 = np.stack(_checked(parameters=parameters, tokens=tokens, losses=losses), axis=1)
    for column, name in enumerate(("parameters", "tokens")):
        if len(np.unique(runs_R3[:, column])) < 3:
            raise ValueError(f"a scaling law needs runs with at least 3 different numbers of {name}")
    logs_R3 = np.log(runs_R3)
    # Around the mean of log N and log D, the scales and the exponents hardly depend on each other, and the descent is
    # short: log A becomes log A - alpha mean(log N).
    centre = logs_R3.mean(axis=0) * (1, 1, 0)
    logs_R3 -= centre
    starts = np.array(_STARTS)
    starts[:, :2] -= starts[:, 3:] * centre[:2]
    errors = np.concatenate([_objective(part, logs_R3)[0] for part in np.array_split(starts, 10)])
    best = min((_descend(start, logs_R3) for start in starts[np.argsort(errors)[:_TRIED]]), key=lambda found: found[1])
    random = np.random.default_rng(seed)
    resampled: list[ScalingLaw] = []
    while len(resampled) < num_resamples:
        drawn = random.integers(len(logs_R3), size=len(logs_R3))
        if min(len(np.unique(logs_R3[drawn, column])) for column in (0, 1)) >= 3:
            resampled.append(_law(_descend(best[0], logs_R3[drawn])[0], centre))
    return ScalingFit(law=_law(best[0], centre), resampled=tuple(resampled))


def _law(values: np.ndarray, centre: np.ndarray) -> ScalingLaw:
    a, b, e, alpha, beta = values
    a, b = a + alpha * centre[0], b + beta * centre[1]
    return ScalingLaw(float(np.exp(e)), float(np.exp(a)), float(np.exp(b)), float(alpha), float(beta))


def _objective(values: np.ndarray, logs_R3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the Huber loss and its gradient for each row of ``values``: log A, log B, log E, alpha, beta."""
    a, b, e, alpha, beta = np.moveaxis(values[..., None, :], -1, 0)
    parameters_R, tokens_R, loss_R = logs_R3.T
    terms = np.stack([a - alpha * parameters_R, b - beta * tokens_R, e + 0 * parameters_R])
    fitted = np.logaddexp.reduce(terms, axis=0)
    off = fitted - loss_R
    is_small = np.abs(off) <= HUBER
    huber = np.where(is_small, off**2 / 2, HUBER * (np.abs(off) - HUBER / 2))
    slope = np.where(is_small, off, HUBER * np.sign(off))
    shares = slope * np.exp(terms - fitted)
    gradient = np.stack(
        [shares[0], shares[1], shares[2], -shares[0] * parameters_R, -shares[1] * tokens_R], axis=-1
    ).sum(axis=-2)
    return huber.sum(axis=-1), gradient


def _descend(start: np.ndarray, logs_R3: np.ndarray) -> tuple[np.ndarray, float]:
    from scipy.optimize import minimize

    def scaled(values: np.ndarray) -> tuple[float, np.ndarray]:
        error, gradient = _objective(values, logs_R3)
        return float(error) / HUBER**2, gradient / HUBER**2

    options = {"maxiter": 500, "maxfun": 500, "ftol": 1e-10, "gtol": 1e-6}
    found = minimize(scaled, start, jac=True, method="L-BFGS-B", options=options)
    return found.x, float(found.fun)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IsoFlop:
    """The best number of parameters for budgets, and the power law through them.

    Attributes:
      flops: the budgets, in order.
      best_parameters: for each of them, the parameters at the lowest point of its parabola.
      best_losses: the loss there.
      exponent: a in ``N_best = factor * C^a``.
      factor: the factor of this power.
    """

    flops: tuple[float, ...]
    best_parameters: tuple[float, ...]
    best_losses: tuple[float, ...]
    exponent: float
    factor: float


def fit_isoflop(flops: Sequence[float], parameters: Sequence[float], losses: Sequence[float]) -> IsoFlop:
    """Fits a parabola of loss over log N to the runs of each budget (Hoffmann et al. 2022, approach 2).

    Its lowest point is the best number of parameters for the budget, ``N_best``. A line through log N_best over log C
    gives ``N_best = factor * C^a``. Budgets count as one if they differ by less than 5%.

    Args:
      flops: the budget C of each run, [R].
      parameters: N of each run, [R].
      losses: the final loss of each run, [R].

    Raises:
      ValueError: there are fewer than 2 budgets, or one has fewer than 3 sizes or a parabola without a lowest point.
    """
    budgets_R, sizes_R, losses_R = _checked(flops=flops, parameters=parameters, losses=losses)
    order = np.argsort(budgets_R)
    groups = np.split(order, np.flatnonzero(np.diff(np.log(budgets_R[order])) > 0.05) + 1)
    if len(groups) < 2:
        raise ValueError("an isoFLOP fit needs runs of at least 2 budgets")
    found = []
    for group in groups:
        budget = float(np.exp(np.log(budgets_R[group]).mean()))
        if len(np.unique(sizes_R[group])) < 3:
            raise ValueError(f"the budget of {budget:.3g} FLOPs has fewer than 3 sizes of models: train more of them")
        bend, slope, level = np.polyfit(np.log(sizes_R[group]), losses_R[group], 2)
        if bend <= 0:
            raise ValueError(f"the losses of {budget:.3g} FLOPs have no lowest point over the sizes: train other sizes")
        found.append((budget, float(np.exp(-slope / (2 * bend))), float(level - slope**2 / (4 * bend))))
    budgets, sizes, lowest = zip(*found, strict=True)
    exponent, factor = np.polyfit(np.log(budgets), np.log(sizes), 1)
    return IsoFlop(
        flops=budgets,
        best_parameters=sizes,
        best_losses=lowest,
        exponent=float(exponent),
        factor=float(np.exp(factor)),
    )


def _checked(**columns: Sequence[float]) -> list[np.ndarray]:
    arrays = [as_curve(name, values) for name, values in columns.items()]
    number = len(arrays[0])
    for name, values in zip(columns, arrays, strict=True):
        if len(values) != number:
            raise ValueError(f"{name} has {len(values)} entries for {number} runs: must have one for each")
        if not (np.isfinite(values) & (values > 0)).all():
            raise ValueError(f"{name} must be finite and above 0 for every run")
    if number < FEWEST:
        raise ValueError(f"a scaling law needs at least {FEWEST} runs, and there are {number}")
    return arrays
