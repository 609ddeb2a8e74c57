"""Spans of random length at random places, which together cover a given share of a row.

SpanBERT and BART both draw span lengths one by one until their sum reaches the budget, and shorten the last one. Here
the places of all spans are then drawn at once. Every arrangement in which spans do not touch is equally likely.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.layout import choose, place, running_count


class PlacedSpans(NamedTuple):
    """The places of the spans of each row, counted in units (words, or tokens)."""

    span_BT: jax.Array
    """int32: the number of each unit's span, from 1 in the order of the row; 0 where there is no span."""
    empty_BT: jax.Array
    """bool: whether a span of length 0 lies before this unit."""


def draw_lengths(key: jax.Array, shape: tuple[int, ...], probabilities: np.ndarray, *, least: int) -> jax.Array:
    """Draws lengths ``least, least + 1, ...`` (int32) with the given probabilities, which are known while tracing."""
    cumulative = np.cumsum(probabilities)
    thresholds = jnp.asarray((cumulative / cumulative[-1])[:-1], jnp.float32)
    lengths = jnp.searchsorted(thresholds, jax.random.uniform(key, shape), side="right")
    return least + lengths.astype(jnp.int32)


def place_spans(key: jax.Array, lengths_BT: jax.Array, units_B1: jax.Array, rate: float | jax.Array) -> PlacedSpans:
    """Covers ``rate`` of each row's units with spans.

    The budget is ``rate * units`` rounded up or down at random so that its mean is exact. At least one unit lies
    between two spans; if ``rate`` is so high that the spans do not fit, the last are dropped.

    Args:
      key: PRNG key.
      lengths_BT: int32 lengths in the order of use; only as many are used as the budget needs.
      units_B1: int32, the number of units of each row; they are its first positions.
      rate: share of the units to cover; may be traced.
    """
    budget_key, slot_key = jax.random.split(key)
    num_rows, length = lengths_BT.shape
    index_BT = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None, :], lengths_BT.shape)
    rounding_B1 = jax.random.uniform(budget_key, (num_rows, 1))
    budget_B1 = jnp.floor(rate * units_B1.astype(jnp.float32) + rounding_B1).astype(jnp.int32)
    earlier_BT = jnp.cumsum(lengths_BT, axis=1) - lengths_BT
    # Span q goes before the unit that follows its slot: a slot is a gap between units left uncovered.
    slots_B1 = jnp.minimum(units_B1 - budget_B1 + 1, length)
    used_BT = (earlier_BT < budget_B1) & (index_BT < slots_B1)
    lengths_BT = jnp.where(used_BT, jnp.minimum(lengths_BT, budget_B1 - earlier_BT), 0)
    beyond_BT = index_BT >= slots_B1
    bounds_BT = jnp.where(beyond_BT, slots_B1, 0), jnp.where(beyond_BT, length, slots_B1)
    count_BT = jnp.where(beyond_BT, 0, used_BT.sum(axis=1, keepdims=True))
    slot_BT = choose(slot_key, beyond_BT.astype(jnp.int32), bounds_BT, count_BT, num_groups=2)
    span_BT = jnp.maximum(running_count(slot_BT) - 1, 0)
    begin_BT = index_BT + jnp.take_along_axis(earlier_BT, span_BT, axis=1)
    size_BT = jnp.take_along_axis(lengths_BT, span_BT, axis=1)
    filled_BT = slot_BT & (size_BT > 0)
    ones_BT = jnp.ones_like(index_BT)
    rises_BT = place(ones_BT, begin_BT, filled_BT, length=length, fill=0)
    falls_BT = place(ones_BT, begin_BT + size_BT, filled_BT, length=length, fill=0)
    inside_BT = jnp.cumsum(rises_BT - falls_BT, axis=1) > 0
    empty_BT = place(slot_BT, begin_BT, slot_BT & (size_BT == 0), length=length, fill=0)
    return PlacedSpans(jnp.where(inside_BT, running_count(rises_BT), 0), empty_BT & (index_BT < units_B1))
