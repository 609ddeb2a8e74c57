"""The two Pallas kernels of attention on TPUs under any interval mask: forward, and backward.

Both hold positions on lanes and head width on sublanes. Logits are [keys, queries]: maxima and sums over keys are
then taken between registers, the numbers kept for each query are a row vector, and no array is padded to a width of
128. All query heads of a key-value head are computed together: R counts the queries of a block times those heads.

The exponentials have base 2: logits are multiplied by log2(e) once (FlashAttention, Dao et al. 2022, algorithms 1
and 4; the online softmax is Milakov and Gimelshein 2018). A block of which every query sees every key is computed
without a mask. A block of which no query sees a key costs a grid step, but no memory traffic.

Axes: I blocks of queries, R queries of a block times the query heads of a key-value head.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lmjax.kernels.attention.block_ranges import BlockRanges

LOG2_E = math.log2(math.e)
HIDDEN = -1e30
"""The logit of an invisible key."""
LOWEST = -1e29
"""The first value of the running maximum: far above ``HIDDEN``, so that an invisible key always has the weight 0."""
FORWARD_LANES = 256
"""Number of columns whose softmax is computed while the matrix unit computes the logits of the next columns."""
NO_KEY = 1e30
"""The log-sum of a query that sees no key: all its weights are then 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings that are known when a kernel is compiled.

    Attributes:
      scale: factor on the logits.
      softcap: bound on the magnitude of the logits.
      query_block: number of queries in a block; a multiple of 128.
      key_block: number of keys in a block; a multiple of 128.
      interpret: whether to run without a TPU, step by step.
    """

    scale: float
    softcap: float | None
    query_block: int
    key_block: int
    interpret: bool


def _product(left: jax.Array, right: jax.Array, *, contract: tuple[int, int]) -> jax.Array:
    precision = lax.Precision.HIGHEST if left.dtype == jnp.float32 else None
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return lax.dot_general(left, right, dimensions, precision=precision, preferred_element_type=jnp.float32)


def _logits(plan: Plan, key_HS: jax.Array, query_HR: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """Returns logits [S, R] for base 2, and the derivative of the softcap [S, R], or None without a softcap."""
    scores_SR = _product(key_HS, query_HR, contract=(0, 0))
    if plan.softcap is None:
        return scores_SR * (plan.scale * LOG2_E), None
    bounded_SR = jnp.tanh(scores_SR * (plan.scale / plan.softcap))
    return bounded_SR * (plan.softcap * LOG2_E), 1 - bounded_SR * bounded_SR


def _hide(logits_SR: jax.Array, start_1R: jax.Array, end_1R: jax.Array, first_key: jax.Array) -> jax.Array:
    index_SR = first_key + lax.broadcasted_iota(jnp.int32, logits_SR.shape, 0)
    return jnp.where((index_SR >= start_1R) & (index_SR < end_1R), logits_SR, HIDDEN)


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
    output_ref,
    log_sum_ref,
    highest_ref,
    sum_ref,
    total_ref,
):
    row, block, step = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    mask_row = jnp.minimum(row, key_first_ref.shape[0] - 1)
    number = key_first_ref[mask_row, block] + step

    @pl.when(step == 0)
    def begin():
        # A sink acts as a key that is seen before all others, with this logit and the value 0.
        highest_ref[...] = jnp.maximum(sinks_ref[0] * LOG2_E, LOWEST)
        sum_ref[...] = jnp.exp2(sinks_ref[0] * LOG2_E - highest_ref[...])
        total_ref[...] = jnp.zeros_like(total_ref)

    def add_key_block(*, masked: bool) -> None:
        def logits_of(part: slice) -> jax.Array:
            logits_SR, _ = _logits(plan, key_ref[0, 0], query_ref[0, 0, 0, :, part])
            if not masked:
                return logits_SR
            return _hide(logits_SR, start_ref[0, 0, :, part], end_ref[0, 0, :, part], number * plan.key_block)

        # The compiler keeps the order of this code where it can. Each part's product comes before the softmax of
        # the previous part, so that the matrix unit works while the exponentials are computed.
        parts = [slice(first, first + FORWARD_LANES) for first in range(0, query_ref.shape[4], FORWARD_LANES)]
        following, results = logits_of(parts[0]), []
        for index, part in enumerate(parts):
            logits_SR = following
            if index + 1 < len(parts):
                following = logits_of(parts[index + 1])
            highest_1R = jnp.maximum(highest_ref[:, part], logits_SR.max(axis=0, keepdims=True))
            weights_SR = jnp.exp2(logits_SR - highest_1R)
            decay_1R = jnp.exp2(highest_ref[:, part] - highest_1R)
            sum_1R = sum_ref[:, part] * decay_1R + weights_SR.sum(axis=0, keepdims=True)
            added_HR = _product(value_ref[0, 0], weights_SR.astype(value_ref.dtype), contract=(1, 0))
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
        output_ref[0, 0, 0] = (total_ref[...] / sum_1R).astype(output_ref.dtype)
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
    """
    batch, num_kv_heads, num_query_blocks, width, rows = query_BKIHR.shape
    value_width, num_keys = value_BKHS.shape[2:]

    def mask_row(b, ranges_ref):
        return jnp.minimum(b, ranges_ref.shape[0] - 1)

    def key_index(b, k, i, step, first_ref, last_ref, *_):
        # Beyond the range this is the last block again, which is in fast memory already, so nothing is copied.
        row = mask_row(b, first_ref)
        return b, k, 0, jnp.clip(first_ref[row, i] + step, 0, jnp.maximum(last_ref[row, i] - 1, 0))

    def query_index(b, k, i, step, *_):
        return b, k, i, 0, 0

    def bound_index(b, k, i, step, first_ref, *_):
        return mask_row(b, first_ref), i, 0, 0

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
        compiler_params=_compiler_params(),
        interpret=plan.interpret,
        name="interval_attention_forward",
    )
    scalars = (ranges.key_first_BI, ranges.key_last_BI, ranges.full_first_BI, ranges.full_last_BI)
    return call(*scalars, query_BKIHR, key_BKHS, value_BKHS, start_BI1R, end_BI1R, sinks_K1R)


