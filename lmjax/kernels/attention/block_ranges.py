"""Finds which blocks of queries see which blocks of keys under an interval mask; kernels read these integers first.

Axes: I blocks of queries, J blocks of keys.
"""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockRanges:
    """Ranges of blocks, each int32; every pair of blocks outside of them is invisible.

    Attributes:
      key_first_BI: for each query block, the first key block of which some query sees a key.
      key_last_BI: one past the last such block; equal to ``key_first_BI`` where no query sees a key.
      full_first_BI: for each query block, the first key block of which every query sees every key.
      full_last_BI: one past the last such block; at most ``full_first_BI`` where there is none.
      query_first_BJ: for each key block, the first query block that sees some of its keys.
      query_last_BJ: one past the last such block.
    """

    key_first_BI: jax.Array
    key_last_BI: jax.Array
    full_first_BI: jax.Array
    full_last_BI: jax.Array
    query_first_BJ: jax.Array
    query_last_BJ: jax.Array


def block_ranges(
    start_BT: jax.Array, end_BT: jax.Array, *, num_keys: int, query_block: int, key_block: int
) -> BlockRanges:
    """Returns the :class:`BlockRanges` of the mask ``start <= s < end``.

    Args:
      start_BT: int32, first visible key of each query; T is a multiple of ``query_block``.
      end_BT: int32, one past the last visible key, at most ``num_keys``.
      num_keys: S, a multiple of ``key_block``.
      query_block: number of queries in a block.
      key_block: number of keys in a block.
    """
    batch = start_BT.shape[0]
    num_blocks = num_keys // key_block
    start_BIT, end_BIT = (bound_BT.reshape(batch, -1, query_block) for bound_BT in (start_BT, end_BT))
    # A query that sees no key has an empty interval, which must not widen the range of its block.
    sees_BIT = start_BIT < end_BIT
    lowest_BI = jnp.where(sees_BIT, start_BIT, num_keys).min(axis=2)
    highest_BI = jnp.where(sees_BIT, end_BIT, 0).max(axis=2)
    key_first_BI = lowest_BI // key_block
    key_last_BI = jnp.maximum(-(-highest_BI // key_block), key_first_BI)
    index_11J = jnp.arange(num_blocks, dtype=jnp.int32)[None, None, :]
    meets_BIJ = (key_first_BI[:, :, None] <= index_11J) & (index_11J < key_last_BI[:, :, None])
    index_1I1 = jnp.arange(start_BIT.shape[1], dtype=jnp.int32)[None, :, None]
    query_first_BJ = jnp.where(meets_BIJ, index_1I1, start_BIT.shape[1]).min(axis=1)
    query_last_BJ = jnp.where(meets_BIJ, index_1I1 + 1, 0).max(axis=1)
    return BlockRanges(
        key_first_BI=key_first_BI,
        key_last_BI=key_last_BI,
        full_first_BI=-(-start_BIT.max(axis=2) // key_block),
        full_last_BI=end_BIT.min(axis=2) // key_block,
        query_first_BJ=jnp.minimum(query_first_BJ, query_last_BJ),
        query_last_BJ=query_last_BJ,
    )
