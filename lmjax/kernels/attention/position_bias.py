"""Attention biases that depend on the distance of query and key, computed block by block.

A bias is a pytree of parameters with one method. A kernel can build only the part of the bias that it
needs, and differentiate through it, without an [N, T, S] array.

Axes: R buckets of distances.
"""

import dataclasses
import math
from typing import Protocol

import jax
import jax.numpy as jnp


class PositionBias(Protocol):
    """A bias that :func:`lmjax.kernels.attention.dispatch.attend` adds to the logits.

    An implementation is a registered pytree whose leaves are floating-point arrays with the heads
    on their last axis (``slopes_N``, ``table_RN``): tensor parallelism splits that axis. The bias depends on
    ``key index - query index`` alone, since the TPU kernels compute it once for each difference.
    """

    def block(self, query_index_BT: jax.Array, key_index_BS: jax.Array) -> jax.Array:
        """Returns the bias [B, N, T, S] of these queries against these keys; either index may have B = 1."""


def alibi_slopes(num_heads: int) -> list[float]:
    """Returns the slopes of ALiBi (Press et al. 2022, section 3): ``2 ** (-8 i / N)`` for i = 1 ... N.

    Where N is not a power of two, the slopes for the next lower power come first, followed by every second
    slope for the next higher power until there are N, as in the authors' code.
    """
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    finer = [2.0 ** (-4 * (2 * i + 1) / power) for i in range(num_heads - power)]
    return slopes + finer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class AlibiBias:
    """ALiBi: ``-slope * |query index - key index|``, with a fixed slope for each head.

    Attributes:
      slopes_N: float32, positive; :func:`alibi_slopes` returns those of the paper.
    """

    slopes_N: jax.Array

    def block(self, query_index_BT: jax.Array, key_index_BS: jax.Array) -> jax.Array:
        """See :class:`PositionBias`."""
        distance_BTS = jnp.abs(query_index_BT[:, :, None] - key_index_BS[:, None, :])
        return -self.slopes_N[None, :, None, None] * distance_BTS[:, None].astype(self.slopes_N.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class RelativeBias:
    """T5's learned bias by bucketed distance (Raffel et al. 2020, section 2.1), one table for all layers.

    Attributes:
      table_RN: float, one row for each bucket.
      max_distance: distances from this one on share the last bucket.
      past_only: if True, all keys after the query fall into the bucket of distance 0 (a causal decoder); if False,
        they have half of the buckets (an encoder).
    """

    table_RN: jax.Array
    max_distance: int = dataclasses.field(metadata={"static": True})
    past_only: bool = dataclasses.field(metadata={"static": True})

    def block(self, query_index_BT: jax.Array, key_index_BS: jax.Array) -> jax.Array:
        """See :class:`PositionBias`."""
        offset_BTS = key_index_BS[:, None, :] - query_index_BT[:, :, None]
        bucket_BTS = relative_buckets(
            offset_BTS,
            num_buckets=self.table_RN.shape[0],
            max_distance=self.max_distance,
            past_only=self.past_only,
        )
        return jnp.moveaxis(self.table_RN[bucket_BTS], -1, 1)


def relative_buckets(offset: jax.Array, *, num_buckets: int, max_distance: int, past_only: bool) -> jax.Array:
    """Returns the bucket of each ``key index - query index``, int32 of the same shape.

    With n buckets for one direction, each distance d below n / 2 has a bucket of its own. Distances from there to
    ``max_distance`` share the others on a logarithmic scale: ``n/2 + floor(n/2 ln(2d/n) / ln(2 max/n))``.

    Args:
      offset: int32, any shape.
      num_buckets: number of buckets. With ``past_only`` all are for one direction; otherwise each direction has half.
      max_distance: distances from this one on share the last bucket.
      past_only: see :class:`RelativeBias`.
    """
    if past_only:
        first, distance = jnp.zeros_like(offset), jnp.maximum(-offset, 0)
    else:
        num_buckets //= 2
        first, distance = jnp.where(offset > 0, num_buckets, 0), jnp.abs(offset)
    exact = num_buckets // 2
    ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / math.log(max_distance / exact)
    shared = jnp.minimum(exact + (ratio * (num_buckets - exact)).astype(jnp.int32), num_buckets - 1)
    return first + jnp.where(distance < exact, distance, shared)
