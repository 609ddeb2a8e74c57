"""Two-way losses: hand values, torch's, and no overflow."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import losses


def test_replaced_token_loss_is_that_of_torch(oracle):
    for case in oracle("replaced_token_detection"):
        attend = np.array(case["attend"])
        values = jax.jit(losses.replaced_token_loss)(jnp.array(case["logits"]), np.array(case["replaced"]))
        np.testing.assert_allclose(np.sum(values * attend) / attend.sum(), case["loss"], rtol=1e-6)


def test_replaced_token_loss_by_hand():
    logits = jnp.array([0.0, math.log(3), math.log(3), 1000.0, -1000.0, 1000.0])
    is_replaced = np.array([True, True, False, True, False, False])
    # sigmoid(log 3) = 3/4.
    expected = [math.log(2), -math.log(0.75), -math.log(0.25), 0.0, 0.0, 1000.0]
    values = losses.replaced_token_loss(logits, is_replaced)
    np.testing.assert_allclose(values, expected, atol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(losses.replaced_token_loss(x, is_replaced)))(logits)
    np.testing.assert_allclose(gradient, [-0.5, -0.25, 0.75, 0.0, 0.0, 1.0], atol=1e-6)


def test_pair_loss_by_hand():
    logits = jnp.log(jnp.array([[0.9, 0.1], [0.9, 0.1], [0.5, 0.5]]))
    values = losses.pair_loss(logits, np.array([0, 1, -100]))
    np.testing.assert_allclose(values, [-math.log(0.9), -math.log(0.1), 0.0], rtol=1e-6)


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match=r"is_replaced \(3,\) differ"):
        losses.replaced_token_loss(jnp.zeros((2, 3)), np.zeros(3, bool))
    with pytest.raises(ValueError, match=r"logits \(4, 3\) must end in an axis of 2"):
        losses.pair_loss(jnp.zeros((4, 3)), np.zeros(4, int))
