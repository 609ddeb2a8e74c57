"""The loops of chunked attention over blocks: outputs with their log-sums, and gradients.

For each block of queries the softmax is accumulated over key blocks with a running maximum and sum
(Milakov & Gimelshein 2018), and the backward pass recomputes each block's weights from the stored
log-sum-exp instead of keeping them (FlashAttention, Dao et al. 2022, algorithms 1 and 4).

Within a block, T and S are the numbers of its queries and keys; of the whole arrays, S is the number of all keys.

Axes: Q blocks of queries.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from lmjax.kernels.attention.key_blocks import KeyBlock, KeyBlocks
from lmjax.kernels.attention.position_bias import PositionBias
from lmjax.kernels.attention.weight_dropout import is_kept


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings that are known when the loops are compiled.

    Attributes:
      scale: factor on the logits.
      softcap: bound on the magnitude of the logits.
      dropout_rate: share of weights dropped.
      query_block: number of queries computed at a time.
      key_block: number of keys computed at a time.
    """

    scale: float
    softcap: float | None
    dropout_rate: float
    query_block: int
    key_block: int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class QueryRows:
    """For each query block: the intervals its queries see, their positions, and the words that decide what is dropped.

    The batch axis of the first three arrays has size 1 or B. Only a position bias reads the positions.
    """

    start_QBT: jax.Array
    end_QBT: jax.Array
    index_QBT: jax.Array | None = None
    words_QBTN: jax.Array | None = None


def split(array: jax.Array, size: int) -> jax.Array:
    """Cuts the second axis into blocks, fills the last one with zeros, and puts the axis of blocks first."""
    padded = _pad(array, size)
    return jnp.moveaxis(padded.reshape(padded.shape[0], -1, size, *padded.shape[2:]), 1, 0)


def query_blocks(array_BTNH: jax.Array, num_kv_heads: int, size: int) -> jax.Array:
    """Converts [B, T, N, H] to [Q, B, K, G, T, H] with blocks of ``size``."""
    array_QBTNH = split(array_BTNH, size)
    array_QBTKGH = array_QBTNH.reshape(*array_QBTNH.shape[:3], num_kv_heads, -1, array_BTNH.shape[-1])
    return array_QBTKGH.transpose(0, 1, 3, 4, 2, 5)


def from_query_blocks(array_QBKGTH: jax.Array, length: int) -> jax.Array:
    """Converts [Q, B, K, G, T, H] to [B, T, N, H] with T of ``length``."""
    _, batch, num_kv_heads, groups, _, width = array_QBKGTH.shape
    array_BQTKGH = array_QBKGTH.transpose(1, 0, 4, 2, 3, 5)
    return array_BQTKGH.reshape(batch, -1, num_kv_heads * groups, width)[:, :length]


def key_heads(array_BSKH: jax.Array, size: int) -> jax.Array:
    """Converts [B, S, K, H] to [B, K, S, H], with zeros up to a multiple of ``size``."""
    return _pad(array_BSKH, size).transpose(0, 2, 1, 3)


def from_key_heads(array_BKSH: jax.Array, length: int) -> jax.Array:
    """Converts [B, K, S, H] to [B, S, K, H] with S of ``length``."""
    return array_BKSH.transpose(0, 2, 1, 3)[:, :length]


def _pad(array: jax.Array, multiple: int) -> jax.Array:
    missing = -array.shape[1] % multiple
    return jnp.pad(array, [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2)) if missing else array


def forward(
    plan: Plan,
    query_QBKGTH: jax.Array,
    key_BKSH: jax.Array,
    value_BKSH: jax.Array,
    position_bias: PositionBias | None,
    sinks_KG: jax.Array | None,
    rows: QueryRows,
) -> tuple[jax.Array, jax.Array]:
    """Returns the output [Q, B, K, G, T, H] in the query's dtype, and the log-sums [Q, B, K, G, T] in float32.

    The log-sum of a query that sees no key is 0.

    Args:
      plan: the settings.
      query_QBKGTH: queries, by block.
      key_BKSH: keys; S is a multiple of ``plan.key_block``.
      value_BKSH: values; their width may differ from the keys'.
      position_bias: added to the logits.
      sinks_KG: float32, one more logit for each head, without a value.
      rows: what the queries see.
    """

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

    return lax.map(attend_query_block, (query_QBKGTH, rows))


