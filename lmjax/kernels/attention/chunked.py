"""Attention block by block: it makes no [T, S] array, and skips key blocks that no query of a block sees.

For each block of queries the softmax is accumulated over key blocks with a running maximum and sum
(Milakov & Gimelshein 2018), and the backward pass recomputes each block's weights from the stored
log-sum-exp instead of keeping them (FlashAttention, Dao et al. 2022, algorithms 1 and 4).

Within a block, T and S are the numbers of its queries and keys.

Axes: Q blocks of queries.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from lmjax.kernels.attention.key_blocks import KeyBlock, KeyBlocks
from lmjax.kernels.attention.position_bias import PositionBias
from lmjax.masks import IntervalMask
from lmjax.parallel.mesh import partition_spec, ways


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Plan:
    """The settings that are known when the function is compiled; see :func:`chunked_attention`."""

    scale: float
    softcap: float | None
    dropout_rate: float
    query_block: int
    key_block: int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rows:
    """For each query block: the intervals its queries see, their positions, and the PRNG keys of their dropout.

    The batch axis of the first three arrays has size 1 or B.
    """

    start_QBT: jax.Array
    end_QBT: jax.Array
    index_QBT: jax.Array
    dropout_keys_QBN: jax.Array | None


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

    If a mesh is set, each device computes its own batch rows and heads, where the mesh divides them. Dropout depends
    on ``key``, row, head and the block sizes, but not on the mesh.

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
    plan = _Plan(
        scale=scale,
        softcap=softcap,
        dropout_rate=dropout_rate,
        query_block=min(query_block, num_queries // ways("length", num_queries)),
        key_block=min(key_block, num_keys),
    )
    start_BT, end_BT = jnp.broadcast_arrays(jnp.maximum(mask.start_BT, 0), jnp.minimum(mask.end_BT, num_keys))
    # Padding gives the added queries the empty interval [0, 0).
    start_QBT, end_QBT, index_QBT = (
        _split(bound_BT, plan.query_block) for bound_BT in (start_BT, end_BT, query_index_BT)
    )
    keys_shape = (start_QBT.shape[0], batch, num_heads)
    rows = _Rows(
        start_QBT=start_QBT,
        end_QBT=end_QBT,
        index_QBT=index_QBT,
        dropout_keys_QBN=jax.random.split(key, keys_shape) if key is not None and dropout_rate > 0 else None,
    )
    local = functools.partial(_local_attention, plan)
    return _over_mesh(local, query_BTNH, key_BSKH, value_BSKH, (position_bias, sinks_N), rows)


def _over_mesh(attention, query_BTNH, key_BSKH, value_BSKH, by_head, rows: _Rows) -> jax.Array:
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

    rows_specs = jax.tree.map(rows_spec, dataclasses.replace(rows, dropout_keys_QBN=None))
    if rows.dropout_keys_QBN is not None:
        keys_spec = PartitionSpec(length_axes, rows_axes, heads_axes)
        rows_specs = dataclasses.replace(rows_specs, dropout_keys_QBN=keys_spec)
    by_head_specs = jax.tree.map(lambda leaf: PartitionSpec(*(None,) * (leaf.ndim - 1), heads_axes), by_head)
    specs = (query_spec, key_spec, key_spec, by_head_specs, rows_specs)
    # Without vma checks the transpose sums the gradients of replicated operands, which is needed here. It would also
    # sum over mesh axes of a single device, so those are not listed.
    used = {axis for axis, size in mesh.shape.items() if size > 1}
    mapped = jax.shard_map(attention, in_specs=specs, out_specs=query_spec, axis_names=used, check_vma=False)
    return mapped(*operands)


def _local_attention(plan: _Plan, query_BTNH, key_BSKH, value_BSKH, by_head, rows: _Rows) -> jax.Array:
    """Returns the output on one device.

    Queries are cut into blocks, and heads are put before positions; both are undone on the output.
    """
    batch, num_queries, num_heads, width = query_BTNH.shape
    num_kv_heads = key_BSKH.shape[2]
    query_QBTNH = _split(query_BTNH, plan.query_block)
    query_QBTKGH = query_QBTNH.reshape(*query_QBTNH.shape[:3], num_kv_heads, -1, width)
    query_QBKGTH = query_QBTKGH.transpose(0, 1, 3, 4, 2, 5)
    key_BKSH = _pad(key_BSKH, plan.key_block).transpose(0, 2, 1, 3)
    value_BKSH = _pad(value_BSKH, plan.key_block).transpose(0, 2, 1, 3)
    position_bias, sinks_N = by_head
    sinks_KG = None if sinks_N is None else sinks_N.astype(jnp.float32).reshape(num_kv_heads, -1)
    output_QBKGTH = _attention(plan, query_QBKGTH, key_BKSH, value_BKSH, position_bias, sinks_KG, rows)
    output_BQTKGH = output_QBKGTH.transpose(1, 0, 4, 2, 3, 5)
    return output_BQTKGH.reshape(batch, -1, num_heads, value_BSKH.shape[-1])[:, :num_queries]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(plan, query_QBKGTH, key_BKSH, value_BKSH, position_bias, sinks_KG, rows):
    return _attention_forward(plan, query_QBKGTH, key_BKSH, value_BKSH, position_bias, sinks_KG, rows)[0]


def _attention_forward(plan, query_QBKGTH, key_BKSH, value_BKSH, position_bias, sinks_KG, rows):
    def attend_query_block(operands):
        query_BKGTH, row = operands
        walk = _walk(plan, row, key_BKSH)

        def add_key_block(step, carry):
            total_BKGTH, sum_BKGT, max_BKGT = carry
            at = walk.at(step)
            scores_BKGTS = _scores(plan, query_BKGTH, at.take(key_BKSH))
            logits_BKGTS = _hide(at, _logits(plan, row, at, scores_BKGTS, position_bias))
            new_max_BKGT = jnp.maximum(max_BKGT, logits_BKGTS.max(axis=-1))
            # Queries that have seen no key yet have a maximum of -inf, and -inf - -inf is NaN.
            finite_max_BKGT = jnp.where(new_max_BKGT == -jnp.inf, 0.0, new_max_BKGT)
            weights_BKGTS = jnp.exp(logits_BKGTS - finite_max_BKGT[..., None])
            decay_BKGT = jnp.exp(max_BKGT - finite_max_BKGT)
            kept_BKGTS = _drop(plan, row, at, weights_BKGTS).astype(value_BKSH.dtype)
            added_BKGTH = _matmul("bkgts,bksh->bkgth", kept_BKGTS, at.take(value_BKSH))
            total_BKGTH = total_BKGTH * decay_BKGT[..., None] + added_BKGTH
            return total_BKGTH, sum_BKGT * decay_BKGT + weights_BKGTS.sum(axis=-1), new_max_BKGT

        total_BKGTH = jnp.zeros((*query_BKGTH.shape[:-1], value_BKSH.shape[-1]), jnp.float32)
        sum_BKGT = jnp.zeros(query_BKGTH.shape[:-1], jnp.float32)
        if sinks_KG is None:
            carry = (total_BKGTH, sum_BKGT, jnp.full_like(sum_BKGT, -jnp.inf))
        else:
            # A sink acts as if every query had already seen a key with this logit and the value 0.
            carry = (total_BKGTH, sum_BKGT + 1, jnp.broadcast_to(sinks_KG[None, :, :, None], sum_BKGT.shape))
        with walk.scope():
            total_BKGTH, sum_BKGT, max_BKGT = lax.fori_loop(0, walk.num_steps, add_key_block, carry)
        # Queries that see no key have total 0 and sum 0. Their output is 0, and any finite log-sum-exp will do.
        sees_key_BKGT = sum_BKGT > 0
        sum_BKGT = jnp.where(sees_key_BKGT, sum_BKGT, 1.0)
        log_sum_BKGT = jnp.where(sees_key_BKGT, max_BKGT, 0.0) + jnp.log(sum_BKGT)
        return (total_BKGTH / sum_BKGT[..., None]).astype(query_BKGTH.dtype), log_sum_BKGT

    output_QBKGTH, log_sum_QBKGT = lax.map(attend_query_block, (query_QBKGTH, rows))
    # If a rematerialisation policy keeps these two arrays, the loop need not run again in the backward pass.
    output_QBKGTH = checkpoint_name(output_QBKGTH, "attention_output")
    log_sum_QBKGT = checkpoint_name(log_sum_QBKGT, "attention_log_sum")
    inputs = (query_QBKGTH, key_BKSH, value_BKSH, position_bias, sinks_KG, rows)
    return output_QBKGTH, (inputs, output_QBKGTH, log_sum_QBKGT)


def _attention_backward(plan, residuals, grad_output_QBKGTH):
    inputs, output_QBKGTH, log_sum_QBKGT = residuals
    query_QBKGTH, key_BKSH, value_BKSH, position_bias, sinks_KG, rows = inputs

    def query_block_gradients(carry, operands):
        query_BKGTH, row, output_BKGTH, log_sum_BKGT, grad_output_BKGTH = operands
        walk = _walk(plan, row, key_BKSH)
        # d logits = weights * (d weights - Σ weights * d weights), and that sum equals output . d output.
        mean_BKGT = _matmul("bkgth,bkgth->bkgt", output_BKGTH, grad_output_BKGTH)

        *carry, grad_sinks_KG = carry
        if sinks_KG is not None:
            sink_weights_BKGT = jnp.exp(sinks_KG[None, :, :, None] - log_sum_BKGT)
            grad_sinks_KG = grad_sinks_KG - jnp.sum(sink_weights_BKGT * mean_BKGT, axis=(0, 3))

        def add_key_block(step, carry):
            grad_query_BKGTH, grad_key_BKSH, grad_value_BKSH, grad_bias = carry
            at = walk.at(step)
            key_block_BKSH = at.take(key_BKSH)
            scores_BKGTS = _scores(plan, query_BKGTH, key_block_BKSH)
            to_logits = functools.partial(_logits, plan, row, at)
            logits_BKGTS, pull_back = jax.vjp(to_logits, scores_BKGTS, position_bias)
            weights_BKGTS = jnp.exp(_hide(at, logits_BKGTS) - log_sum_BKGT[..., None])
            kept_BKGTS = _drop(plan, row, at, weights_BKGTS).astype(value_BKSH.dtype)
            grad_kept_BKGTS = _matmul("bkgth,bksh->bkgts", grad_output_BKGTH, at.take(value_BKSH))
            grad_weights_BKGTS = _drop(plan, row, at, grad_kept_BKGTS)
            grad_scores_BKGTS, grad_bias_block = pull_back(weights_BKGTS * (grad_weights_BKGTS - mean_BKGT[..., None]))
            grad_scores_BKGTS = (grad_scores_BKGTS * plan.scale).astype(query_BKGTH.dtype)
            return (
                grad_query_BKGTH + _matmul("bkgts,bksh->bkgth", grad_scores_BKGTS, key_block_BKSH),
                at.add(grad_key_BKSH, _matmul("bkgts,bkgth->bksh", grad_scores_BKGTS, query_BKGTH)),
                at.add(grad_value_BKSH, _matmul("bkgts,bkgth->bksh", kept_BKGTS, grad_output_BKGTH)),
                jax.tree.map(jnp.add, grad_bias, grad_bias_block),
            )

        grad_query_BKGTH = jnp.zeros(query_BKGTH.shape, jnp.float32)
        with walk.scope():
            grad_query_BKGTH, *carry = lax.fori_loop(0, walk.num_steps, add_key_block, (grad_query_BKGTH, *carry))
        return (*carry, grad_sinks_KG), grad_query_BKGTH.astype(query_BKGTH.dtype)

    zeros = (
        jnp.zeros(key_BKSH.shape, jnp.float32),
        jnp.zeros(value_BKSH.shape, jnp.float32),
        jax.tree.map(jnp.zeros_like, position_bias),
        jax.tree.map(jnp.zeros_like, sinks_KG),
    )
    operands = (query_QBKGTH, rows, output_QBKGTH, log_sum_QBKGT, grad_output_QBKGTH)
    totals, grad_query_QBKGTH = lax.scan(query_block_gradients, zeros, operands)
    grad_key_BKSH, grad_value_BKSH, grad_bias, grad_sinks_KG = totals
    grad_key_BKSH, grad_value_BKSH = (
        grad_key_BKSH.astype(key_BKSH.dtype),
        grad_value_BKSH.astype(value_BKSH.dtype),
    )
    return grad_query_QBKGTH, grad_key_BKSH, grad_value_BKSH, grad_bias, grad_sinks_KG, None


_attention.defvjp(_attention_forward, _attention_backward)


def _walk(plan: _Plan, row: _Rows, key_BKSH: jax.Array) -> KeyBlocks:
    return KeyBlocks(start_BT=row.start_QBT, end_BT=row.end_QBT, num_keys=key_BKSH.shape[2], size=plan.key_block)


def _matmul(subscripts: str, left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, left, right, preferred_element_type=jnp.float32)


def _scores(plan: _Plan, query_BKGTH: jax.Array, key_BKSH: jax.Array) -> jax.Array:
    return _matmul("bkgth,bksh->bkgts", query_BKGTH, key_BKSH) * plan.scale


def _logits(plan: _Plan, row: _Rows, at: KeyBlock, scores_BKGTS: jax.Array, position_bias) -> jax.Array:
    if plan.softcap is not None:
        scores_BKGTS = plan.softcap * jnp.tanh(scores_BKGTS / plan.softcap)
    if position_bias is None:
        return scores_BKGTS
    bias_BNTS = position_bias.block(row.index_QBT, at.index_BS).astype(jnp.float32)
    return scores_BKGTS + bias_BNTS.reshape(bias_BNTS.shape[0], *scores_BKGTS.shape[1:])


def _hide(at: KeyBlock, logits_BKGTS: jax.Array) -> jax.Array:
    return jnp.where(at.visible_BTS[:, None, None], logits_BKGTS, -jnp.inf)


def _drop(plan: _Plan, row: _Rows, at: KeyBlock, weights_BKGTS: jax.Array) -> jax.Array:
    """Returns the weights with dropout, equal in the forward and the backward pass.

    The PRNG key is that of row, head and query block, folded with the number of the key block.
    """
    if row.dropout_keys_QBN is None:
        return weights_BKGTS
    batch = weights_BKGTS.shape[0]
    keep_rate, block_shape = 1 - plan.dropout_rate, weights_BKGTS.shape[-2:]

    def draw(key: jax.Array, number: jax.Array) -> jax.Array:
        return jax.random.bernoulli(jax.random.fold_in(key, number), keep_rate, block_shape)

    number_B = jnp.broadcast_to(at.number_B, (batch,))
    keep_BNTS = jax.vmap(jax.vmap(draw, in_axes=(0, None)))(row.dropout_keys_QBN, number_B)
    return jnp.where(keep_BNTS.reshape(weights_BKGTS.shape), weights_BKGTS / keep_rate, 0.0)


def _pad(array: jax.Array, multiple: int) -> jax.Array:
    missing = -array.shape[1] % multiple
    return jnp.pad(array, [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2)) if missing else array


def _split(array: jax.Array, size: int) -> jax.Array:
    """Cuts the second axis into blocks, fills the last one with zeros, and puts the axis of blocks first."""
    padded = _pad(array, size)
    return jnp.moveaxis(padded.reshape(padded.shape[0], -1, size, *padded.shape[2:]), 1, 0)
