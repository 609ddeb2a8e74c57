"""Attention kernels on a mesh: each device computes its own rows and heads, and perhaps a part of long rows."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from lmjax.masks import IntervalMask
from lmjax.parallel.mesh import partition_spec


def on_mesh(
    local: Callable,
    query_BTNH: jax.Array,
    key_BSKH: jax.Array,
    value_BSKH: jax.Array,
    mask: IntervalMask,
    *by_head: Any,
    words_BTN: jax.Array | None = None,
    splits_length: bool,
    splits_keys: bool = False,
) -> jax.Array:
    """Returns ``local(query, key, value, start_BT, end_BT, *by_head, words_BTN)`` [B, T, N, H], computed part by part.

    If a mesh is set, ``local`` is called on each device with its own batch rows and heads, where the mesh divides them.

    Args:
      local: the attention of one device.
      query_BTNH: queries.
      key_BSKH: keys.
      value_BSKH: values.
      mask: which keys each query sees; its bounds are brought into [0, S].
      *by_head: pytrees of arrays with the query heads on their last axis.
      words_BTN: a number for each query and head; if it is None, ``local`` has one argument less.
      splits_length: whether a device may also be given a part of the queries of long rows, with all their keys.
      splits_keys: whether it is then given only the keys of its own part.
    """
    batch, num_queries = query_BTNH.shape[:2]
    num_keys, num_kv_heads = key_BSKH.shape[1:3]
    start_BT, end_BT = jnp.broadcast_arrays(jnp.maximum(mask.start_BT, 0), jnp.minimum(mask.end_BT, num_keys))
    words = () if words_BTN is None else (words_BTN,)
    operands = (query_BTNH, key_BSKH, value_BSKH, start_BT, end_BT, *by_head, *words)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or mesh.manual_axes:
        return local(*operands)
    key_spec = partition_spec(("batch", "length" if splits_keys else None, "kv_heads", None), key_BSKH.shape, mesh)
    # One key-value head serves all query heads, however the query heads are split.
    head_of = query_BTNH if num_kv_heads == 1 else key_BSKH
    rows_axes, _, heads_axes, _ = partition_spec(("batch", None, "kv_heads", None), head_of.shape, mesh)
    length_axes = partition_spec(("length",), (num_queries,), mesh)[0] if splits_length else None
    query_spec = PartitionSpec(rows_axes, length_axes, heads_axes, None)
    bound_spec = PartitionSpec(rows_axes if start_BT.shape[0] == batch else None, length_axes)
    by_head_specs = jax.tree.map(lambda leaf: PartitionSpec(*(None,) * (leaf.ndim - 1), heads_axes), by_head)
    words_specs = (PartitionSpec(rows_axes, length_axes, heads_axes),) * len(words)
    specs = (query_spec, key_spec, key_spec, bound_spec, bound_spec, *by_head_specs, *words_specs)
    # Without vma checks the transpose sums the gradients of replicated operands, which is needed here.
    # All axes are manual, also those of size 1: Mosaic compiles a kernel only if all are.
    return jax.shard_map(local, in_specs=specs, out_specs=query_spec, check_vma=False)(*operands)
