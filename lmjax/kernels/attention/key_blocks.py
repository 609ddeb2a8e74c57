"""The key blocks that a block of queries reads, in the order in which chunked attention walks over them.

A mask is one interval for each query, so the keys that a block of queries sees in a row lie in a contiguous range
of key blocks. The ranges of rows differ, because their documents do. Each row therefore starts at its own first
block, and the walk has as many steps as the longest of the ranges.
"""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeyBlock:
    """One step of the walk: one block of keys for each row, or, with a leading axis of 1, the same for all rows.

    Attributes:
      size: keys in the block.
      number_B: number of the block in its row; past the last one where a row has no blocks left.
      index_BS: position of each key in its row.
      visible_BTS: bool, whether a query sees a key.
      offset_B: position of the first key to read.
    """

    size: int
    number_B: jax.Array
    index_BS: jax.Array
    visible_BTS: jax.Array
    offset_B: jax.Array

    def take(self, array_BKSH: jax.Array) -> jax.Array:
        """Returns this block of keys or values."""
        if self.offset_B.shape[0] == 1:
            return lax.dynamic_slice_in_dim(array_BKSH, self.offset_B[0], self.size, axis=2)
        take_row = functools.partial(lax.dynamic_slice_in_dim, slice_size=self.size, axis=1)
        return jax.vmap(take_row)(array_BKSH, self.offset_B)

    def add(self, array_BKSH: jax.Array, block_BKSH: jax.Array) -> jax.Array:
        """Returns the array with ``block_BKSH`` added at this block."""
        total_BKSH = self.take(array_BKSH) + block_BKSH
        if self.offset_B.shape[0] == 1:
            return lax.dynamic_update_slice_in_dim(array_BKSH, total_BKSH, self.offset_B[0], axis=2)
        put_row = functools.partial(lax.dynamic_update_slice_in_dim, axis=1)
        return jax.vmap(put_row)(array_BKSH, total_BKSH, self.offset_B)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeyBlocks:
    """The walk over key blocks for one query block, whose queries see the keys ``start_BT <= s < end_BT``.

    Attributes:
      start_BT: int32, the leading axis is 1 or B.
      end_BT: int32, at most ``num_keys``.
      num_keys: S, a multiple of ``size``.
      size: keys in a block.
    """

    start_BT: jax.Array
    end_BT: jax.Array
    num_keys: int
    size: int

    @functools.cached_property
    def _bounds(self) -> tuple[jax.Array, jax.Array]:
        sees_key_BT = self.start_BT < self.end_BT
        first_key_B = jnp.where(sees_key_BT, self.start_BT, self.num_keys).min(axis=1)
        end_key_B = jnp.where(sees_key_BT, self.end_BT, 0).max(axis=1)
        return first_key_B // self.size, -(-end_key_B // self.size)

    @property
    def num_steps(self) -> jax.Array:
        """The number of steps, an int32 scalar; 0 or less when no query sees a key."""
        first_B, end_B = self._bounds
        return jnp.max(end_B - first_B)

    def scope(self) -> contextlib.AbstractContextManager:
        """Returns a context in which operations are named by the most steps there can be, as ``key_blocks_32``.

        The number of steps depends on the mask. In a profile, and for ``lmjax compile``, the name says its bound.
        """
        return jax.named_scope(f"key_blocks_{self.num_keys // self.size}")

    def at(self, step: jax.Array) -> KeyBlock:
        """Returns the blocks of one step."""
        number_B = self._bounds[0] + step
        offset_B = number_B * self.size
        index_BS = offset_B[:, None] + jnp.arange(self.size, dtype=jnp.int32)[None, :]
        index_B1S = index_BS[:, None, :]
        visible_BTS = (self.start_BT[:, :, None] <= index_B1S) & (index_B1S < self.end_BT[:, :, None])
        return KeyBlock(
            size=self.size,
            number_B=number_B,
            index_BS=index_BS,
            visible_BTS=visible_BTS,
            # A row that has no block left reads its last one again; no query sees it, because index_BS is past the row.
            offset_B=jnp.minimum(offset_B, self.num_keys - self.size),
        )
