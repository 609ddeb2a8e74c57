"""Masked diffusion: the weights make a bound of the text's nats, and MDLM's and SEDD's agree."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import losses

SCHEDULES = [losses.linear_schedule, losses.cosine_schedule]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_goes_from_nothing_to_all_at_its_own_rate(schedule):
    times = jnp.linspace(0.0, 1.0, 11)
    masked, rate = schedule(times)
    np.testing.assert_allclose(masked[jnp.array([0, -1])], [0.0, 1.0], atol=1e-6)
    slope = jax.jit(jax.vmap(jax.grad(lambda t: schedule(t)[0])))(times)
    np.testing.assert_allclose(rate, slope, atol=1e-6)
    assert np.all(rate[1:-1] > 0)


def test_weights_by_hand():
    np.testing.assert_allclose(losses.diffusion_weights(np.array([0.25, 1.0])), [4.0, 1.0], rtol=1e-6)
    half = losses.diffusion_weights(0.5, schedule=losses.cosine_schedule)
    np.testing.assert_allclose(half, math.pi / 2 * math.sin(math.pi / 4) / (1 - math.cos(math.pi / 4)), rtol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_model_that_ignores_its_input_pays_exactly_its_nats(schedule):
    # Each token costs the same whatever is masked, so the average over times and masks is no bound but equal.
    num_times, nats = 20_000, jnp.array([0.5, 1.0, 3.0])
    times = (jnp.arange(num_times) + 0.5) / num_times
    masked, _ = schedule(times)
    draws = jax.random.uniform(jax.random.key(0), (num_times, 3))
    loss = jax.jit(losses.masked_diffusion_loss, static_argnames="schedule")
    values = loss(jnp.broadcast_to(nats, draws.shape), draws < masked[:, None], times, schedule=schedule)
    error = np.std(values, axis=0) / math.sqrt(num_times)
    np.testing.assert_array_less(np.abs(np.mean(values, axis=0) - nats), 4 * error)
    assert np.all(error < 0.05 * nats)


def test_unmasked_positions_count_nothing_and_rows_may_have_a_time_a_token():
    token_nats, is_masked = jnp.ones((2, 3)), np.array([[True, False, True], [False, True, False]])
    values = jax.jit(losses.masked_diffusion_loss)(token_nats, is_masked, np.array([0.5, 0.25]))
    np.testing.assert_allclose(values, [[2.0, 0.0, 2.0], [0.0, 4.0, 0.0]])
    each = losses.masked_diffusion_loss(token_nats, is_masked, np.full((2, 3), 0.1))
    np.testing.assert_allclose(each, 10.0 * is_masked, rtol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_score_entropy_of_normalised_probabilities_is_the_elbo(schedule):
    vocab, mask_id = 7, 2
    keys = jax.random.split(jax.random.key(1), 3)
    bias = jnp.zeros(vocab).at[mask_id].set(-jnp.inf)
    log_probabilities = jax.nn.log_softmax(jax.random.normal(keys[0], (3, 5, vocab)) + bias[None, None, :])
    targets = jax.random.choice(keys[1], jnp.array([0, 1, 3, 4, 5, 6]), (3, 5))
    is_masked = jax.random.bernoulli(keys[2], 0.6, (3, 5))
    times = jnp.array([0.1, 0.5, 0.9])
    masked, _ = schedule(times)
    # The mask's own score may be anything.
    log_scores = log_probabilities + jnp.log((1 - masked) / masked)[:, None, None]
    log_scores = log_scores.at[..., mask_id].set(100.0)
    entropy = jax.jit(losses.score_entropy_loss, static_argnames=("mask_id", "schedule"))
    values = entropy(log_scores, targets, is_masked, times, mask_id=mask_id, schedule=schedule)
    nats = jax.jit(losses.cross_entropy)(log_probabilities, targets)
    expected = losses.masked_diffusion_loss(nats, is_masked, times, schedule=schedule)
    np.testing.assert_allclose(values, expected, rtol=2e-4, atol=1e-5)


def test_score_entropy_is_least_zero_and_flat_at_the_true_ratio():
    times, targets = jnp.array([0.25]), jnp.array([[1]])
    truth = jnp.array([[[-jnp.inf, math.log(3.0), -jnp.inf]]])  # (1 - t) / t = 3 for the clean token

    def loss(log_scores):
        values = losses.score_entropy_loss(log_scores, targets, np.array([[True]]), times, mask_id=2)
        return values[0, 0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(truth)
    np.testing.assert_allclose(value, 0.0, atol=1e-5)
    np.testing.assert_allclose(gradient, np.zeros((1, 1, 3)), atol=1e-5)
    # By hand at scores of 1: 4/3 (2 - 3 * 0 + 3 (log 3 - 1)), with m' / (1 - m) = 4/3.
    np.testing.assert_allclose(loss(jnp.zeros((1, 1, 3))), 4 / 3 * (2 + 3 * (math.log(3) - 1)), rtol=1e-5)


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match=r"times \(4,\) must be \(2,\) or \(2, 3\)"):
        losses.masked_diffusion_loss(jnp.ones((2, 3)), np.ones((2, 3), bool), np.ones(4))
    with pytest.raises(ValueError, match=r"not \(3,\)|is_masked \(3,\)"):
        losses.masked_diffusion_loss(jnp.ones((2, 3)), np.ones(3, bool), np.ones(2))
    with pytest.raises(ValueError, match=r"targets \(3,\)"):
        losses.score_entropy_loss(jnp.ones((2, 3, 4)), np.ones(3, int), np.ones((2, 3), bool), 0.5, mask_id=0)
