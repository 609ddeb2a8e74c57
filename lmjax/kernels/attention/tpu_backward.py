"""The backward Pallas kernel of attention on TPUs; see :mod:`lmjax.kernels.attention.tpu_blocks`.

Axes: I blocks of queries, R queries of a block times the query heads of a key-value head.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lmjax.kernels.attention.block_ranges import BlockRanges
from lmjax.kernels.attention.tpu_bias import add_bias_gradient, bias_of_block
from lmjax.kernels.attention.tpu_blocks import (
    COMPILER_PARAMS,
    Plan,
    block_of_step,
    hide,
    kept,
    kernel_name,
    logits_of,
    product,
    row_of_mask,
)


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
    words_ref,
    bias_ref,
    grad_query_ref,
    grad_key_ref,
    grad_value_ref,
    grad_bias_ref,
    query_total_ref,
    key_total_ref,
    value_total_ref,
):
    row, number, step = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    mask_row = row_of_mask(row, key_first_ref)
    block = query_first_ref[mask_row, number] + step
    num_blocks, is_last_step = pl.num_programs(2), step == pl.num_programs(3) - 1

    @pl.when((number == 0) & (step == 0))
    def begin_row():
        query_total_ref[...] = jnp.zeros_like(query_total_ref)
        if grad_bias_ref is not None:
            grad_bias_ref[...] = jnp.zeros_like(grad_bias_ref)

    @pl.when(step == 0)
    def begin_key_block():
        key_total_ref[...] = jnp.zeros_like(key_total_ref)
        value_total_ref[...] = jnp.zeros_like(value_total_ref)

    def add_query_block(*, masked: bool) -> None:
        key_HS, value_HS = key_ref[0, 0], value_ref[0, 0]
        query_HR, grad_output_HR = query_ref[0, 0, 0], grad_output_ref[0, 0, 0]
        logits_SR, slope_SR = logits_of(plan, key_HS, query_HR)
        if bias_ref is not None:
            logits_SR = logits_SR + bias_of_block(plan, bias_ref, block, number, num_blocks)
        first_key = number * plan.key_block
        if masked:
            logits_SR = hide(logits_SR, start_ref[0, 0], end_ref[0, 0], first_key)
        weights_SR = jnp.exp2(logits_SR - log_sum_ref[0, 0, 0])
        grad_weights_SR = product(value_HS, grad_output_HR, contract=(0, 0))
        kept_weights_SR, grad_weights_SR = _dropped(plan, words_ref, first_key, weights_SR, grad_weights_SR)
        grad_logits_SR = weights_SR * (grad_weights_SR - mean_ref[0, 0, 0])
        if grad_bias_ref is not None:
            add_bias_gradient(plan, grad_bias_ref.at[0], grad_logits_SR, block, number, num_blocks)
        if slope_SR is not None:
            grad_logits_SR = grad_logits_SR * slope_SR
        grad_scores_SR = grad_logits_SR.astype(query_HR.dtype)
        value_total_ref[...] += product(grad_output_HR, kept_weights_SR.astype(value_HS.dtype), contract=(1, 1))
        key_total_ref[...] += product(query_HR, grad_scores_SR, contract=(1, 1))
        query_total_ref[block] += product(key_HS, grad_scores_SR, contract=(1, 0))

    at = mask_row, jnp.minimum(block, key_first_ref.shape[1] - 1)
    is_visible = (block < query_last_ref[mask_row, number]) & _is_within(number, key_first_ref, key_last_ref, at)
    is_full = _is_within(number, full_first_ref, full_last_ref, at)
    pl.when(is_visible & is_full)(functools.partial(add_query_block, masked=False))
    pl.when(is_visible & ~is_full)(functools.partial(add_query_block, masked=True))

    @pl.when(is_last_step)
    def finish_key_block():
        grad_key_ref[0, 0] = (key_total_ref[...] * plan.scale).astype(grad_key_ref.dtype)
        grad_value_ref[0, 0] = (value_total_ref[...] / (1 - plan.dropout_rate)).astype(grad_value_ref.dtype)

    @pl.when(is_last_step & (number == pl.num_programs(2) - 1))
    def finish_row():
        grad_query_ref[0, 0] = (query_total_ref[...] * plan.scale).astype(grad_query_ref.dtype)


def _dropped(
    plan: Plan, words_ref: Any, first_key: jax.Array, weights_SR: jax.Array, grad_weights_SR: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the weights that are kept, not scaled up, and the gradient of the weights before dropout."""
    if words_ref is None:
        return weights_SR, grad_weights_SR
    kept_SR = kept(plan, words_ref[0, 0, 0], first_key)
    grad_kept_SR = grad_weights_SR * (1 / (1 - plan.dropout_rate))
    return jnp.where(kept_SR, weights_SR, 0.0), jnp.where(kept_SR, grad_kept_SR, 0.0)