def _backward_kernel(
    plan: Plan,
    key_first_ref,
    key_last_ref,
    full_first_ref,
    full_last_ref,
    query_first_ref,
    query_last_ref,
    query_ref,
    key_ref,
    value_ref,
    start_ref,
    end_ref,
    log_sum_ref,
    grad_output_ref,
    mean_ref,
    grad_query_ref,
    grad_key_ref,
    grad_value_ref,
    query_total_ref,
    key_total_ref,
    value_total_ref,
):
    row, number, step = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    mask_row = jnp.minimum(row, key_first_ref.shape[0] - 1)
    block = query_first_ref[mask_row, number] + step
    is_last_step = step == pl.num_programs(3) - 1

    @pl.when((number == 0) & (step == 0))
    def begin_row():
        query_total_ref[...] = jnp.zeros_like(query_total_ref)

    @pl.when(step == 0)
    def begin_key_block():
        key_total_ref[...] = jnp.zeros_like(key_total_ref)
        value_total_ref[...] = jnp.zeros_like(value_total_ref)

    def add_query_block(*, masked: bool) -> None:
        key_HS, value_HS = key_ref[0, 0], value_ref[0, 0]
        query_HR, grad_output_HR = query_ref[0, 0, 0], grad_output_ref[0, 0, 0]
        logits_SR, slope_SR = _logits(plan, key_HS, query_HR)
        if masked:
            logits_SR = _hide(logits_SR, start_ref[0, 0], end_ref[0, 0], number * plan.key_block)
        weights_SR = jnp.exp2(logits_SR - log_sum_ref[0, 0, 0])
        grad_weights_SR = _product(value_HS, grad_output_HR, contract=(0, 0))
        grad_logits_SR = weights_SR * (grad_weights_SR - mean_ref[0, 0, 0])
        if slope_SR is not None:
            grad_logits_SR = grad_logits_SR * slope_SR
        grad_scores_SR = grad_logits_SR.astype(query_HR.dtype)
        value_total_ref[...] += _product(grad_output_HR, weights_SR.astype(value_HS.dtype), contract=(1, 1))
        key_total_ref[...] += _product(query_HR, grad_scores_SR, contract=(1, 1))
        query_total_ref[block] += _product(key_HS, grad_scores_SR, contract=(1, 0))

    safe = jnp.minimum(block, key_first_ref.shape[1] - 1)
    is_visible = (
        (block < query_last_ref[mask_row, number])
        & (number >= key_first_ref[mask_row, safe])
        & (number < key_last_ref[mask_row, safe])
    )
    is_full = (number >= full_first_ref[mask_row, safe]) & (number < full_last_ref[mask_row, safe])
    pl.when(is_visible & is_full)(functools.partial(add_query_block, masked=False))
    pl.when(is_visible & ~is_full)(functools.partial(add_query_block, masked=True))

    @pl.when(is_last_step)
    def finish_key_block():
        grad_key_ref[0, 0] = (key_total_ref[...] * plan.scale).astype(grad_key_ref.dtype)
        grad_value_ref[0, 0] = value_total_ref[...].astype(grad_value_ref.dtype)

    @pl.when(is_last_step & (number == pl.num_programs(2) - 1))
    def finish_row():
        grad_query_ref[0, 0] = (query_total_ref[...] * plan.scale).astype(grad_query_ref.dtype)


