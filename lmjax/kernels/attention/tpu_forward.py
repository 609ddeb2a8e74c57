"""The forward Pallas kernel of attention on TPUs; see :mod:`lmjax.kernels.attention.tpu_blocks`.

Axes: I blocks of queries, R queries of a block times the query heads of a key-value head.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lmjax.kernels.attention.block_ranges import BlockRanges
from lmjax.kernels.attention.tpu_bias import bias_of_block
from lmjax.kernels.attention.tpu_blocks import (
    COMPILER_PARAMS,
    LOG2_E,
    Plan,
    block_of_step,
    hide,
    kept,
    kernel_name,
    logits_of,
    product,
    row_of_mask,
)

LOWEST = -1e29
"""The first value of the running maximum: far above ``HIDDEN``, so that an invisible key always has the weight 0."""
FORWARD_LANES = 256
"""Number of columns whose softmax is computed while the matrix unit computes the logits of the next columns."""
NO_KEY = 1e30
"""The log-sum of a query that sees no key: all its weights are then 0."""


def _forward_kernel(
    plan: Plan,
    key_first_ref,
    key_last_ref,
    full_first_ref,
    full_last_ref,
    query_ref,
    key_ref,
    value_ref,
    start_ref,
    end_ref,
    sinks_ref,
    words_ref,
    bias_ref,
    output_ref,
    log_sum_ref,
    highest_ref,
    sum_ref,
    total_ref,
):
    row, block, step = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    num_blocks = pl.num_programs(3)
    mask_row = row_of_mask(row, key_first_ref)
    number = key_first_ref[mask_row, block] + step

    @pl.when(step == 0)
    def begin():
        # A sink acts as a key that is seen before all others, with this logit and the value 0.
        highest_ref[...] = jnp.maximum(sinks_ref[0] * LOG2_E, LOWEST)
        sum_ref[...] = jnp.exp2(sinks_ref[0] * LOG2_E - highest_ref[...])
        total_ref[...] = jnp.zeros_like(total_ref)

    def add_key_block(*, masked: bool) -> None:
        first_key = number * plan.key_block
        bias_SR = None if bias_ref is None else bias_of_block(plan, bias_ref, block, number, num_blocks)

        def logits_of_part(part: slice) -> jax.Array:
            logits_SR, _ = logits_of(plan, key_ref[0, 0], query_ref[0, 0, 0, :, part])
            if bias_SR is not None:
                logits_SR = logits_SR + bias_SR[:, part]
            if not masked:
                return logits_SR
            return hide(logits_SR, start_ref[0, 0, :, part], end_ref[0, 0, :, part], first_key)

        # The compiler keeps the order of this code where it can. Each part's product comes before the softmax of
        # the previous part, so that the matrix unit works while the exponentials are computed.
        parts = [slice(first, first + FORWARD_LANES) for first in range(0, query_ref.shape[4], FORWARD_LANES)]
        following, results = logits_of_part(parts[0]), []
        for index, part in enumerate(parts):
            logits_SR = following
            if index + 1 < len(parts):
                following = logits_of_part(parts[index + 1])
            highest_1R = jnp.maximum(highest_ref[:, part], logits_SR.max(axis=0, keepdims=True))
            weights_SR = jnp.exp2(logits_SR - highest_1R)
            decay_1R = jnp.exp2(highest_ref[:, part] - highest_1R)
            sum_1R = sum_ref[:, part] * decay_1R + weights_SR.sum(axis=0, keepdims=True)
            if words_ref is not None:
                weights_SR = jnp.where(kept(plan, words_ref[0, 0, 0, :, part], first_key), weights_SR, 0.0)
            added_HR = product(value_ref[0, 0], weights_SR.astype(value_ref.dtype), contract=(1, 0))
            results.append((highest_1R, sum_1R, total_ref[:, part] * decay_1R + added_HR))
        for part, (highest_1R, sum_1R, total_HR) in zip(parts, results, strict=True):
            highest_ref[:, part], sum_ref[:, part], total_ref[:, part] = highest_1R, sum_1R, total_HR

    is_visible = number < key_last_ref[mask_row, block]
    is_full = (number >= full_first_ref[mask_row, block]) & (number < full_last_ref[mask_row, block])
    pl.when(is_visible & is_full)(functools.partial(add_key_block, masked=False))
    pl.when(is_visible & ~is_full)(functools.partial(add_key_block, masked=True))

    @pl.when(step == pl.num_programs(3) - 1)
    def finish():
        sees_key_1R = sum_ref[...] > 0
        sum_1R = jnp.where(sees_key_1R, sum_ref[...], 1.0)
        output_ref[0, 0, 0] = (total_ref[...] / (sum_1R * (1 - plan.dropout_rate))).astype(output_ref.dtype)
        log_sum_ref[0, 0, 0] = jnp.where(sees_key_1R, highest_ref[...] + jnp.log2(sum_1R), NO_KEY)


def forward(
    plan: Plan,
    ranges: BlockRanges,
    query_BKIHR: jax.Array,
    key_BKHS: jax.Array,
    value_BKHS: jax.Array,
    start_BI1R: jax.Array,
    end_BI1R: jax.Array,
    sinks_K1R: jax.Array,
    words_BKI1R: jax.Array | None = None,
    bias_KGL: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the output [B, K, I, H, R] in the query's dtype, and the base-2 log-sums [B, K, I, 1, R] in float32.

    Args:
      plan: the static settings.
      ranges: the ranges of blocks of the mask.
      query_BKIHR: queries, by block.
      key_BKHS: keys.
      value_BKHS: values; their H may differ from the keys'.
      start_BI1R: int32, first visible key; the leading axis is 1 or B, as in ``ranges``.
      end_BI1R: int32, one past the last visible key.
      sinks_K1R: float32, logit of each query head's sink; ``HIDDEN`` for none.
      words_BKI1R: int32, the words of the queries that decide what is dropped; None for no dropout.
      bias_KGL: float32, bias of each distance, see :mod:`~lmjax.kernels.attention.tpu_bias`.
    """
    batch, num_kv_heads, num_query_blocks, width, rows = query_BKIHR.shape
    value_width, num_keys = value_BKHS.shape[2:]

    def key_index(b, k, i, step, first_ref, last_ref, *_):
        return b, k, 0, block_of_step(b, i, step, first_ref, last_ref)[1]

    def query_index(b, k, i, step, *_):
        return b, k, i, 0, 0

    def bound_index(b, k, i, step, first_ref, *_):
        return row_of_mask(b, first_ref), i, 0, 0

    grid_spec = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=4,
        grid=(batch, num_kv_heads, num_query_blocks, num_keys // plan.key_block),
        in_specs=[
            pl.BlockSpec((1, 1, 1, width, rows), query_index),
            pl.BlockSpec((1, 1, width, plan.key_block), key_index),
            pl.BlockSpec((1, 1, value_width, plan.key_block), key_index),
            pl.BlockSpec((1, 1, 1, rows), bound_index),
            pl.BlockSpec((1, 1, 1, rows), bound_index),
            pl.BlockSpec((1, 1, rows), lambda b, k, i, step, *_: (k, 0, 0)),
            None if words_BKI1R is None else pl.BlockSpec((1, 1, 1, 1, rows), query_index),
            None if bias_KGL is None else pl.BlockSpec((1, *bias_KGL.shape[1:]), lambda b, k, i, step, *_: (k, 0, 0)),
        ],
        out_specs=[
            pl.BlockSpec((1, 1, 1, value_width, rows), query_index),
            pl.BlockSpec((1, 1, 1, 1, rows), query_index),
        ],
        scratch_shapes=[
            pltpu.VMEM((1, rows), jnp.float32),
            pltpu.VMEM((1, rows), jnp.float32),
            pltpu.VMEM((value_width, rows), jnp.float32),
        ],
    )
    call = pl.pallas_call(
        functools.partial(_forward_kernel, plan),
        grid_spec=grid_spec,
        out_shape=[
            jax.ShapeDtypeStruct((*query_BKIHR.shape[:3], value_width, rows), query_BKIHR.dtype),
            jax.ShapeDtypeStruct((*query_BKIHR.shape[:3], 1, rows), jnp.float32),
        ],
        compiler_params=COMPILER_PARAMS,
        interpret=plan.interpret,
        name=kernel_name("forward", has_bias=bias_KGL is not None, has_dropout=words_BKI1R is not None),
    )
    scalars = (ranges.key_first_BI, ranges.key_last_BI, ranges.full_first_BI, ranges.full_last_BI)
    bounds = (start_BI1R, end_BI1R)
    return call(*scalars, query_BKIHR, key_BKHS, value_BKHS, *bounds, sinks_K1R, words_BKI1R, bias_KGL)
