"""Planted power laws come back within their error bars."""

import math

import numpy as np
import pytest

from lmjax.analysis import fit_power_law
from lmjax.curves.power_law import PowerLaw

STEPS = np.arange(1, 2001)


def test_a_law_without_noise_comes_back():
    fit = fit_power_law(STEPS, 1.7 + 6 * STEPS**-0.33)
    assert fit.law.offset == pytest.approx(1.7, rel=1e-3)
    assert fit.law.scale == pytest.approx(6, rel=2e-3)
    assert fit.law.exponent == pytest.approx(0.33, rel=2e-3)
    assert fit.forecasts()[10].value == pytest.approx(1.7 + 6 * 20_000**-0.33, rel=1e-4)


def test_error_bars_hold_the_truth_about_as_often_as_they_say():
    rng, held = np.random.default_rng(0), []
    for _ in range(25):
        law = PowerLaw(rng.uniform(1, 3), rng.uniform(3, 9), rng.uniform(0.2, 0.6))
        fit = fit_power_law(STEPS, law(STEPS) + 0.05 * rng.normal(size=len(STEPS)), num_resamples=60)
        later = law(20_000)
        pairs = ((fit.offset, law.offset), (fit.exponent, law.exponent), (fit.forecast(20_000), later))
        held.append([bar.low <= truth <= bar.high for bar, truth in pairs])
        assert fit.forecasts()[2].value == pytest.approx(law(4_000), rel=0.01)
    assert (np.mean(held, axis=0) > 0.7).all()  # they say 0.9


def test_steps_to_a_loss():
    law = PowerLaw(2.0, 8.0, 0.5)
    assert law.steps_to(2.8) == pytest.approx(100) and law.steps_to(2.0) == math.inf and law.steps_to(1.0) == math.inf
    fit = fit_power_law(STEPS, law(STEPS) + 0.02 * np.random.default_rng(1).normal(size=len(STEPS)))
    there = fit.steps_to(2.08)
    assert there.low < 10_000 < there.high and there.high / there.low < 4
    assert fit.steps_to(1.5).value == math.inf


def test_spikes_steps_at_zero_and_a_warm_up_do_not_bend_the_law():
    losses = 2 + 8.0 * np.maximum(STEPS, 1) ** -0.5
    losses[[300, 301, 900]] *= 4
    losses[700] = math.nan
    losses[:100] = 9.0
    fit = fit_power_law([0, *STEPS], [20.0, *losses], skip=0.06)
    assert fit.law.exponent == pytest.approx(0.5, rel=0.02) and fit.law.offset == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize(
    ("steps", "losses", "options", "message"),
    [
        ([1, 2, 3], [3, 2, 1], {}, "at least 10 finite losses at different steps above 0, and there are 3"),
        (range(20), [math.nan] * 20, {}, "and there are 0"),
        ([5] * 20, [2.0] * 20, {}, "and there are 1"),
        ([], [], {}, "and there are 0"),
        (range(1, 21), np.linspace(1, 5, 20), {}, "the losses do not fall"),
        ([1, 2], [1], {}, "steps has 2 entries for 1 losses"),
        (range(1, 21), range(20, 0, -1), {"skip": 1.0}, "skip=1.0"),
        (range(1, 21), range(20, 0, -1), {"confidence": 90}, "confidence=90"),
        (range(1, 21), range(20, 0, -1), {"num_resamples": 1}, "num_resamples=1"),
    ],
)
def test_curves_without_a_law_are_refused(steps, losses, options, message):
    with pytest.raises(ValueError, match=message):
        fit_power_law(list(steps), list(losses), **options)
