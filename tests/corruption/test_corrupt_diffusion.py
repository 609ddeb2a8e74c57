"""The absorbing process: times, schedules against their derivatives, and masking rates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import corruption, losses
from lmjax.corruption import absorb, cosine_schedule, diffusion_times, linear_schedule, log_linear_schedule

SCHEDULES = [linear_schedule, log_linear_schedule, cosine_schedule]


def test_times_are_spread_evenly_and_each_is_uniform():
    draw = jax.jit(lambda key: diffusion_times(key, 16, least=0.0))
    times = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(0), 2000)))
    assert (np.sort(np.floor(times * 16), axis=1) == np.arange(16)).mean() > 0.999
    for column in (0, 7, 15):
        assert abs(times[:, column].mean() - 0.5) < 3 / np.sqrt(12 * 2000)
    independent = np.asarray(diffusion_times(jax.random.key(1), 20000, least=0.2, low_discrepancy=False))
    assert independent.min() >= 0.2
    assert independent.max() < 1
    assert abs(independent.mean() - 0.6) < 3 * 0.8 / np.sqrt(12 * 20000)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_agree_with_their_derivatives(schedule):
    times = jnp.linspace(0.01, 0.99, 50)
    noise = schedule(times)
    slope = -jax.vmap(jax.grad(lambda t: schedule(t).alpha))(times)
    np.testing.assert_allclose(noise.slope, slope, rtol=1e-5)
    np.testing.assert_allclose(noise.hidden, 1 - noise.alpha, atol=1e-6)
    np.testing.assert_allclose(noise.weight, slope / (1 - noise.alpha), rtol=2e-3)
    np.testing.assert_allclose(noise.rate, jax.vmap(jax.grad(lambda t: schedule(t).total))(times), rtol=1e-5)
    assert float(schedule(jnp.float32(0.0)).alpha) == 1
    assert float(schedule(jnp.float32(1.0)).alpha) < 2e-3


def test_weights_by_hand():
    half = jnp.float32(0.5)
    assert float(linear_schedule(half).weight) == pytest.approx(2.0)
    assert float(log_linear_schedule(half).total) == pytest.approx(-np.log(1 - 0.999 * 0.5), rel=1e-6)
    assert float(cosine_schedule(half).alpha) == pytest.approx(np.sqrt(0.5), rel=1e-6)
    # Near time 0 the cosine weight is 2 / t, which 1 - cos in float32 would miss by percents.
    assert float(cosine_schedule(jnp.float32(1e-3)).weight) == pytest.approx(2000, rel=1e-4)


def test_each_row_is_masked_at_its_own_rate():
    tokens = np.random.default_rng(0).integers(0, 20, (4, 50000)).astype(np.int32)
    segments = np.ones_like(tokens)
    segments[:, -1000:] = 0
    alpha = np.asarray([1.0, 0.7, 0.1, 0.0], np.float32)
    inputs, masked = map(
        np.asarray,
        jax.jit(lambda key: absorb(key, tokens, alpha, mask_id=3, special_ids=(0, 1), segments_BT=segments))(
            jax.random.key(2)
        ),
    )
    eligible = ~np.isin(tokens, (0, 1, 3)) & (segments > 0)
    assert not masked[~eligible].any()
    np.testing.assert_array_equal(inputs, np.where(masked, 3, tokens))
    for row in range(4):
        trials, rate = eligible[row].sum(), 1 - alpha[row]
        assert abs(masked[row].sum() - trials * rate) <= 3 * np.sqrt(trials * rate * (1 - rate)) + 1e-6


def test_impossible_least_time_is_refused():
    with pytest.raises(ValueError, match="least=1"):
        diffusion_times(jax.random.key(0), 4, least=1.0)


@pytest.mark.parametrize("name", ["linear_schedule", "cosine_schedule"])
def test_noise_and_loss_follow_the_same_schedule(name):
    """What hides tokens and what weighs their loss are in two packages that do not know each other."""
    times = jnp.linspace(0.05, 0.95, 7)
    noise = getattr(corruption, name)(times)
    masked, _ = getattr(losses, name)(times)
    np.testing.assert_allclose(masked, 1 - noise.alpha, rtol=1e-5)
    weights = losses.diffusion_weights(times, schedule=getattr(losses, name))
    np.testing.assert_allclose(weights, noise.weight, rtol=1e-5)
