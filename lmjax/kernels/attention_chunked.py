"""Attention block by block: no [T, S] array, and key blocks that no query of a block sees are skipped.

For each block of queries the softmax is accumulated over key blocks with a running maximum and sum
(Milakov & Gimelshein 2018), and the backward pass recomputes each block's weights from the stored
log-sum-exp instead of keeping them (FlashAttention, Dao et al. 2022, algorithms 1 and 4). As a mask
is one interval a query, the key blocks of a query block are a contiguous range, which each row of
the batch walks from its own first block.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from lmjax.kernels.position_bias import PositionBias
from lmjax.masks import IntervalMask
from lmjax.parallel.mesh import partition_spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Plan:
    """Everything static."""

    scale: float
    softcap: float | None
    dropout_rate: float
    query_block: int
    key_block: int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rows:
    """Where each query stands and what it sees (the leading axis is 1 or B), and the dropout keys."""

    start_BT: jax.Array
    end_BT: jax.Array
    index_BT: jax.Array
    dropout_keys_BN: jax.Array | None


def chunked_attention(
    query_BTNH: jax.Array,
    key_BSKH: jax.Array,
    value_BSKH: jax.Array,
    mask: IntervalMask,
    *,
    scale: float,
    softcap: float | None = None,
    position_bias: PositionBias | None = None,
    query_index_BT: jax.Array,
    dropout_rate: float = 0.0,
    key: jax.Array | None = None,
    query_block: int = 256,
    key_block: int = 256,
) -> jax.Array:
    """See :func:`lmjax.kernels.attention.attend`.

    On a mesh that is set, each device works through its own batch rows and heads, where the mesh
    divides them. Dropout depends on ``key``, row, head and the block sizes, and not on the mesh.

    Args:
      query_block: queries worked on at a time.
      key_block: keys worked on at a time; what is skipped is skipped in units of this.
    """
    batch, num_queries, num_heads, _ = query_BTNH.shape
    num_keys = key_BSKH.shape[1]
    plan = _Plan(
        scale=scale,
        softcap=softcap,
        dropout_rate=dropout_rate,
        query_block=min(query_block, num_queries),
        key_block=min(key_block, num_keys),
    )
    start_BT, end_BT = jnp.broadcast_arrays(jnp.maximum(mask.start_BT, 0), jnp.minimum(mask.end_BT, num_keys))
    rows = _Rows(
        start_BT=start_BT,
        end_BT=end_BT,
        index_BT=query_index_BT,
        dropout_keys_BN=jax.random.split(key, (batch, num_heads)) if dropout_rate > 0 else None,
    )
    local = functools.partial(_local_attention, plan)
    return _over_mesh(local, query_BTNH, key_BSKH, value_BSKH, position_bias, rows)


def _over_mesh(attention, query_BTNH, key_BSKH, value_BSKH, position_bias, rows: _Rows) -> jax.Array:
    """``attention`` on each device's own rows and heads: its loop lengths then need no agreement."""
    mesh = jax.sharding.get_abstract_mesh()
    operands = (query_BTNH, key_BSKH, value_BSKH, position_bias, rows)
    if mesh.empty or mesh.size == 1 or mesh.manual_axes:
        return attention(*operands)
    batch, _, num_kv_heads, _ = key_BSKH.shape
    axes = ("batch", None, "kv_heads", None)
    key_spec = partition_spec(axes, key_BSKH.shape, mesh)
    # One key-value head serves all query heads, however those are split.
    query_spec = partition_spec(axes, query_BTNH.shape, mesh) if num_kv_heads == 1 else key_spec
    rows_axes, _, heads_axes, _ = query_spec

    def row_spec(array):
        return PartitionSpec(rows_axes if array.shape[0] == batch else None, None)

    specs = (
        query_spec,
        key_spec,
        key_spec,
        jax.tree.map(lambda leaf: PartitionSpec(*(None,) * (leaf.ndim - 1), heads_axes), position_bias),
        _Rows(
            start_BT=row_spec(rows.start_BT),
            end_BT=row_spec(rows.end_BT),
            index_BT=row_spec(rows.index_BT),
            dropout_keys_BN=PartitionSpec(rows_axes, heads_axes) if rows.dropout_keys_BN is not None else None,
        ),
    )
    # Without vma checks the transpose sums the gradients of what is replicated, as it must here.
    return jax.shard_map(attention, in_specs=specs, out_specs=query_spec, check_vma=False)(*operands)


