"""Attention block by block: it makes no [T, S] array, and skips key blocks that no query of a block sees.

The loops are in :mod:`~lmjax.kernels.attention.chunked_blocks`. This module divides the work over the devices of a
mesh, and defines the gradient.

Axes: Q blocks of queries.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from lmjax.kernels.attention.chunked_blocks import (
    Plan,
    QueryRows,
    forward,
    from_query_blocks,
    gradients,
    key_heads,
    query_blocks,
    split,
)
from lmjax.kernels.attention.position_bias import PositionBias
from lmjax.kernels.attention.weight_dropout import query_words
from lmjax.masks import IntervalMask
from lmjax.parallel.mesh import partition_spec, ways


def chunked_attention(
    query_BTNH: jax.Array,
    key_BSKH: jax.Array,
    value_BSKH: jax.Array,
    mask: IntervalMask,
    *,
    scale: float,
    softcap: float | None = None,
    position_bias: PositionBias | None = None,
    sinks_N: jax.Array | None = None,
    query_index_BT: jax.Array,
    dropout_rate: float = 0.0,
    key: jax.Array | None = None,
    query_block: int = 128,
    key_block: int = 128,
) -> jax.Array:
    """Returns the attention output [B, T, N, H]; see :func:`lmjax.kernels.attention.dispatch.attend`.

    If a mesh is set, each device computes its own batch rows and heads, where the mesh divides them.

    Args:
      query_BTNH: queries. All arguments but the last two are those of ``attend``.
      key_BSKH: keys.
      value_BSKH: values.
      mask: which keys each query sees.
      scale: factor on the logits.
      softcap: bound on the magnitude of the logits.
      position_bias: added to the logits.
      sinks_N: one more logit for each head, without a value.
      query_index_BT: position of each query among the keys.
      dropout_rate: share of weights dropped.
      key: PRNG key, needed when ``dropout_rate`` is not 0.
      query_block: number of queries computed at a time.
      key_block: number of keys computed at a time; keys are skipped in units of this.
    """
    batch, num_queries, num_heads, _ = query_BTNH.shape
    num_keys = key_BSKH.shape[1]
    plan = Plan(
        scale=scale,
        softcap=softcap,
        dropout_rate=dropout_rate,
        query_block=min(query_block, num_queries // ways("length", num_queries)),
        key_block=min(key_block, num_keys),
    )
    start_BT, end_BT = jnp.broadcast_arrays(jnp.maximum(mask.start_BT, 0), jnp.minimum(mask.end_BT, num_keys))
    # Padding gives the added queries the empty interval [0, 0).
    start_QBT, end_QBT, index_QBT = (
        split(bound_BT, plan.query_block) for bound_BT in (start_BT, end_BT, query_index_BT)
    )
    words_QBTN = None
    if key is not None and dropout_rate > 0:
        words_QBTN = split(query_words(key, batch, num_queries, num_heads), plan.query_block)
    rows = QueryRows(start_QBT=start_QBT, end_QBT=end_QBT, index_QBT=index_QBT, words_QBTN=words_QBTN)
    local = functools.partial(_local_attention, plan)
    return _over_mesh(local, query_BTNH, key_BSKH, value_BSKH, (position_bias, sinks_N), rows)


def _over_mesh(attention, query_BTNH, key_BSKH, value_BSKH, by_head, rows: QueryRows) -> jax.Array:
    """Returns the output of ``attention``, run on each device with its own rows and heads.

    Devices may then run loops of different lengths.
    """
    mesh = jax.sharding.get_abstract_mesh()
    operands = (query_BTNH, key_BSKH, value_BSKH, by_head, rows)
    if mesh.empty or mesh.size == 1 or mesh.manual_axes:
        return attention(*operands)
    batch, _, num_kv_heads, _ = key_BSKH.shape
    axes = ("batch", None, "kv_heads", None)
    key_spec = partition_spec(axes, key_BSKH.shape, mesh)
    # One key-value head serves all query heads, however the query heads are split.
    rows_axes, _, heads_axes, _ = partition_spec(axes, query_BTNH.shape, mesh) if num_kv_heads == 1 else key_spec
    # Where several devices share a row, each has whole blocks of its queries, and all of its keys.
    num_blocks, _, block = rows.start_QBT.shape
    (length_axes,) = partition_spec(("length",), (num_blocks,), mesh)
    length_axes = length_axes if num_blocks * block == query_BTNH.shape[1] else None
    query_spec = PartitionSpec(rows_axes, length_axes, heads_axes, None)

    def rows_spec(array_QBT: jax.Array) -> PartitionSpec:
        return PartitionSpec(length_axes, rows_axes if array_QBT.shape[1] == batch else None, None)

    rows_specs = jax.tree.map(rows_spec, dataclasses.replace(rows, words_QBTN=None))
    if rows.words_QBTN is not None:
        words_spec = PartitionSpec(length_axes, rows_axes, None, heads_axes)
        rows_specs = dataclasses.replace(rows_specs, words_QBTN=words_spec)
    by_head_specs = jax.tree.map(lambda leaf: PartitionSpec(*(None,) * (leaf.ndim - 1), heads_axes), by_head)
    specs = (query_spec, key_spec, key_spec, by_head_specs, rows_specs)
    # Without vma checks the transpose sums the gradients of replicated operands, which is needed here. It would also
    # sum over mesh axes of a single device, so those are not listed.
    used = {axis for axis, size in mesh.shape.items() if size > 1}
    mapped = jax.shard_map(attention, in_specs=specs, out_specs=query_spec, axis_names=used, check_vma=False)
    return mapped(*operands)


def _local_attention(plan: Plan, query_BTNH, key_BSKH, value_BSKH, by_head, rows: QueryRows) -> jax.Array:
    """Returns the output on one device.

    Queries are cut into blocks, and heads are put before positions; both are undone on the output.
    """
    num_kv_heads = key_BSKH.shape[2]
    position_bias, sinks_N = by_head
    output_QBKGTH = _attention(
        plan,
        query_blocks(query_BTNH, num_kv_heads, plan.query_block),
        key_heads(key_BSKH, plan.key_block),
        key_heads(value_BSKH, plan.key_block),
        position_bias,
        None if sinks_N is None else sinks_N.astype(jnp.float32).reshape(num_kv_heads, -1),
        rows,
    )
    return from_query_blocks(output_QBKGTH, query_BTNH.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(plan, query_QBKGTH, key_BKSH, value_BKSH, position_bias, sinks_KG, rows):
    return _attention_forward(plan, query_QBKGTH, key_BKSH, value_BKSH, position_bias, sinks_KG, rows)[0]


def _attention_forward(plan, query_QBKGTH, key_BKSH, value_BKSH, position_bias, sinks_KG, rows):
    inputs = (query_QBKGTH, key_BKSH, value_BKSH, position_bias, sinks_KG, rows)
    output_QBKGTH, log_sum_QBKGT = forward(plan, *inputs)
    # If a rematerialisation policy keeps these two arrays, the loop need not run again in the backward pass.
    output_QBKGTH = checkpoint_name(output_QBKGTH, "attention_output")
    log_sum_QBKGT = checkpoint_name(log_sum_QBKGT, "attention_log_sum")
    return output_QBKGTH, (inputs, output_QBKGTH, log_sum_QBKGT)


def _attention_backward(plan, residuals, grad_output_QBKGTH):
    inputs, output_QBKGTH, log_sum_QBKGT = residuals
    _, key_BKSH, value_BKSH, *_ = inputs
    grad_query_QBKGTH, grad_key_BKSH, grad_value_BKSH, grad_bias, grad_sinks_KG = gradients(
        plan,
        *inputs,
        log_sum_QBKGT=log_sum_QBKGT,
        mean_QBKGT=jnp.sum(output_QBKGTH.astype(jnp.float32) * grad_output_QBKGTH, axis=-1),
        grad_output_QBKGTH=grad_output_QBKGTH,
    )
    grad_key_BKSH, grad_value_BKSH = grad_key_BKSH.astype(key_BKSH.dtype), grad_value_BKSH.astype(value_BKSH.dtype)
    return grad_query_QBKGTH, grad_key_BKSH, grad_value_BKSH, grad_bias, grad_sinks_KG, None


_attention.defvjp(_attention_forward, _attention_backward)
