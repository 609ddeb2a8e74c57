"""Curves with planted faults, and healthy noisy ones."""

import math

import numpy as np
import pytest

from lmjax.analysis import analyze_loss_curve
from lmjax.curves.baseline import rolling_median

STEPS = np.arange(1, 1001)


def healthy(rng, noise=0.02):
    """A loss that falls by 1.5% or more over the last fifth, with noise of one of three kinds."""
    base = rng.uniform(1, 2.5) + rng.uniform(5, 9) * STEPS ** -rng.uniform(0.2, 0.35)
    errors = rng.normal(size=len(STEPS))
    if rng.random() < 0.3:  # the noise of neighbours is alike
        for index in range(1, len(errors)):
            errors[index] = 0.5 * errors[index - 1] + errors[index]
    return base + noise * (errors if rng.random() < 0.3 else base * errors)


def test_two_hundred_healthy_curves_raise_no_alarm():
    rng = np.random.default_rng(0)
    for _ in range(200):
        losses = healthy(rng, noise=rng.choice([0.003, 0.02, 0.06]))
        curve = analyze_loss_curve(losses, steps=STEPS, valid_losses=losses[49::50] + 0.05, valid_steps=STEPS[49::50])
        assert curve.warnings == [] and curve.not_finite == ()


def test_all_planted_spikes_are_found_and_no_others():
    rng = np.random.default_rng(1)
    for _ in range(25):
        losses = healthy(rng)
        planted = np.sort(rng.choice(np.arange(1, 19), 3, replace=False)) * 50 + rng.integers(0, 9)
        for begin in planted:
            length, height = rng.integers(1, 12), rng.uniform(0.8, 4)
            losses[begin : begin + length] *= 1 + height * np.exp(-np.arange(length) / 5)
        spikes = analyze_loss_curve(losses).spikes
        assert [spike.first for spike in spikes] == planted.tolist()
        for spike in spikes:
            assert spike.loss == losses[spike.step] == losses[spike.first : spike.last + 1].max()
            assert spike.ratio == spike.loss / spike.baseline > 1.5


def test_a_spike_by_hand():
    losses = [4.0, 4.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 5.0, 2.0, 2.0]
    (spike,) = analyze_loss_curve(losses, window_size=10, steps=range(10, 23)).spikes
    assert (spike.step, spike.loss, spike.baseline, spike.ratio) == (20, 5.0, 2.0, 2.5)
    assert "a spike at step 20: the loss is 5, 2.5 times its recent level 2" in str(spike)
    assert not analyze_loss_curve(losses, window_size=10, spike_threshold=3).spikes
    below_zero = [value - 4 for value in losses]
    assert analyze_loss_curve(below_zero, window_size=10).spikes[0].ratio == math.inf


def test_plateaus_are_found_with_their_beginning():
    rng = np.random.default_rng(2)
    for begin in (500, 650, 780):
        for noise in (0.0, 0.01, 0.02):
            fall = np.minimum(STEPS / begin, 1)
            losses = (4 - 1.5 * fall) * np.exp(noise * rng.normal(size=1000))
            curve = analyze_loss_curve(losses, steps=STEPS)
            assert curve.plateau is not None and abs(curve.plateau.improvement) < 0.01, (begin, noise)
            assert curve.plateau.step == pytest.approx(begin, abs=60)
            assert curve.plateau.level == pytest.approx(2.5, rel=0.02)
    exponential = 2 + 6 * np.exp(-STEPS / 60) + 0.02 * rng.normal(size=1000)
    assert analyze_loss_curve(exponential).plateau is not None
    assert analyze_loss_curve([3.0] * 50).plateau is not None


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_divergence_is_found_with_its_beginning(share):
    rng = np.random.default_rng(3)
    begin = int(1000 * share)
    for height in (0.6, 1, 10):
        losses = healthy(rng)
        losses[begin:] *= 1 + np.linspace(0, height, 1000 - begin)
        curve = analyze_loss_curve(losses)
        assert curve.divergence is not None and curve.plateau is None
        assert curve.divergence.step == pytest.approx(begin, abs=50)


def test_losses_that_are_not_finite():
    losses = np.linspace(4, 2, 100)
    losses[30] = math.nan
    losses[31] = math.inf
    curve = analyze_loss_curve(losses)
    assert curve.not_finite == (30, 31) and curve.divergence is None and not curve.spikes
    assert curve.warnings == ["2 losses are not finite, the first at step 30"]
    losses[90:] = math.nan
    curve = analyze_loss_curve(losses)
    assert curve.divergence.step == 90 and "not finite from step 90 on" in str(curve.divergence)
    assert analyze_loss_curve([None, math.nan]).divergence.step == 0
    assert analyze_loss_curve([3.0]).warnings == []


def test_overfitting_needs_a_training_loss_that_falls():
    rng = np.random.default_rng(4)
    training = 2 + 6 * STEPS**-0.3 + 0.02 * rng.normal(size=1000)
    at = STEPS[49::50]
    valid = 2.5 + 6 * at**-0.3 + 0.8 * np.maximum(at - 500, 0) / 500 + 0.01 * rng.normal(size=20)
    curve = analyze_loss_curve(training, steps=STEPS, valid_losses=valid, valid_steps=at)
    assert curve.overfitting.step == pytest.approx(500, abs=100) and curve.overfitting.final > curve.overfitting.best
    evenly = analyze_loss_curve(training, steps=STEPS, valid_losses=valid).overfitting
    assert evenly.step == pytest.approx(curve.overfitting.step, abs=1)
    rising = np.where(STEPS > 500, 3 + STEPS / 1000, training)
    assert analyze_loss_curve(rising, steps=STEPS, valid_losses=valid, valid_steps=at).overfitting is None
    few = analyze_loss_curve(training[:60], valid_losses=[3.0, 2.5, 2.3, 2.4, 2.6, 2.9])
    assert few.overfitting is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"losses": []}, "losses is empty"),
        ({"losses": [[1.0]]}, "must be a list of numbers"),
        ({"losses": ["a"]}, "must be a list of numbers"),
        ({"losses": [1.0], "window_size": 1}, "window_size=1: must be at least 2"),
        ({"losses": [1.0], "spike_threshold": 1.0}, "spike_threshold=1.0: must be a number above 1"),
        ({"losses": [1.0, 2.0], "steps": [1]}, "steps has 1 entries for 2 losses"),
        ({"losses": [1.0, 2.0], "steps": [1, 1]}, "steps must rise"),
        ({"losses": [1.0], "valid_losses": [1.0], "valid_steps": []}, "valid_steps has 0 entries for 1 losses"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        analyze_loss_curve(**arguments)


def test_the_rolling_median_is_of_the_values_before():
    values = np.random.default_rng(5).normal(size=50)
    for first in (0, 3, 20):
        medians = rolling_median(values, 7, first=first)
        expected = [np.median(values[max(index - 7, 0) : index]) if index else np.nan for index in range(first, 50)]
        assert np.allclose(medians, expected, equal_nan=True)
