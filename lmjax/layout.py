"""Tools for moving tokens within rows: the document of each token, random subsets of an exact size, and compaction.

Every function works along the last axis of [B, T] arrays. Counts are cumulative sums and moves are one scatter, so
rows on different devices need no communication.

Axes: N values of a row that are given places in it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lmjax import masks
from lmjax.integers import as_int32


class Documents(NamedTuple):
    """The document of each position: its number, bounds, and whether it is text (``real_BT``) or padding."""

    number_BT: jax.Array
    start_BT: jax.Array
    end_BT: jax.Array
    real_BT: jax.Array
    index_BT: jax.Array

    @property
    def length(self) -> jax.Array:
        """Number of tokens in the document of each position (int32 [B, T])."""
        return self.end_BT - self.start_BT

    @property
    def first(self) -> jax.Array:
        """Whether a position is the first of a document that is not padding (bool [B, T])."""
        return self.real_BT & (self.index_BT == self.start_BT)

    @property
    def last(self) -> jax.Array:
        """Whether a position is the last of a document that is not padding (bool [B, T])."""
        return self.real_BT & (self.index_BT == self.end_BT - 1)

    def shared(self, values_BT: jax.Array) -> jax.Array:
        """Returns for each position the value at its document's first position, so that a document shares one draw."""
        return jnp.take_along_axis(values_BT, self.start_BT, axis=1)

    def before(self, flags_BT: jax.Array) -> jax.Array:
        """Returns how many ``flags_BT`` are set in the same document at or before each position (int32)."""
        count_BT = running_count(flags_BT)
        return count_BT - self.shared(count_BT - flags_BT.astype(jnp.int32))


def documents(segments_BT: jax.Array | None, shape: tuple[int, ...]) -> Documents:
    """Returns the :class:`Documents` of rows; ``segments_BT=None`` means that one document fills each row."""
    index_BT = jnp.broadcast_to(jnp.arange(shape[1], dtype=jnp.int32)[None, :], shape)
    if segments_BT is None:
        zeros_BT = jnp.zeros(shape, jnp.int32)
        return Documents(zeros_BT, zeros_BT, zeros_BT + shape[1], jnp.ones(shape, bool), index_BT)
    segments_BT = as_int32(segments_BT, "segments_BT")
    start_BT, end_BT = masks.document_bounds(segments_BT)
    number_BT = running_count(index_BT == start_BT) - 1
    return Documents(number_BT, start_BT, end_BT, segments_BT != 0, index_BT)


def segment_numbers(segments_BT: jax.Array | None, shape: tuple[int, ...]) -> jax.Array:
    """Returns ``segments_BT`` as int32; ``None`` means that document 1 fills each row."""
    return jnp.ones(shape, jnp.int32) if segments_BT is None else as_int32(segments_BT, "segments_BT")


def running_count(flags_BT: jax.Array) -> jax.Array:
    """Returns how many flags of the row are set at or before each position (int32)."""
    return jnp.cumsum(flags_BT.astype(jnp.int32), axis=1)


def choose(
    key: jax.Array,
    group_BT: jax.Array,
    bounds_BT: tuple[jax.Array, jax.Array],
    count_BT: jax.Array,
    *,
    num_groups: int,
    with_first: bool = False,
) -> jax.Array:
    """Chooses exactly ``count`` positions of every group, each subset equally likely.

    Args:
      key: PRNG key.
      group_BT: int32 group of each position, ascending along the row, below ``num_groups``.
      bounds_BT: first position, and one past the last, of the group of each position.
      count_BT: how many positions of the group to choose; the same value throughout a group.
      num_groups: static bound on the groups of a row.
      with_first: whether the first position of every group is always chosen.

    Returns:
      bool [B, T].
    """
    start_BT, end_BT = bounds_BT
    # One 32-bit key with the group in its high bits and a random number in its low bits: sorting one key is six times
    # as fast as sorting by two.
    random_bits = 32 - (num_groups - 1).bit_length()
    draw_BT = jax.random.bits(key, group_BT.shape, jnp.uint32) >> (32 - random_bits)
    if with_first:
        index_1T = jnp.arange(group_BT.shape[1], dtype=jnp.int32)[None, :]
        draw_BT = jnp.where(index_1T == start_BT, 0, draw_BT)
    rank_BT = draw_BT if num_groups == 1 else (group_BT.astype(jnp.uint32) << random_bits) | draw_BT
    # Groups are contiguous and sorting keeps them in place, so a group's k-th smallest is at start + k - 1.
    last_BT = jnp.clip(start_BT + count_BT - 1, 0, group_BT.shape[1] - 1)
    threshold_BT = jnp.take_along_axis(jnp.sort(rank_BT, axis=1), last_BT, axis=1)
    below_BT, tied_BT = rank_BT < threshold_BT, rank_BT == threshold_BT
    # Draws may be equal at the threshold; the first of them are chosen until the count is exact.
    below_in_group_BT = count_within(below_BT, start_BT, end_BT)
    ties_so_far_BT = running_count(tied_BT) - _count_before(tied_BT, start_BT)
    return (count_BT > 0) & (below_BT | (tied_BT & (below_in_group_BT + ties_so_far_BT <= count_BT)))


def _count_before(flags_BT: jax.Array, start_BT: jax.Array) -> jax.Array:
    return jnp.take_along_axis(running_count(flags_BT) - flags_BT.astype(jnp.int32), start_BT, axis=1)


def count_within(flags_BT: jax.Array, start_BT: jax.Array, end_BT: jax.Array) -> jax.Array:
    """Counts the flags in each position's own interval ``[start, end)`` of the row (int32; none may be empty)."""
    through_BT = jnp.take_along_axis(running_count(flags_BT), end_BT - 1, axis=1)
    return through_BT - _count_before(flags_BT, start_BT)


def place(
    values_BN: jax.Array, position_BN: jax.Array, keep_BN: jax.Array, *, length: int, fill: ArrayLike
) -> jax.Array:
    """Returns rows of ``length`` with each kept value at its position, and ``fill`` elsewhere.

    Values whose position is ``length`` or more are dropped: a row is cut at its end.
    """
    target_BN = jnp.where(keep_BN, position_BN, length)

    # The scatter is mapped over rows, not indexed by row, so that devices with different rows need no communication.
    def place_row(values_N: jax.Array, target_N: jax.Array) -> jax.Array:
        return jnp.full((length,), fill, values_N.dtype).at[target_N].set(values_N, mode="drop")

    return jax.vmap(place_row)(values_BN, target_BN)


def arrangement(position_BN: jax.Array, keep_BN: jax.Array, *, length: int) -> Callable[[jax.Array, int], jax.Array]:
    """Returns a function that does :func:`place` for several arrays of values, with one scatter for all of them."""
    size = position_BN.shape[1]
    index_BN = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32)[None, :], position_BN.shape)
    source_BT = place(index_BN, position_BN, keep_BN, length=length, fill=size)

    def lay_out(values_BN: jax.Array, fill: int) -> jax.Array:
        values_BT = jnp.take_along_axis(values_BN, source_BT, axis=1, mode="clip")
        return jnp.where(source_BT < size, values_BT, jnp.asarray(fill, values_BN.dtype))

    return lay_out


def compact(values_BN: jax.Array, keep_BN: jax.Array, *, length: int, fill: int) -> jax.Array:
    """Moves the kept values of each row to its front, in their order; ``fill`` comes after them."""
    return place(values_BN, running_count(keep_BN) - 1, keep_BN, length=length, fill=fill)
