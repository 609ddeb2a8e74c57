"""Matrices that are stored in another order for decoding make the same products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmjax.models.layers import Projection


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_turned_projection_makes_the_same_product(dtype):
    rngs = nnx.Rngs(params=jax.random.key(0))
    projection = Projection({"heads": 3, "width": 4}, {"a": 2, "b": 5}, std=None, bias=True, dtype=dtype, rngs=rngs)
    x = jax.random.normal(jax.random.key(1), (2, 7, 3, 4))
    wanted, matrix = projection(x), projection.matrix()
    assert wanted.shape == (2, 7, 2, 5) and matrix.shape == (3, 4, 2, 5)
    projection.turn()
    assert projection.weight[...].shape == (10, 12)
    out = projection(x)
    assert out.dtype == wanted.dtype == jnp.dtype(dtype)
    # In bfloat16 a sum may be rounded to the number next to it.
    tolerance = 1e-6 if dtype == "float32" else 2**-7
    np.testing.assert_allclose(np.float32(out), np.float32(wanted), rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(np.float32(projection.matrix()), np.float32(matrix))