def gradients(
    plan: Plan,
    query_QBKGTH: jax.Array,
    key_BKSH: jax.Array,
    value_BKSH: jax.Array,
    position_bias: PositionBias | None,
    sinks_KG: jax.Array | None,
    rows: QueryRows,
    *,
    log_sum_QBKGT: jax.Array,
    mean_QBKGT: jax.Array,
    grad_output_QBKGTH: jax.Array,
) -> tuple:
    """Returns the gradients of queries (in their dtype), keys, values, bias and sinks (in float32).

    Where the log-sums are those of more keys than are given, these are the parts of the gradients that come from the
    given keys.

    Args:
      plan: the settings; this and the next six arguments are those of :func:`forward`.
      query_QBKGTH: queries.
      key_BKSH: keys.
      value_BKSH: values.
      position_bias: added to the logits.
      sinks_KG: one more logit for each head.
      rows: what the queries see.
      log_sum_QBKGT: the log-sums that :func:`forward` returned.
      mean_QBKGT: float32, for each query the sum of its output times the output's gradient.
      grad_output_QBKGTH: gradient of the output.
    """

    def query_block_gradients(carry, operands):
        query_BKGTH, row, log_sum_BKGT, mean_BKGT, grad_output_BKGTH = operands
        walk = _walk(plan, row, key_BKSH)
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
            # d logits = weights * (d weights - Σ weights * d weights), and that sum equals output . d output.
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
    operands = (query_QBKGTH, rows, log_sum_QBKGT, mean_QBKGT, grad_output_QBKGTH)
    totals, grad_query_QBKGTH = lax.scan(query_block_gradients, zeros, operands)
    return grad_query_QBKGTH, *totals


def _walk(plan: Plan, row: QueryRows, key_BKSH: jax.Array) -> KeyBlocks:
    return KeyBlocks(start_BT=row.start_QBT, end_BT=row.end_QBT, num_keys=key_BKSH.shape[2], size=plan.key_block)


def _matmul(subscripts: str, left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, left, right, preferred_element_type=jnp.float32)


def _scores(plan: Plan, query_BKGTH: jax.Array, key_BKSH: jax.Array) -> jax.Array:
    return _matmul("bkgth,bksh->bkgts", query_BKGTH, key_BKSH) * plan.scale


def _logits(plan: Plan, row: QueryRows, at: KeyBlock, scores_BKGTS: jax.Array, position_bias) -> jax.Array:
    if plan.softcap is not None:
        scores_BKGTS = plan.softcap * jnp.tanh(scores_BKGTS / plan.softcap)
    if position_bias is None:
        return scores_BKGTS
    bias_BNTS = position_bias.block(row.index_QBT, at.index_BS).astype(jnp.float32)
    return scores_BKGTS + bias_BNTS.reshape(bias_BNTS.shape[0], *scores_BKGTS.shape[1:])


def _hide(at: KeyBlock, logits_BKGTS: jax.Array) -> jax.Array:
    return jnp.where(at.visible_BTS[:, None, None], logits_BKGTS, -jnp.inf)


def _drop(plan: Plan, row: QueryRows, at: KeyBlock, weights_BKGTS: jax.Array) -> jax.Array:
    """Returns the weights with dropout, equal in the forward and the backward pass."""
    if row.words_QBTN is None:
        return weights_BKGTS
    words_BKGT = row.words_QBTN.transpose(0, 2, 1).reshape(weights_BKGTS.shape[:-1])
    kept_BKGTS = is_kept(words_BKGT[..., None], at.index_BS[:, None, None, None, :], plan.dropout_rate)
    return jnp.where(kept_BKGTS, weights_BKGTS / (1 - plan.dropout_rate), 0.0)