def _is_within(number: jax.Array, first_ref: Any, last_ref: Any, at: tuple) -> jax.Array:
    """Returns whether a block of keys is in the range of a row of the mask and a block of queries."""
    return (number >= first_ref[at]) & (number < last_ref[at])


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
    words_BKI1R: jax.Array | None,
    bias_KGL: jax.Array | None,
    key_dtype: jnp.dtype,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Returns the gradients of queries, keys and values, the last two in ``key_dtype``, and of the bias of each row.

    The last is float32 [B, K, G, L], or None if there is no bias. One pass over all pairs of blocks computes all of
    them, with five matrix products for each pair. The gradient of the queries of one key-value head stays in fast
    memory until the row is done.

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
      words_BKI1R: the words of the queries, as in :func:`forward`.
      bias_KGL: bias of each distance.
      key_dtype: dtype of the gradients of keys and values.
    """
    grad_bias = None
    if bias_KGL is not None:
        grad_bias = jax.ShapeDtypeStruct((query_BKIHR.shape[0], *bias_KGL.shape), jnp.float32)
    call = pl.pallas_call(
        functools.partial(_backward_kernel, plan),
        grid_spec=_grid(plan, query_BKIHR.shape, value_BKHS.shape, words_BKI1R is not None, bias_KGL),
        out_shape=[
            jax.ShapeDtypeStruct(query_BKIHR.shape, query_BKIHR.dtype),
            jax.ShapeDtypeStruct(key_BKHS.shape, key_dtype),
            jax.ShapeDtypeStruct(value_BKHS.shape, key_dtype),
            grad_bias,
        ],
        compiler_params=COMPILER_PARAMS,
        interpret=plan.interpret,
        name=kernel_name("backward", has_bias=bias_KGL is not None, has_dropout=words_BKI1R is not None),
    )
    scalars = dataclasses.astuple(ranges)
    bounds = (start_BI1R, end_BI1R)
    by_query = (log_sum_BKI1R, grad_output_BKIHR, mean_BKI1R, words_BKI1R)
    return call(*scalars, query_BKIHR, key_BKHS, value_BKHS, *bounds, *by_query, bias_KGL)


def _grid(
    plan: Plan,
    query_shape: tuple[int, ...],
    value_shape: tuple[int, ...],
    has_words: bool,
    bias_KGL: jax.Array | None,
) -> pltpu.PrefetchScalarGridSpec:
    """Returns the order of the work, and which part of each array a step needs.

    For each row and key-value head, the blocks of keys come one after the other, and for each of them the blocks of
    queries that see it.

    Args:
      plan: the static settings.
      query_shape: B, K, I, H, R.
      value_shape: B, K, H, S.
      has_words: whether weights are dropped.
      bias_KGL: bias of each distance.
    """
    batch, num_kv_heads, num_query_blocks, width, rows = query_shape
    value_width, num_keys = value_shape[2:]

    def query_index(b, k, j, step, kf, kl, ff, fl, first_ref, last_ref):
        return b, k, block_of_step(b, j, step, first_ref, last_ref)[1], 0, 0

    def bound_index(b, k, j, step, kf, kl, ff, fl, first_ref, last_ref):
        return *block_of_step(b, j, step, first_ref, last_ref), 0, 0

    def key_index(b, k, j, step, *_):
        return b, k, 0, j

    def row_index(b, k, j, step, *_):
        return b, k, 0, 0, 0

    return pltpu.PrefetchScalarGridSpec(
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
            pl.BlockSpec((1, 1, 1, 1, rows), query_index) if has_words else None,
            None if bias_KGL is None else pl.BlockSpec((1, *bias_KGL.shape[1:]), lambda b, k, *_: (k, 0, 0)),
        ],
        out_specs=[
            pl.BlockSpec((1, 1, num_query_blocks, width, rows), row_index),
            pl.BlockSpec((1, 1, width, plan.key_block), key_index),
            pl.BlockSpec((1, 1, value_width, plan.key_block), key_index),
            None if bias_KGL is None else pl.BlockSpec((1, 1, *bias_KGL.shape[1:]), lambda b, k, *_: (b, k, 0, 0)),
        ],
        scratch_shapes=[
            pltpu.VMEM((num_query_blocks, width, rows), jnp.float32),
            pltpu.VMEM((width, plan.key_block), jnp.float32),
            pltpu.VMEM((value_width, plan.key_block), jnp.float32),
        ],
    )
