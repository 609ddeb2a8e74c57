"""What the two Pallas kernels of attention on TPUs share: the settings, and the logits of a block.

Both hold positions on lanes and head width on sublanes. Logits are [keys, queries]: maxima and sums over keys are
then taken between registers, the numbers kept for each query are a row vector, and no array is padded to a width of
128. All query heads of a key-value head are computed together: R counts the queries of a block times those heads.

The exponentials have base 2: logits are multiplied by log2(e) once (FlashAttention, Dao et al. 2022, algorithms 1
and 4; the online softmax is Milakov and Gimelshein 2018). A block of which every query sees every key is computed
without a mask. A block of which no query sees a key costs a grid step, but no memory traffic.

Axes: R queries of a block times the query heads of a key-value head.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import tpu as pltpu

from lmjax.kernels.attention.weight_dropout import is_kept

LANES = 128
"""Number of positions in a register; block sizes are multiples of it."""
LOG2_E = math.log2(math.e)
HIDDEN = -1e30
"""The logit of an invisible key."""
COMPILER_PARAMS = pltpu.CompilerParams(
    # Rows and heads are independent of each other, so two cores of a chip can share the work.
    dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary"),
    vmem_limit_bytes=64 << 20,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings that are known when a kernel is compiled.

    Attributes:
      scale: factor on the logits.
      softcap: bound on the magnitude of the logits.
      dropout_rate: share of weights dropped.
      query_block: number of queries in a block; a multiple of 128.
      key_block: number of keys in a block; a multiple of 128.
      interpret: whether to run without a TPU, step by step.
    """

    scale: float
    softcap: float | None
    dropout_rate: float
    query_block: int
    key_block: int
    interpret: bool


def kernel_name(way: str, *, has_bias: bool, has_dropout: bool) -> str:
    """Returns the name of a kernel in profiles; ``lmjax compile`` tells by it what the kernel costs."""
    return f"interval_attention_{way}" + "_bias" * has_bias + "_dropout" * has_dropout


def product(left: jax.Array, right: jax.Array, *, contract: tuple[int, int]) -> jax.Array:
    """Returns the product of two matrices over one axis of each, summed in float32, with all bits of the operands."""
    precision = lax.Precision.HIGHEST if left.dtype == jnp.float32 else None
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return lax.dot_general(left, right, dimensions, precision=precision, preferred_element_type=jnp.float32)


def logits_of(plan: Plan, key_HS: jax.Array, query_HR: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """Returns logits [S, R] for base 2, and the derivative of the softcap [S, R], or None without a softcap."""
    scores_SR = product(key_HS, query_HR, contract=(0, 0))
    if plan.softcap is None:
        return scores_SR * (plan.scale * LOG2_E), None
    bounded_SR = jnp.tanh(scores_SR * (plan.scale / plan.softcap))
    return bounded_SR * (plan.softcap * LOG2_E), 1 - bounded_SR * bounded_SR


def hide(logits_SR: jax.Array, start_1R: jax.Array, end_1R: jax.Array, first_key: jax.Array) -> jax.Array:
    """Returns the logits with those of invisible keys :data:`HIDDEN`.

    Args:
      logits_SR: the logits of a block.
      start_1R: int32, the first key that each query sees.
      end_1R: int32, one past the last.
      first_key: the number of the block's first key.
    """
    index_SR = first_key + lax.broadcasted_iota(jnp.int32, logits_SR.shape, 0)
    return jnp.where((index_SR >= start_1R) & (index_SR < end_1R), logits_SR, HIDDEN)


def kept(plan: Plan, words_1R: jax.Array, first_key: jax.Array) -> jax.Array:
    """Returns which weights of a block dropout keeps, bool [S, R].

    Args:
      plan: the settings.
      words_1R: int32, the words of the queries, see :mod:`~lmjax.kernels.attention.weight_dropout`.
      first_key: the number of the block's first key.
    """
    index_SR = first_key + lax.broadcasted_iota(jnp.int32, (plan.key_block, words_1R.shape[1]), 0)
    return is_kept(words_1R, index_SR, plan.dropout_rate)


def row_of_mask(row: jax.Array, ranges_ref: Any) -> jax.Array:
    """Returns the row of the mask's ranges that belongs to a row of the batch; ranges of one row belong to all."""
    return jnp.minimum(row, ranges_ref.shape[0] - 1)


def block_of_step(
    row: jax.Array, number: jax.Array, step: jax.Array, first_ref: Any, last_ref: Any
) -> tuple[jax.Array, jax.Array]:
    """Returns the row of the mask, and the block that a step of the grid needs.

    Beyond the range this is the last block again, which is in fast memory already, so nothing is copied.

    Args:
      row: the row of the batch.
      number: the block whose range of other blocks is visited.
      step: the step within the range.
      first_ref: int32, the first block of each range, by row of the mask and block.
      last_ref: int32, one past the last.
    """
    mask_row = row_of_mask(row, first_ref)
    last = jnp.maximum(last_ref[mask_row, number] - 1, 0)
    return mask_row, jnp.clip(first_ref[mask_row, number] + step, 0, last)
