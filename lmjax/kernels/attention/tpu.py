"""Attention on TPUs for every interval mask, in O(T) memory, forward and backward.

The kernels are in :mod:`~lmjax.kernels.attention.tpu_forward` and :mod:`~lmjax.kernels.attention.tpu_backward`. This
module converts arrays to their layout and back, and defines the gradient.

Axes: I blocks of queries, R queries of a block times the query heads of a key-value head.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lmjax.kernels.attention.block_ranges import BlockRanges, block_ranges
from lmjax.kernels.attention.on_mesh import on_mesh
from lmjax.kernels.attention.position_bias import PositionBias
from lmjax.kernels.attention.tpu_backward import backward
from lmjax.kernels.attention.tpu_bias import by_distance
from lmjax.kernels.attention.tpu_blocks import HIDDEN, LANES, LOG2_E, Plan
from lmjax.kernels.attention.tpu_forward import forward
from lmjax.kernels.attention.weight_dropout import query_words
from lmjax.masks import IntervalMask

MOST_ROWS = 1024
"""Largest number of queries times heads in a block; the fast memory that a block needs grows with it."""
QUERY_GRADIENT_BYTES = 16 << 20
"""Most memory that the backward kernel uses for the query gradients of one key-value head.

Longer rows are computed in parts.
"""


def tpu_cannot(*, platform: str, position_bias: PositionBias | None, is_shifted: bool, width: int) -> str | None:
    """Returns the name of something in a request that the kernels do not support, or None if they support it all.

    Args:
      platform: where the attention runs.
      position_bias: what is added to the logits.
      is_shifted: whether the queries have other positions among the keys than 0, 1, 2, ...
      width: H.
    """
    if platform != "tpu":
        return f"this platform ({platform})"
    if position_bias is not None and is_shifted:
        return "a position bias of queries whose positions are given"
    if width % 16:
        return f"head width {width} (a multiple of 16 only)"
    return None


def tpu_attention(
    query_BTNH: jax.Array,
    key_BSKH: jax.Array,
    value_BSKH: jax.Array,
    mask: IntervalMask,
    *,
    scale: float,
    softcap: float | None = None,
    position_bias: PositionBias | None = None,
    sinks_N: jax.Array | None = None,
    dropout_rate: float = 0.0,
    key: jax.Array | None = None,
    query_block: int | None = None,
    key_block: int = 512,
    interpret: bool = False,
) -> jax.Array:
    """Returns the attention output [B, T, N, H]; see :func:`lmjax.kernels.attention.dispatch.attend`.

    If a mesh is set, each device computes its own batch rows and heads, and without a bias its own part of long rows,
    where the mesh divides them.

    Args:
      query_BTNH: queries. All arguments but the last three are those of ``attend``.
      key_BSKH: keys.
      value_BSKH: values.
      mask: which keys each query sees.
      scale: factor on the logits.
      softcap: bound on the magnitude of the logits.
      position_bias: added to the logits; query t has the position t among the keys.
      sinks_N: one more logit for each head, without a value.
      dropout_rate: share of weights dropped.
      key: PRNG key; None for no dropout.
      query_block: number of queries in a block; by default, so many that queries times heads make ``MOST_ROWS``.
      key_block: number of keys in a block.
      interpret: whether to run the kernels without a TPU, step by step.
    """
    (batch, num_queries, num_heads, _), (num_keys, num_kv_heads) = query_BTNH.shape, key_BSKH.shape[1:3]
    groups = num_heads // num_kv_heads
    logits_N = jnp.full((num_heads,), HIDDEN) if sinks_N is None else sinks_N.astype(jnp.float32)
    words_BTN = None
    if key is not None and dropout_rate > 0:
        words_BTN = query_words(key, batch, num_queries, num_heads)

    def local(query_BTNH, key_BSKH, value_BSKH, start_BT, end_BT, sinks_N, bias, words_BTN=None):
        plan = plan_of(
            query_BTNH.shape[1],
            num_keys,
            groups=groups,
            scale=scale,
            softcap=softcap,
            dropout_rate=0.0 if words_BTN is None else dropout_rate,
            query_block=query_block,
            key_block=key_block,
            interpret=interpret,
        )
        bias_NL = None
        if bias is not None:
            # Rows are padded to whole blocks.
            blocks = -(-query_BTNH.shape[1] // plan.query_block), -(-num_keys // plan.key_block)
            lengths = blocks[0] * plan.query_block, blocks[1] * plan.key_block
            bias_NL = by_distance(bias, num_queries=lengths[0], num_keys=lengths[1])
        return _attention(plan, query_BTNH, key_BSKH, value_BSKH, start_BT, end_BT, sinks_N, words_BTN, bias_NL)

    return on_mesh(
        local,
        query_BTNH,
        key_BSKH,
        value_BSKH,
        mask,
        logits_N,
        position_bias,
        words_BTN=words_BTN,
        # The kernels take a query's place in its block for its position.
        splits_length=position_bias is None,
    )


def plan_of(
    num_queries: int,
    num_keys: int,
    *,
    groups: int,
    scale: float,
    softcap: float | None,
    dropout_rate: float = 0.0,
    query_block: int | None = None,
    key_block: int = 512,
    interpret: bool = False,
) -> Plan:
    """Returns the settings for rows of these lengths, with ``groups`` query heads of each key-value head.

    The other arguments are those of :func:`tpu_attention`.
    """
    return Plan(
        scale=scale,
        softcap=softcap,
        dropout_rate=dropout_rate,
        query_block=query_block or _block(MOST_ROWS // groups, num_queries),
        key_block=_block(key_block, num_keys),
        interpret=interpret,
    )


def _block(wanted: int, length: int) -> int:
    """Returns a block size: a multiple of ``LANES``, near ``wanted`` and no longer than the padded row."""
    return max(min(wanted // LANES, -(-length // LANES)), 1) * LANES


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(plan: Plan, query_BTNH, key_BSKH, value_BSKH, start_BT, end_BT, sinks_N, words_BTN, bias_NL):
    return _forward(plan, query_BTNH, key_BSKH, value_BSKH, start_BT, end_BT, sinks_N, words_BTN, bias_NL)[0]


def _forward(plan: Plan, query_BTNH, key_BSKH, value_BSKH, start_BT, end_BT, sinks_N, words_BTN, bias_NL):
    num_keys, num_kv_heads = key_BSKH.shape[1:3]
    ranges, bounds = bounds_of(plan, start_BT, end_BT, num_keys, groups=len(sinks_N) // num_kv_heads)
    sinks_K1R = jnp.repeat(sinks_N.reshape(num_kv_heads, 1, -1), plan.query_block, axis=2)
    # A rematerialisation policy that saves these three need not bring them into the kernels' layout once more.
    query_BKIHR = checkpoint_name(to_blocks(query_BTNH, num_kv_heads, plan.query_block), "query")
    key_BKHS = checkpoint_name(to_lanes(key_BSKH, plan.key_block), "key")
    value_BKHS = checkpoint_name(to_lanes(value_BSKH, plan.key_block), "value")
    words_BKI1R = None if words_BTN is None else to_blocks(words_BTN[..., None], num_kv_heads, plan.query_block)
    bias_KGL = None if bias_NL is None else bias_NL.reshape(num_kv_heads, -1, bias_NL.shape[1])
    arrays = (query_BKIHR, key_BKHS, value_BKHS, *bounds, sinks_K1R, words_BKI1R, bias_KGL)
    output_BKIHR, log_sum_BKI1R = forward(plan, ranges, *arrays)
    # If a policy saves these two, the kernel need not run again in the backward pass.
    output_BTNH = checkpoint_name(from_blocks(output_BKIHR, plan.query_block, query_BTNH.shape[1]), "attention_output")
    log_sum_BKI1R = checkpoint_name(log_sum_BKI1R, "attention_log_sum")
    keys_1S = jnp.zeros((1, num_keys), jnp.bool_)  # says how many of the keys are not padding
    inputs = (query_BKIHR, key_BKHS, value_BKHS, start_BT, end_BT, sinks_N, keys_1S)
    return output_BTNH, (*inputs, words_BKI1R, bias_KGL, output_BTNH, log_sum_BKI1R)


def _backward(plan: Plan, residuals, grad_output_BTNH):
    query_BKIHR, key_BKHS, value_BKHS, start_BT, end_BT, sinks_N, keys_1S, *rest = residuals
    words_BKI1R, bias_KGL, output_BTNH, log_sum_BKI1R = rest
    num_keys, num_kv_heads = keys_1S.shape[1], key_BKHS.shape[1]
    groups = len(sinks_N) // num_kv_heads
    mean_BTN1 = jnp.sum(output_BTNH.astype(jnp.float32) * grad_output_BTNH, axis=-1, keepdims=True)
    mean_BKI1R = to_blocks(mean_BTN1, num_kv_heads, plan.query_block)
    sink_weights_BKI1R = jnp.exp2(
        sinks_N.reshape(1, num_kv_heads, 1, 1, -1, 1) * LOG2_E - _by_head(log_sum_BKI1R, groups)
    )
    grad_sinks_N = -jnp.sum(sink_weights_BKI1R * _by_head(mean_BKI1R, groups), axis=(0, 2, 3, 5)).reshape(-1)
    grad_query_BKIHR, grad_key_BKHS, grad_value_BKHS, grad_bias_KGL = gradients(
        plan,
        query_BKIHR,
        key_BKHS,
        value_BKHS,
        start_BT,
        end_BT,
        log_sum_BKI1R=log_sum_BKI1R,
        mean_BKI1R=mean_BKI1R,
        grad_output_BKIHR=to_blocks(grad_output_BTNH, num_kv_heads, plan.query_block),
        words_BKI1R=words_BKI1R,
        bias_KGL=bias_KGL,
        key_dtype=key_BKHS.dtype,
    )
    return (
        from_blocks(grad_query_BKIHR, plan.query_block, output_BTNH.shape[1]),
        from_lanes(grad_key_BKHS, num_keys),
        from_lanes(grad_value_BKHS, num_keys).astype(value_BKHS.dtype),
        None,
        None,
        grad_sinks_N,
        None,
        None if grad_bias_KGL is None else grad_bias_KGL.reshape(-1, grad_bias_KGL.shape[2]),
    )


_attention.defvjp(_forward, _backward)


def gradients(
    plan: Plan,
    query_BKIHR: jax.Array,
    key_BKHS: jax.Array,
    value_BKHS: jax.Array,
    start_BT: jax.Array,
    end_BT: jax.Array,
    *,
    log_sum_BKI1R: jax.Array,
    mean_BKI1R: jax.Array,
    grad_output_BKIHR: jax.Array,
    key_dtype: jnp.dtype,
    words_BKI1R: jax.Array | None = None,
    bias_KGL: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Returns the gradients of queries, keys and values, the last two in ``key_dtype``, and of the bias.

    Queries whose gradients do not fit in fast memory are computed in parts. Where the log-sums are those of more keys
    than are given, these are the parts of the gradients that come from the given keys.

    Args:
      plan: the static settings.
      query_BKIHR: queries, by block.
      key_BKHS: keys.
      value_BKHS: values.
      start_BT: int32, first visible key; T without padding.
      end_BT: int32, one past the last visible key.
      log_sum_BKI1R: the log-sums that the forward kernel returned.
      mean_BKI1R: float32, for each query the sum of its output times the output's gradient.
      grad_output_BKIHR: gradient of the output.
      key_dtype: dtype of the gradients of keys and values.
      words_BKI1R: int32, the words of the queries; None for no dropout.
      bias_KGL: float32, bias of each distance.
    """
    num_blocks, width, rows = query_BKIHR.shape[2:]
    ranges, bounds = bounds_of(plan, start_BT, end_BT, key_BKHS.shape[3], groups=rows // plan.query_block)
    parts = -(-num_blocks * width * rows * 4 // QUERY_GRADIENT_BYTES)
    size = -(-num_blocks // parts)
    grads_query, grads_key, grads_value = [], [], []
    grad_bias_KGL = None if bias_KGL is None else jnp.zeros_like(bias_KGL)
    for first in range(0, num_blocks, size):
        part = slice(first, min(first + size, num_blocks))
        part_bounds = bounds[0][:, part], bounds[1][:, part]
        by_query = (log_sum_BKI1R, grad_output_BKIHR, mean_BKI1R)
        # The distances from the part's first query to the last key, ..., from its last query to the first key.
        distances = slice(part.start * plan.query_block, part.stop * plan.query_block + key_BKHS.shape[3])
        grad_query, grad_key, grad_value, grad_bias = backward(
            plan,
            ranges if parts == 1 else _part_ranges(plan, part_bounds, num_keys=key_BKHS.shape[3]),
            query_BKIHR[:, :, part],
            key_BKHS,
            value_BKHS,
            *part_bounds,
            *(array[:, :, part] for array in by_query),
            words_BKI1R=None if words_BKI1R is None else words_BKI1R[:, :, part],
            bias_KGL=None if bias_KGL is None else bias_KGL[:, :, distances],
            key_dtype=key_dtype if parts == 1 else jnp.float32,
        )
        grads_query.append(grad_query)
        grads_key.append(grad_key)
        grads_value.append(grad_value)
        if grad_bias_KGL is not None and grad_bias is not None:
            grad_bias_KGL = grad_bias_KGL.at[:, :, distances].add(jnp.sum(grad_bias, axis=0))
    grad_key_BKHS, grad_value_BKHS = (sum(grads[1:], grads[0]).astype(key_dtype) for grads in (grads_key, grads_value))
    return jnp.concatenate(grads_query, axis=2), grad_key_BKHS, grad_value_BKHS, grad_bias_KGL


def bounds_of(
    plan: Plan, start_BT: jax.Array, end_BT: jax.Array, num_keys: int, *, groups: int
) -> tuple[BlockRanges, tuple[jax.Array, jax.Array]]:
    """Returns the ranges of blocks, and the bounds of each query, repeated for its heads, int32 [B, I, 1, R]."""
    # Queries that padding adds have the empty interval [0, 0).
    padded = tuple(_pad(bound_BT, plan.query_block) for bound_BT in (start_BT, end_BT))
    num_keys += -num_keys % plan.key_block
    ranges = block_ranges(*padded, num_keys=num_keys, query_block=plan.query_block, key_block=plan.key_block)
    blocks = (bound_BT.reshape(bound_BT.shape[0], -1, 1, plan.query_block) for bound_BT in padded)
    start_BI1R, end_BI1R = (jnp.tile(bound_BI1T, (1, 1, 1, groups)) for bound_BI1T in blocks)
    return ranges, (start_BI1R, end_BI1R)


def _part_ranges(plan: Plan, bounds: tuple[jax.Array, jax.Array], *, num_keys: int) -> BlockRanges:
    """Returns the ranges of a part of the query blocks, from their bounds [B, I, 1, R]."""
    start_BI1R, end_BI1R = bounds
    start_BT, end_BT = (b[:, :, 0, : plan.query_block].reshape(b.shape[0], -1) for b in (start_BI1R, end_BI1R))
    return block_ranges(start_BT, end_BT, num_keys=num_keys, query_block=plan.query_block, key_block=plan.key_block)


def _pad(array_BT: jax.Array, multiple: int) -> jax.Array:
    missing = -array_BT.shape[1] % multiple
    return jnp.pad(array_BT, [(0, 0), (0, missing)] + [(0, 0)] * (array_BT.ndim - 2)) if missing else array_BT


def to_blocks(array_BTNH: jax.Array, num_kv_heads: int, block: int) -> jax.Array:
    """Converts [B, T, N, H] to [B, K, I, H, R]."""
    padded_BTNH = _pad(array_BTNH, block)
    batch, length, num_heads, width = padded_BTNH.shape
    array_BITKGH = padded_BTNH.reshape(batch, length // block, block, num_kv_heads, num_heads // num_kv_heads, width)
    array_BKIHGT = array_BITKGH.transpose(0, 3, 1, 5, 4, 2)
    return array_BKIHGT.reshape(*array_BKIHGT.shape[:4], -1)


def from_blocks(array_BKIHR: jax.Array, block: int, length: int) -> jax.Array:
    """Converts [B, K, I, H, R] to [B, T, N, H]."""
    batch, num_kv_heads, num_blocks, width, _ = array_BKIHR.shape
    array_BKIHGT = array_BKIHR.reshape(batch, num_kv_heads, num_blocks, width, -1, block)
    array_BITKGH = array_BKIHGT.transpose(0, 2, 5, 1, 4, 3)
    return array_BITKGH.reshape(batch, num_blocks * block, -1, width)[:, :length]


def to_lanes(array_BSKH: jax.Array, block: int) -> jax.Array:
    """Converts [B, S, K, H] to [B, K, H, S]."""
    return _pad(array_BSKH, block).transpose(0, 2, 3, 1)


def from_lanes(array_BKHS: jax.Array, length: int) -> jax.Array:
    """Converts [B, K, H, S] to [B, S, K, H]."""
    return array_BKHS.transpose(0, 3, 1, 2)[:, :length]


def _by_head(array_BKI1R: jax.Array, groups: int) -> jax.Array:
    """Converts [B, K, I, 1, R] to [B, K, I, 1, G, T], where T counts the queries of a block."""
    return array_BKI1R.reshape(*array_BKI1R.shape[:4], groups, -1)
