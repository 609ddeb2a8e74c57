"""Cuts a batch into parts that a step processes one after the other, and puts results together again."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from lmjax.parallel.mesh import partition_spec
from lmjax.types import PyTree


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
