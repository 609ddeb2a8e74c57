"""Cuts a batch into microbatches, which a step processes one after the other, and puts their results together.

Axes: M microbatches.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from lmjax.parallel.mesh import partition_spec
from lmjax.types import PyTree


def summed_over_microbatches(
    gradient: Callable[[PyTree, jax.Array], tuple[Any, tuple[Any, Any]]],
    batch: PyTree,
    key: jax.Array,
    *,
    num: int,
    mesh: Mesh,
    whole: Callable[[Any], Any],
    squared_norms: bool,
) -> tuple[Any, Any, Any, jax.Array | None]:
    """Returns the sums of gradients and terms over the microbatches, the carry, and the mean square of a gradient.

    Args:
      gradient: the function from a microbatch and a key to gradients, terms and carry.
      batch: arrays [B, ...].
      key: a PRNG key, from which each microbatch gets its own.
      num: the number of microbatches.
      mesh: the devices, over which each microbatch is spread.
      whole: the function from gradients, or their sums, to the gradients of the parameters.
      squared_norms: whether the last result is wanted: the mean of the squared norms that the gradients of the
        microbatches' own mean losses have. Otherwise it is None.
    """

    def accumulate(sums, microbatch):
        part, index = microbatch
        grads, (terms, carry) = gradient(part, jax.random.fold_in(key, index))
        square = optax.tree.norm(whole(grads), squared=True) if squared_norms else None
        return jax.tree.map(jnp.add, sums, (grads, terms)), (carry, square)

    parts = split_microbatches(batch, num, mesh)
    first = jax.tree.map(lambda leaf: leaf[0], parts)
    grads_shape, (terms_shape, _) = jax.eval_shape(gradient, first, key)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (grads_shape, terms_shape))
    (grads, terms), (carries, square_M) = jax.lax.scan(accumulate, zeros, (parts, jnp.arange(num)))
    # The gradients of M microbatches are summed, so the mean loss of one of them has M times its gradient.
    mean_square = None if square_M is None else num**2 * jnp.mean(square_M)
    return whole(grads), terms, jax.tree.map(joined, carries), mean_square


def joined(parts: jax.Array) -> jax.Array:
    """Returns [num, B / num, ...] as [B, ...]: the inverse of :func:`split_microbatches`."""
    num, size = parts.shape[:2]
    return parts.swapaxes(0, 1).reshape(num * size, *parts.shape[2:])


def split_microbatches(batch: PyTree, num: int, mesh: Mesh) -> Any:
    """Returns every array [B, ...] as [num, B / num, ...], with each part spread over all devices.

    An array [1, ...] is repeated in each part. Part m takes the rows m, m + num, ...: because each device has a block
    of the batch, no row moves to another device.
    """

    def split(leaf: jax.Array) -> jax.Array:
        if len(leaf) == 1:
            return jnp.broadcast_to(leaf[None], (num, *leaf.shape))
        parts = leaf.reshape(len(leaf) // num, num, *leaf.shape[1:]).swapaxes(0, 1)
        if mesh.size == 1:
            return parts
        axes = (None, "batch", *(None,) * (leaf.ndim - 1))
        spec = partition_spec(axes, parts.shape, mesh)
        return jax.lax.with_sharding_constraint(parts, NamedSharding(mesh, spec))

    return jax.tree.map(split, batch)
