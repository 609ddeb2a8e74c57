"""Planted scaling laws come back."""

import numpy as np
import pytest

from lmjax.analysis import fit_isoflop, fit_scaling_law
from lmjax.curves.scaling import ScalingLaw, _objective

LAW = ScalingLaw(1.69, 406.4, 410.7, 0.34, 0.28)  # Hoffmann et al. 2022, equation 10
SIZES, TOKENS = (values.ravel() for values in np.meshgrid(np.geomspace(7e7, 1e10, 6), np.geomspace(2e9, 3e11, 6)))


def test_the_law_of_chinchilla_comes_back():
    noise = np.exp(0.001 * np.random.default_rng(0).normal(size=len(SIZES)))
    fit = fit_scaling_law(SIZES, TOKENS, LAW(SIZES, TOKENS) * noise, num_resamples=6)
    for field, error in (("offset", 0.02), ("parameter_exponent", 0.03), ("token_exponent", 0.03)):
        bar, truth = fit.estimate(field), getattr(LAW, field)
        assert bar.value == pytest.approx(truth, rel=error) and 0.8 * truth < bar.low <= bar.high < 1.2 * truth
    parameters, tokens = fit.law.best_split(1e21)
    assert 6 * parameters * tokens == pytest.approx(1e21)
    around = [float(fit.law(factor * parameters, tokens / factor)) for factor in (0.9, 1, 1.1)]
    assert min(around) == around[1]


def test_the_gradient_of_the_objective():
    logs = np.log(np.stack([SIZES, TOKENS, LAW(SIZES, TOKENS)], axis=1))
    at = np.array([5.8, 6.1, 0.4, 0.3, 0.31])
    _, gradient = _objective(at, logs)
    for index in range(5):
        shift = np.eye(5)[index] * 1e-6
        numeric = (_objective(at + shift, logs)[0] - _objective(at - shift, logs)[0]) / 2e-6
        assert gradient[index] == pytest.approx(numeric, rel=1e-4)


def test_isoflop_parabolas_have_the_planted_exponent():
    rows = []
    for budget in (1e19, 1e20, 1e21):
        best = 0.1 * budget**0.5
        rows += [(budget * 1.01**k, best * 2.0**k, 2 + 0.05 * k**2 + 1e19 / budget) for k in range(-2, 3)]
    fit = fit_isoflop(*zip(*rows, strict=True))
    assert fit.exponent == pytest.approx(0.5, abs=1e-3) and fit.factor == pytest.approx(0.1, rel=0.05)
    assert fit.best_parameters == pytest.approx([0.1 * budget**0.5 for budget in (1e19, 1e20, 1e21)], rel=1e-3)
    assert fit.best_losses[0] == pytest.approx(3, rel=1e-6)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (fit_scaling_law, ([1e6] * 3, [1e9] * 3, [3.0] * 3), "needs at least 6 runs, and there are 3"),
        (fit_scaling_law, ([1e6] * 6, range(1, 7), [3.0] * 6), "at least 3 different numbers of parameters"),
        (fit_scaling_law, (range(1, 7), range(1, 7), [3.0] * 5 + [0.0]), "losses must be finite and above 0"),
        (fit_scaling_law, (range(1, 7), [1, 2], [3.0] * 6), "tokens has 2 entries for 6 runs"),
        (fit_isoflop, ([1e19] * 6, range(1, 7), [3.0] * 6), "at least 2 budgets"),
        (fit_isoflop, ([1e19] * 3 + [1e20] * 3, [1, 2, 2] * 2, [3.0] * 6), "fewer than 3 sizes"),
        (fit_isoflop, ([1e19] * 3 + [1e20] * 3, [1, 2, 3] * 2, [1.0, 3.0, 1.0] * 2), "no lowest point"),
    ],
)
def test_runs_without_a_law_are_refused(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*map(list, arguments))
