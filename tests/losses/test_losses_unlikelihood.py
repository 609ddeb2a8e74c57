"""Unlikelihood: torch's values, exactness near certainty, who is a candidate, and the margin."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import losses
from lmjax.losses.unlikelihood import repeated_ngrams


def test_given_candidates_are_torch(oracle):
    for case in oracle("unlikelihood_sum_over_candidates"):
        values = jax.jit(losses.unlikelihood)(jnp.array(case["logits"]), np.array(case["candidates"]))
        np.testing.assert_allclose(values, case["per_token"], atol=1e-6)


def test_by_hand_and_absent_candidates():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.2]] * 3))
    values = jax.jit(losses.unlikelihood)(logits, np.array([[0, 2], [1, -1], [-100, -1]]))
    np.testing.assert_allclose(values, [-math.log(0.5 * 0.8), -math.log(0.7), 0.0], rtol=1e-6)


@pytest.mark.parametrize("lead", [-5.0, 0.0, 1.0, 12.0, 40.0, 1000.0])
def test_exact_and_with_a_gradient_however_certain_the_candidate(lead):
    logits = jnp.array([lead, 0.0, 0.0, 0.0])

    def loss(logits):
        return losses.unlikelihood(logits[None, :], jnp.array([[0]]))[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
    # 1 - p = 3 / (e^lead + 3); the gradient by the candidate's logit is p, by the others' -p / 3.
    probability = 1 / (1 + 3 * math.exp(-lead))
    np.testing.assert_allclose(value, lead + math.log1p(3 * math.exp(-lead)) - math.log(3), rtol=1e-5)
    np.testing.assert_allclose(gradient, probability * np.array([1, -1 / 3, -1 / 3, -1 / 3]), rtol=1e-5)


def sets(candidates):
    listed = [sorted(c for c in row if c >= 0) for row in np.asarray(candidates).tolist()]
    assert all(len(set(row)) == len(row) for row in listed)
    return listed


def test_candidates_of_the_context():
    context_candidates = jax.jit(losses.context_candidates)
    targets = np.array([4, 7, 4, 9, -100, 7])
    expected = [[], [4], [7], [4, 7], [4, 7, 9], [4, 9]]
    assert sets(context_candidates(targets)) == expected
    segments = np.array([1, 1, 1, 2, 2, 2])
    assert sets(context_candidates(targets, segments)) == [[], [4], [7], [], [9], [9]]
    # A document that repeats a token of the one before it starts afresh.
    again = jax.jit(jax.vmap(losses.context_candidates))(np.array([[3, 3, 5, 5]]), np.array([[1, 2, 2, 2]]))
    assert sets(again[0]) == [[], [], [3], [3]]


def test_context_candidates_lower_what_was_said():
    logits = jnp.zeros((1, 4, 6))
    targets = jnp.array([[1, 2, 1, 3]])

    def total(logits):
        return jnp.sum(losses.unlikelihood(logits, losses.context_candidates(targets))[0, 3])

    gradient = jax.jit(jax.grad(total))(logits)[0, 3]
    np.testing.assert_array_equal(gradient > 0, [False, True, True, False, False, False])


def test_margin_by_hand():
    values = losses.corrupted_margin(jnp.array([1.0, 3.0, 2.0]), jnp.array([4.0, 3.5, 1.0]), margin=2.0)
    np.testing.assert_allclose(values, [0.0, 1.5, 3.0])
    gradient = jax.grad(lambda o, c: losses.corrupted_margin(o, c, margin=2.0), (0, 1))(3.0, jnp.float32(3.5))
    assert gradient == (1.0, -1.0)


def test_repeated_ngrams_by_hand():
    tokens = [[1, 2, 3, 1, 2, 4, 2, 3, 5], [7, 7, 7, 7, 1, 2, 3, 4, 5]]
    expected = [[0, 0, 0, 1, 1, 0, 1, 1, 0], [0, 1, 1, 1, 0, 0, 0, 0, 0]]
    repeats = jax.jit(repeated_ngrams, static_argnums=1)
    np.testing.assert_array_equal(repeats(np.array(tokens), 2), expected)
    np.testing.assert_array_equal(repeats(np.array(tokens), 1)[0], [0, 0, 0, 1, 1, 0, 1, 1, 0])
    assert not repeated_ngrams(np.array(tokens), 10).any()
    with pytest.raises(ValueError, match="size=0"):
        repeated_ngrams(np.array(tokens), 0)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"candidates of shape \(2, 3\) and one axis more, not \(3,\)"):
        losses.unlikelihood(jnp.zeros((2, 3, 5)), np.zeros(3, int))
    with pytest.raises(ValueError, match="margin=-1"):
        losses.corrupted_margin(jnp.zeros(2), jnp.zeros(2), margin=-1.0)
    with pytest.raises(ValueError, match=r"corrupted_nats \(3,\)"):
        losses.corrupted_margin(jnp.zeros(2), jnp.zeros(3))
