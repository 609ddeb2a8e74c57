"""Logits for objectives that need more of them than the fused loss gives, a chunk of positions at a time.

Axes: N chunks.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp

from lmjax.losses.linear import default_chunk_size
from lmjax.parallel.mesh import constrain, mesh_axes_of


def chunk_length(num_rows: int, vocab_size: int) -> int:
    """Positions of each row in a chunk: as many logits on a device as the fused loss makes."""
    mesh = jax.sharding.get_abstract_mesh()
    ways = 1 if mesh.empty else math.prod(mesh.shape.get(axis, 1) for axis in mesh_axes_of("batch"))
    return max(1, default_chunk_size(vocab_size) * ways // num_rows)


def sum_over_chunks(body: Callable[..., Sequence[jax.Array]], length: int, *arrays_BT: jax.Array) -> list[jax.Array]:
    """Sums what ``body`` returns over chunks of positions; the backward pass makes each chunk's logits again.

    Args:
      body: from chunks [B, C, ...] of the arrays to float32 scalars; chunks may end in zeros.
      length: the largest C.
      arrays_BT: [B, T, ...] each.
    """
    chunks, _ = _cut(length, arrays_BT)

    def add(sums: list[jax.Array], chunk: list[jax.Array]) -> tuple[list[jax.Array], None]:
        return jax.tree.map(jnp.add, sums, list(jax.checkpoint(body)(*chunk))), None

    one_chunk = [jax.ShapeDtypeStruct(array.shape[1:], array.dtype) for array in chunks]
    zeros = [jnp.zeros(()) for _ in jax.eval_shape(body, *one_chunk)]
    return jax.lax.scan(add, zeros, chunks)[0]


Values = TypeVar("Values")


def map_over_chunks(body: Callable[..., Values], length: int, *arrays_BT: jax.Array) -> Values:
    """What ``body`` returns for chunks of positions, arrays [B, C], put together to [B, T]; not for gradients."""
    chunks, num_positions = _cut(length, arrays_BT)
    _, values = jax.lax.scan(lambda _, chunk: (None, body(*chunk)), None, chunks)

    def together(values_NBC: jax.Array) -> jax.Array:
        return values_NBC.swapaxes(0, 1).reshape(values_NBC.shape[1], -1)[:, :num_positions]

    return jax.tree.map(together, values)


def _cut(length: int, arrays: Sequence[jax.Array]) -> tuple[list[jax.Array], int]:
    """The arrays as equal chunks [N, B, C, ...], zeros at the end, and the T they had."""
    num_rows, num_positions = arrays[0].shape[:2]
    num_chunks = -(-num_positions // length)
    length = -(-num_positions // num_chunks)

    def cut(array: jax.Array) -> jax.Array:
        rest = array.shape[2:]
        padding = ((0, 0), (0, num_chunks * length - num_positions), *((0, 0),) * len(rest))
        chunks = jnp.pad(array, padding).reshape(num_rows, num_chunks, length, *rest)
        return constrain(chunks.swapaxes(0, 1), None, "batch", None, *(None,) * len(rest))

    return [cut(array) for array in arrays], num_positions