def _local_attention(plan: _Plan, query_BTNH, key_BSKH, value_BSKH, position_bias, rows: _Rows) -> jax.Array:
    """Brings operands to whole blocks, heads before positions, and the output back."""
    batch, num_queries, num_heads, width = query_BTNH.shape
    num_kv_heads = key_BSKH.shape[2]
    query_BTKGH = query_BTNH.reshape(batch, num_queries, num_kv_heads, num_heads // num_kv_heads, width)
    query_BKGTH = _pad(query_BTKGH, 1, plan.query_block).transpose(0, 2, 3, 1, 4)
    key_BKSH = _pad(key_BSKH, 1, plan.key_block).transpose(0, 2, 1, 3)
    value_BKSH = _pad(value_BSKH, 1, plan.key_block).transpose(0, 2, 1, 3)
    # Padding gives the added queries the empty interval [0, 0).
    positions = {name: _pad(getattr(rows, name), 1, plan.query_block) for name in ("start_BT", "end_BT", "index_BT")}
    padded_rows = dataclasses.replace(rows, **positions)
    output_BKGTH = _attention(plan, query_BKGTH, key_BKSH, value_BKSH, position_bias, padded_rows)
    output_BTNH = output_BKGTH.transpose(0, 3, 1, 2, 4).reshape(batch, -1, num_heads, width)
    return output_BTNH[:, :num_queries]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(plan, query_BKGTH, key_BKSH, value_BKSH, position_bias, rows):
    return _attention_forward(plan, query_BKGTH, key_BKSH, value_BKSH, position_bias, rows)[0]


def _attention_forward(plan, query_BKGTH, key_BKSH, value_BKSH, position_bias, rows):
    """For each query block, the online softmax over the key blocks it sees."""

    def query_block_output(operands):
        query_BKGTH, query_rows = operands
        blocks = _KeyBlocks.of(plan, query_rows, key_BKSH.shape[2])

        def add_key_block(step, carry):
            total_BKGTH, sum_BKGT, max_BKGT = carry
            at = blocks.at(step)
            key_block_BKSH, value_block_BKSH = at.take(key_BKSH), at.take(value_BKSH)
            scores_BKGTS = _scores(plan, query_BKGTH, key_block_BKSH)
            logits_BKGTS = _logits(plan, query_rows, at, scores_BKGTS, position_bias)
            logits_BKGTS = jnp.where(at.visible_B11TS, logits_BKGTS, -jnp.inf)
            new_max_BKGT = jnp.maximum(max_BKGT, logits_BKGTS.max(axis=-1))
            # Queries that have seen no key yet have a maximum of -inf, and -inf - -inf is no number.
            finite_max_BKGT = jnp.where(new_max_BKGT == -jnp.inf, 0.0, new_max_BKGT)
            weights_BKGTS = jnp.exp(logits_BKGTS - finite_max_BKGT[..., None])
            decay_BKGT = jnp.exp(max_BKGT - finite_max_BKGT)
            sum_BKGT = sum_BKGT * decay_BKGT + weights_BKGTS.sum(axis=-1)
            kept_BKGTS = _drop(plan, query_rows, at, weights_BKGTS)
            added_BKGTH = _matmul("bkgts,bksh->bkgth", kept_BKGTS.astype(value_BKSH.dtype), value_block_BKSH)
            return total_BKGTH * decay_BKGT[..., None] + added_BKGTH, sum_BKGT, new_max_BKGT

        total_BKGTH = jnp.zeros(query_BKGTH.shape, jnp.float32)
        sum_BKGT = jnp.zeros(query_BKGTH.shape[:-1], jnp.float32)
        carry = (total_BKGTH, sum_BKGT, jnp.full_like(sum_BKGT, -jnp.inf))
        total_BKGTH, sum_BKGT, max_BKGT = lax.fori_loop(0, blocks.num_steps, add_key_block, carry)
        # Queries that see no key have total 0 and sum 0: output 0, and any finite log-sum-exp will do.
        sees_key_BKGT = sum_BKGT > 0
        sum_BKGT = jnp.where(sees_key_BKGT, sum_BKGT, 1.0)
        log_sum_BKGT = jnp.where(sees_key_BKGT, max_BKGT, 0.0) + jnp.log(sum_BKGT)
        return (total_BKGTH / sum_BKGT[..., None]).astype(query_BKGTH.dtype), log_sum_BKGT

    query_blocks = _split(query_BKGTH, 3, plan.query_block)
    row_blocks = _split_rows(rows, plan.query_block)
    output_blocks, log_sum_blocks = lax.map(query_block_output, (query_blocks, row_blocks))
    output_BKGTH = _join(output_blocks, 3)
    residuals = (query_BKGTH, key_BKSH, value_BKSH, position_bias, rows, output_BKGTH, log_sum_blocks)
    return output_BKGTH, residuals


def _attention_backward(plan, residuals, grad_output_BKGTH):
    """The same walk; weights are recomputed from the stored log-sum-exp."""
    query_BKGTH, key_BKSH, value_BKSH, position_bias, rows, output_BKGTH, log_sum_blocks = residuals
    # softmax's gradient is weights * (d weights - Σ weights * d weights), and that sum is output . d output.
    product_BKGTH = output_BKGTH.astype(jnp.float32) * grad_output_BKGTH.astype(jnp.float32)
    mean_BKGT = product_BKGTH.sum(axis=-1)

    def query_block_gradients(carry, operands):
        query_BKGTH, grad_output_BKGTH, log_sum_BKGT, mean_BKGT, query_rows = operands
        blocks = _KeyBlocks.of(plan, query_rows, key_BKSH.shape[2])

        def add_key_block(step, carry):
            grad_query_BKGTH, grad_key_BKSH, grad_value_BKSH, grad_bias = carry
            at = blocks.at(step)
            key_block_BKSH, value_block_BKSH = at.take(key_BKSH), at.take(value_BKSH)
            scores_BKGTS = _scores(plan, query_BKGTH, key_block_BKSH)
            logits_BKGTS, pull_back = jax.vjp(
                functools.partial(_logits, plan, query_rows, at), scores_BKGTS, position_bias
            )
            logits_BKGTS = jnp.where(at.visible_B11TS, logits_BKGTS, -jnp.inf)
            weights_BKGTS = jnp.exp(logits_BKGTS - log_sum_BKGT[..., None])
            kept_BKGTS = _drop(plan, query_rows, at, weights_BKGTS).astype(value_BKSH.dtype)
            grad_value_block_BKSH = _matmul("bkgts,bkgth->bksh", kept_BKGTS, grad_output_BKGTH)
            grad_kept_BKGTS = _matmul("bkgth,bksh->bkgts", grad_output_BKGTH, value_block_BKSH)
            grad_weights_BKGTS = _drop(plan, query_rows, at, grad_kept_BKGTS)
            grad_logits_BKGTS = weights_BKGTS * (grad_weights_BKGTS - mean_BKGT[..., None])
            grad_scores_BKGTS, grad_bias_block = pull_back(grad_logits_BKGTS)
            grad_scores_BKGTS = (grad_scores_BKGTS * plan.scale).astype(query_BKGTH.dtype)
            grad_key_block_BKSH = _matmul("bkgts,bkgth->bksh", grad_scores_BKGTS, query_BKGTH)
            return (
                grad_query_BKGTH + _matmul("bkgts,bksh->bkgth", grad_scores_BKGTS, key_block_BKSH),
                at.add(grad_key_BKSH, grad_key_block_BKSH),
                at.add(grad_value_BKSH, grad_value_block_BKSH),
                jax.tree.map(jnp.add, grad_bias, grad_bias_block),
            )

        grad_query_BKGTH = jnp.zeros(query_BKGTH.shape, jnp.float32)
        grad_query_BKGTH, *carry = lax.fori_loop(0, blocks.num_steps, add_key_block, (grad_query_BKGTH, *carry))
        return tuple(carry), grad_query_BKGTH.astype(query_BKGTH.dtype)

    zeros = (
        jnp.zeros(key_BKSH.shape, jnp.float32),
        jnp.zeros(value_BKSH.shape, jnp.float32),
        jax.tree.map(jnp.zeros_like, position_bias),
    )
    operands = (
        _split(query_BKGTH, 3, plan.query_block),
        _split(grad_output_BKGTH, 3, plan.query_block),
        log_sum_blocks,
        _split(mean_BKGT, 3, plan.query_block),
        _split_rows(rows, plan.query_block),
    )
    (grad_key_BKSH, grad_value_BKSH, grad_bias), grad_query_blocks = lax.scan(query_block_gradients, zeros, operands)
    return (
        _join(grad_query_blocks, 3),
        grad_key_BKSH.astype(key_BKSH.dtype),
        grad_value_BKSH.astype(value_BKSH.dtype),
        grad_bias,
        None,
    )


_attention.defvjp(_attention_forward, _attention_backward)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class _QueryRows:
    """:class:`_Rows` of one query block, and the block's number."""

    start_BT: jax.Array
    end_BT: jax.Array
    index_BT: jax.Array
    number: jax.Array
    dropout_keys_BN: jax.Array | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _KeyBlocks:
    """The key blocks that one query block sees: in each row, ``num_steps`` from ``first_B``."""

    plan: _Plan
    rows: _QueryRows
    num_keys: int
    first_B: jax.Array
    num_steps: jax.Array

    @classmethod
    def of(cls, plan: _Plan, rows: _QueryRows, num_keys: int) -> "_KeyBlocks":
        sees_key_BT = rows.start_BT < rows.end_BT
        first_key_B = jnp.where(sees_key_BT, rows.start_BT, num_keys).min(axis=1)
        end_key_B = jnp.where(sees_key_BT, rows.end_BT, 0).max(axis=1)
        first_B = first_key_B // plan.key_block
        num_steps = jnp.max(-(-end_key_B // plan.key_block) - first_B)
        return cls(plan=plan, rows=rows, num_keys=num_keys, first_B=first_B, num_steps=num_steps)

    def at(self, step) -> "_KeyBlock":
        block_B = self.first_B + step
        offset_B = block_B * self.plan.key_block
        index_BS = offset_B[:, None] + jnp.arange(self.plan.key_block, dtype=jnp.int32)[None, :]
        visible_BTS = (self.rows.start_BT[:, :, None] <= index_BS[:, None]) & (
            index_BS[:, None] < self.rows.end_BT[:, :, None]
        )
        # A row that has no block left for this step takes its last one again, all of it invisible.
        offset_B = jnp.minimum(offset_B, self.num_keys - self.plan.key_block)
        return _KeyBlock(
            size=self.plan.key_block,
            number_B=block_B,
            offset_B=offset_B,
            index_BS=index_BS,
            visible_B11TS=visible_BTS[:, None, None],
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _KeyBlock:
    """One step of the walk: a block of keys for each row, or (leading axis 1) the same one for all."""

    size: int
    number_B: jax.Array
    offset_B: jax.Array
    index_BS: jax.Array
    visible_B11TS: jax.Array

    def take(self, array_BKSH: jax.Array) -> jax.Array:
        if self.offset_B.shape[0] == 1:
            return lax.dynamic_slice_in_dim(array_BKSH, self.offset_B[0], self.size, axis=2)
        return jax.vmap(lambda row_KSH, at: lax.dynamic_slice_in_dim(row_KSH, at, self.size, axis=1))(
            array_BKSH, self.offset_B
        )

    def add(self, array_BKSH: jax.Array, block_BKSH: jax.Array) -> jax.Array:
        total_BKSH = self.take(array_BKSH) + block_BKSH
        if self.offset_B.shape[0] == 1:
            return lax.dynamic_update_slice_in_dim(array_BKSH, total_BKSH, self.offset_B[0], axis=2)
        return jax.vmap(functools.partial(lax.dynamic_update_slice_in_dim, axis=1))(
            array_BKSH, total_BKSH, self.offset_B
        )


def _matmul(subscripts: str, left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, left, right, preferred_element_type=jnp.float32)


def _scores(plan: _Plan, query_BKGTH, key_BKSH) -> jax.Array:
    return _matmul("bkgth,bksh->bkgts", query_BKGTH, key_BKSH) * plan.scale


def _logits(plan: _Plan, rows: _QueryRows, at: _KeyBlock, scores_BKGTS, position_bias) -> jax.Array:
    if plan.softcap is not None:
        scores_BKGTS = plan.softcap * jnp.tanh(scores_BKGTS / plan.softcap)
    if position_bias is None:
        return scores_BKGTS
    bias_BNTS = position_bias.block(rows.index_BT, at.index_BS).astype(jnp.float32)
    return scores_BKGTS + bias_BNTS.reshape(bias_BNTS.shape[0], *scores_BKGTS.shape[1:])


def _drop(plan: _Plan, rows: _QueryRows, at: _KeyBlock, weights_BKGTS: jax.Array) -> jax.Array:
    """Dropout that forward and backward pass repeat: each (row, head, query block, key block) has a key."""
    if plan.dropout_rate == 0:
        return weights_BKGTS
    batch, num_kv_heads, groups, *block = weights_BKGTS.shape
    assert rows.dropout_keys_BN is not None

    def kept(key, number):
        key = jax.random.fold_in(jax.random.fold_in(key, rows.number), number)
        return jax.random.bernoulli(key, 1 - plan.dropout_rate, tuple(block))

    number_B = jnp.broadcast_to(at.number_B, (batch,))
    kept_BNTS = jax.vmap(jax.vmap(kept, in_axes=(0, None)))(rows.dropout_keys_BN, number_B)
    kept_BKGTS = kept_BNTS.reshape(batch, num_kv_heads, groups, *block)
    return jnp.where(kept_BKGTS, weights_BKGTS / (1 - plan.dropout_rate), 0.0)


def _pad(array: jax.Array, axis: int, multiple: int) -> jax.Array:
    missing = -array.shape[axis] % multiple
    return jnp.pad(array, [(0, missing if i == axis else 0) for i in range(array.ndim)]) if missing else array


def _split(array: jax.Array, axis: int, size: int) -> jax.Array:
    """Cuts an axis into blocks, and brings the block number to the front."""
    blocks = array.reshape(*array.shape[:axis], -1, size, *array.shape[axis + 1 :])
    return jnp.moveaxis(blocks, axis, 0)


def _join(blocks: jax.Array, axis: int) -> jax.Array:
    array = jnp.moveaxis(blocks, 0, axis)
    return array.reshape(*array.shape[:axis], -1, *array.shape[axis + 2 :])


def _split_rows(rows: _Rows, size: int) -> _QueryRows:
    start_blocks, end_blocks, index_blocks = (
        _split(array_BT, 1, size) for array_BT in (rows.start_BT, rows.end_BT, rows.index_BT)
    )
    num_blocks = start_blocks.shape[0]
    keys_BN = rows.dropout_keys_BN
    return _QueryRows(
        start_BT=start_blocks,
        end_BT=end_blocks,
        index_BT=index_blocks,
        number=jnp.arange(num_blocks, dtype=jnp.int32),
        dropout_keys_BN=None if keys_BN is None else jnp.broadcast_to(keys_BN, (num_blocks, *keys_BN.shape)),
    )
