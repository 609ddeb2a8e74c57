"""What the race of attention counts, by hand."""

import jax.numpy as jnp
import numpy as np
from attention_case import Case, segments

from lmjax import masks


def test_flops_are_those_of_the_pairs_that_the_mask_shows():
    case = Case(backend="", length=64, rows=3, documents=4, backward=True, heads=2, kv_heads=1, width=8)
    visible = np.asarray(masks.packed(jnp.asarray(segments(1, 64, documents=4))).dense(64)).sum()
    # Seven products of two FLOPs for each pair, head and dimension.
    assert case.flops == 7 * 2 * 8 * 2 * 3 * visible


def test_packed_rows_have_several_documents_and_padding():
    numbers = segments(2, 128, documents=4)
    assert set(numbers.ravel()) == {0, 1, 2, 3, 4}
    assert numbers[0, -1] == 0 and np.all(np.diff(np.where(numbers[0] == 0, 5, numbers[0])) >= 0)
    assert set(segments(1, 128, documents=1).ravel()) == {1}
