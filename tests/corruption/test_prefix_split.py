"""Prefix splits: uniform, one a document, inside the document, and usable as a mask."""

import jax
import jax.numpy as jnp
import numpy as np

from lmjax import masks
from lmjax.corruption import split_prefix

jitted = jax.jit(split_prefix)


def test_each_document_splits_inside_itself():
    segments_BT = jnp.asarray([[1, 1, 1, 1, 2, 3, 3, 3, 0, 0], [1, 2, 2, 3, 3, 3, 3, 3, 3, 3]], jnp.int32)
    for seed in range(20):
        end_BT = np.asarray(jitted(jax.random.key(seed), segments_BT))
        for row, segments in zip(end_BT, np.asarray(segments_BT), strict=True):
            for document in np.unique(segments):
                (where,) = np.nonzero(segments == document)
                values = np.unique(row[where])
                assert values.size == 1
                if document == 0 or where.size == 1:
                    assert values[0] == where[0]
                else:
                    assert where[0] < values[0] <= where[-1]


def test_splits_are_uniform_and_independent():
    length = 6
    segments_BT = jnp.broadcast_to(jnp.repeat(jnp.arange(1, 3), length)[None, :], (20000, 2 * length))
    end_BT = np.asarray(jitted(jax.random.key(0), segments_BT))
    first, second = end_BT[:, 0] - 1, end_BT[:, length] - length - 1
    counts = np.zeros((length - 1, length - 1))
    np.add.at(counts, (first, second), 1)
    expected = first.size / counts.size
    degrees = counts.size - 1
    assert abs(((counts - expected) ** 2 / expected).sum() - degrees) < 3 * np.sqrt(2 * degrees)


def test_as_a_mask_the_prefix_sees_itself_whole():
    segments_BT = jnp.asarray([[1, 1, 1, 1, 1, 2, 2, 2]], jnp.int32)
    end_BT = split_prefix(jax.random.key(1), segments_BT)
    dense = np.asarray(masks.packed(segments_BT, "prefix", prefix_end_BT=end_BT).dense(8))[0]
    split = int(end_BT[0, 0])
    assert dense[:split, :split].all()
    assert not dense[:split, split:].any()
    np.testing.assert_array_equal(dense[split:5, :5], np.tri(5, dtype=bool)[split:])
    assert not dense[5:, :5].any()


def test_jit_changes_nothing():
    segments_BT = jnp.ones((4, 16), jnp.int32)
    key = jax.random.key(2)
    np.testing.assert_array_equal(split_prefix(key, segments_BT), jitted(key, segments_BT))
