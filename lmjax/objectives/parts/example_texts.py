"""Rows of several texts that belong together: M equal stretches, read as M rows by the model.

A :class:`~lmjax.types.Batch` keeps the texts of an example in one row, so that microbatches and devices
never separate them. The model reads each as a row of its own, which costs attention M times less.
"""

import jax
import jax.numpy as jnp

from lmjax.masks import IntervalMask
from lmjax.types import Stream


def apart(array_BT: jax.Array, num_members: int, members: slice = slice(None)) -> jax.Array:
    """Makes rows of stretches: [B, M S, ...] to [B m, S, ...], with the m chosen members of an example in sequence."""
    num_rows, length = array_BT.shape[:2]
    stretches = array_BT.reshape(num_rows, num_members, length // num_members, *array_BT.shape[2:])[:, members]
    return stretches.reshape(-1, *stretches.shape[2:])


def stream_apart(stream: Stream, num_members: int, members: slice = slice(None)) -> Stream:
    """Returns the stream with the rows of :func:`apart`, in which no member sees another."""
    shape = stream.tokens_BT.shape
    length = shape[1] // num_members
    first_1T = jnp.arange(shape[1], dtype=jnp.int32)[None, :] // length * length

    def bound(bound_BT: jax.Array) -> jax.Array:
        # Padding may run on into the next stretch.
        return apart(jnp.clip(jnp.broadcast_to(bound_BT, shape) - first_1T, 0, length), num_members, members)

    return Stream(
        tokens_BT=apart(stream.tokens_BT, num_members, members),
        positions_BT=apart(stream.positions_BT, num_members, members),
        mask=IntervalMask(start_BT=bound(stream.mask.start_BT), end_BT=bound(stream.mask.end_BT)),
    )
