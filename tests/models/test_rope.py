"""Rotary positions: by hand, and the form that TPUs compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.models import rope
from lmjax.models.rope import RopeScaling, rope_frequencies, rotate

POSITIONS = jnp.array([[0, 1, 2, 0, 1], [5, 6, 7, 8, 900]])


def test_a_pair_turns_by_its_angle():
    x = jnp.zeros((1, 1, 1, 6)).at[..., 1].set(1.0)
    turned = rotate(x, jnp.array([[3]]), np.array([1.0, 0.5], np.float32))
    # The pairs are dimensions 0 and 2, 1 and 3; the last two stay.
    np.testing.assert_allclose(turned[0, 0, 0], [0, np.cos(1.5), 0, np.sin(1.5), 0, 0], atol=1e-6)


@pytest.mark.parametrize(("rotated", "dtype"), [(8, jnp.float32), (4, jnp.float32), (8, jnp.bfloat16)])
def test_the_form_of_tpus_gives_the_same_result_and_gradient(rotated, dtype, monkeypatch):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3, 8)), dtype)
    frequencies = rope_frequencies(rotated, theta=100.0, scaling=RopeScaling())

    def of(x):
        output, pull_back = jax.vjp(lambda x: rotate(x, POSITIONS, frequencies, magnitude=1.3), x)
        return output, pull_back(jnp.cos(output))[0]

    expected = of(x)
    monkeypatch.setattr(rope, "current_platform", lambda: "tpu")
    for mine, right in zip(of(x), expected, strict=True):
        assert mine.dtype == right.dtype
        # In bfloat16 the two differ where a float32 result lies between two numbers.
        tolerance = 1e-6 if dtype == jnp.float32 else 2.0**-7
        np.testing.assert_allclose(np.float32(mine), np.float32(right), rtol=tolerance, atol=tolerance)
