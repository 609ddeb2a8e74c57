"""Lookup of the rows of a table, by devices that share the batch and the table's width."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from lmjax.parallel.mesh import axes_of, constrain, partition_spec

TableGradient = Literal["step", "microbatch"]
"""How often devices sum the gradient of a table, see ``model.execution.table_gradient``."""


def rows_of(table_VD: jax.Array, ids: jax.Array, gradient: TableGradient = "step") -> jax.Array:
    """Returns the rows of a table for the ids, [..., D]; an id out of range takes the nearest row.

    With ``"step"`` each device gathers the table, looks its own ids up, and adds the gradients of its own rows. The sum
    over devices is the last operation of the table's gradient, so that XLA can move it out of a loop over microbatches.
    With ``"microbatch"`` XLA partitions the lookup, and the sum stays in the loop.

    Args:
      table_VD: the table, whose width may be split over devices that share the batch.
      ids: integers, [B, T] or of another shape.
      gradient: how often devices sum the gradient of the table. Where the vocabulary is split over devices, or these do
        not share the batch, it is ``"microbatch"``.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or mesh.manual_axes:
        return _taken(table_VD, ids)
    vocab, embed = map(axes_of, partition_spec(("vocab", "embed"), table_VD.shape, mesh))
    names = ("batch", "length", *(None,) * (ids.ndim - 2))[: ids.ndim]
    ids_spec = partition_spec(names, ids.shape, mesh)
    batch = tuple(axis for entry in ids_spec for axis in axes_of(entry))
    if gradient == "microbatch" or vocab or not set(embed) <= set(batch):
        # If the width were split over the devices of the batch, XLA would replicate the whole lookup.
        return _taken(constrain(table_VD, "vocab", None), ids)

    def local(part_VE: jax.Array, ids: jax.Array) -> jax.Array:
        # In this order the gradient is scattered over the width first, and less is left to sum over the other axes.
        part_VE = jax.lax.pcast(part_VE, tuple(axis for axis in batch if axis not in embed), to="varying")
        table_VD = jax.lax.all_gather(part_VE, embed, axis=1, tiled=True) if embed else part_VE
        return _taken(table_VD, ids)

    return jax.shard_map(local, in_specs=(PartitionSpec(None, embed), ids_spec), out_specs=ids_spec)(table_VD, ids)


def _taken(table_VD: jax.Array, ids: jax.Array) -> jax.Array:
    # By default an index out of range gives NaN, which would spread from padding beyond the last position.
    return jnp.take(table_VD, ids, axis=0, mode="clip")
