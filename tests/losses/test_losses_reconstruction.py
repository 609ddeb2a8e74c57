"""Masked reconstruction by hand: error only where masked, patches normalised as in MAE."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import losses

PATCHES = jnp.array([[[1.0, 3.0], [2.0, 2.0], [0.0, 8.0]]])
IS_MASKED = np.array([[True, False, True]])


def test_mean_squared_error_of_masked_patches():
    predictions = jnp.zeros_like(PATCHES)
    values = jax.jit(losses.masked_reconstruction_loss)(predictions, PATCHES, IS_MASKED)
    np.testing.assert_allclose(values, [[5.0, 0.0, 32.0]])

    def total(predictions, patches):
        return jnp.sum(losses.masked_reconstruction_loss(predictions, patches, IS_MASKED))

    by_predictions, by_patches = jax.jit(jax.grad(total, (0, 1)))(predictions, PATCHES)
    np.testing.assert_allclose(by_predictions, -PATCHES * IS_MASKED[..., None])
    assert not np.any(by_patches)


def test_normalised_patches_have_unit_variance_by_d_minus_one():
    # [1, 3] and [0, 8] both become [-1, 1] / sqrt(2).
    target = math.sqrt(0.5)
    predictions = jnp.broadcast_to(jnp.array([-target, target]), PATCHES.shape)
    options = {"normalize_patches": True, "epsilon": 0.0}
    values = losses.masked_reconstruction_loss(predictions, PATCHES, np.array([[True, False, True]]), **options)
    np.testing.assert_allclose(values, np.zeros((1, 3)), atol=1e-12)
    values = losses.masked_reconstruction_loss(0 * predictions, PATCHES, IS_MASKED, **options)
    np.testing.assert_allclose(values, [[0.5, 0.0, 0.5]], rtol=1e-6)


def test_a_flat_patch_gives_no_nan():
    value = losses.masked_reconstruction_loss(PATCHES, PATCHES, np.ones((1, 3), bool), normalize_patches=True)
    assert np.all(np.isfinite(value))


def test_clusters_are_named_only_where_masked():
    logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1]]]))
    values = jax.jit(losses.masked_cluster_loss)(logits, np.array([[1, 2, 0]]), IS_MASKED)
    np.testing.assert_allclose(values, [[-math.log(0.25), 0.0, -math.log(0.6)]], rtol=1e-6)


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match=r"is_masked \(3,\)"):
        losses.masked_reconstruction_loss(PATCHES, PATCHES, IS_MASKED[0])