def backward(
    plan: Plan,
    ranges: BlockRanges,
    query_BKIHR: jax.Array,
    key_BKHS: jax.Array,
    value_BKHS: jax.Array,
    start_BI1R: jax.Array,
    end_BI1R: jax.Array,
    log_sum_BKI1R: jax.Array,
    grad_output_BKIHR: jax.Array,
    mean_BKI1R: jax.Array,
    *,
    key_dtype: jnp.dtype,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the gradients of queries, keys and values, the last two in ``key_dtype``.

    One pass over all pairs of blocks computes all three, with five matrix products for each pair. The gradient of the
    queries of one key-value head stays in fast memory until the row is done.

    Args:
      plan: the static settings.
      ranges: the ranges of blocks of the mask.
      query_BKIHR: queries; this and the next four are as in :func:`forward`.
      key_BKHS: keys.
      value_BKHS: values.
      start_BI1R: first visible key.
      end_BI1R: one past the last visible key.
      log_sum_BKI1R: the log-sums that :func:`forward` returned.
      grad_output_BKIHR: gradient of the output.
      mean_BKI1R: float32, for each query the sum of its output times the output's gradient.
      key_dtype: dtype of the gradients of keys and values.
    """
    batch, num_kv_heads, num_query_blocks, width, rows = query_BKIHR.shape
    value_width, num_keys = value_BKHS.shape[2:]

    def mask_row(b, ranges_ref):
        return jnp.minimum(b, ranges_ref.shape[0] - 1)

    def block_of(b, j, step, first_ref, last_ref):
        row = mask_row(b, first_ref)
        return jnp.clip(first_ref[row, j] + step, 0, jnp.maximum(last_ref[row, j] - 1, 0))

    def query_index(b, k, j, step, kf, kl, ff, fl, first_ref, last_ref):
        return b, k, block_of(b, j, step, first_ref, last_ref), 0, 0

    def bound_index(b, k, j, step, kf, kl, ff, fl, first_ref, last_ref):
        return mask_row(b, first_ref), block_of(b, j, step, first_ref, last_ref), 0, 0

    def key_index(b, k, j, step, *_):
        return b, k, 0, j

    def row_index(b, k, j, step, *_):
        return b, k, 0, 0, 0

    grid_spec = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=6,
        grid=(batch, num_kv_heads, num_keys // plan.key_block, num_query_blocks),
        in_specs=[
            pl.BlockSpec((1, 1, 1, width, rows), query_index),
            pl.BlockSpec((1, 1, width, plan.key_block), key_index),
            pl.BlockSpec((1, 1, value_width, plan.key_block), key_index),
            pl.BlockSpec((1, 1, 1, rows), bound_index),
            pl.BlockSpec((1, 1, 1, rows), bound_index),
            pl.BlockSpec((1, 1, 1, 1, rows), query_index),
            pl.BlockSpec((1, 1, 1, value_width, rows), query_index),
            pl.BlockSpec((1, 1, 1, 1, rows), query_index),
        ],
        out_specs=[
            pl.BlockSpec((1, 1, num_query_blocks, width, rows), row_index),
            pl.BlockSpec((1, 1, width, plan.key_block), key_index),
            pl.BlockSpec((1, 1, value_width, plan.key_block), key_index),
        ],
        scratch_shapes=[
            pltpu.VMEM((num_query_blocks, width, rows), jnp.float32),
            pltpu.VMEM((width, plan.key_block), jnp.float32),
            pltpu.VMEM((value_width, plan.key_block), jnp.float32),
        ],
    )
    call = pl.pallas_call(
        functools.partial(_backward_kernel, plan),
        grid_spec=grid_spec,
        out_shape=[
            jax.ShapeDtypeStruct(query_BKIHR.shape, query_BKIHR.dtype),
            jax.ShapeDtypeStruct(key_BKHS.shape, key_dtype),
            jax.ShapeDtypeStruct(value_BKHS.shape, key_dtype),
        ],
        compiler_params=_compiler_params(),
        interpret=plan.interpret,
        name="interval_attention_backward",
    )
    scalars = dataclasses.astuple(ranges)
    bounds = (start_BI1R, end_BI1R)
    return call(*scalars, query_BKIHR, key_BKHS, value_BKHS, *bounds, log_sum_BKI1R, grad_output_BKIHR, mean_BKI1R)


def _compiler_params() -> pltpu.CompilerParams:
    # Rows and heads are independent of each other, so two cores of a chip can share the work.
    return pltpu.CompilerParams(
        dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=64 << 20
    )
