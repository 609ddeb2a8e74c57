"""A bias of distances inside the Pallas kernels of attention on TPUs, and its gradient.

A bias that depends only on the distance of query and key has one number for each distance. Within a block the numbers
along a diagonal are equal, and so are tiles of 128 keys and 128 queries on one diagonal of tiles. A tile is made of 256
numbers: each of its rows is a copy of them, row s rotated by s. The gradient goes the way back.

Axes: L distances of a row: entry x is the distance x - S of a query from a key, where S counts the keys with padding;
W distances of a block; R queries of a block times the query heads of a key-value head.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lmjax.kernels.attention.position_bias import PositionBias
from lmjax.kernels.attention.tpu_blocks import LANES, LOG2_E, Plan


def by_distance(bias: PositionBias, *, num_queries: int, num_keys: int) -> jax.Array:
    """Returns the bias of each distance of a query from a key, float32 [N, L] with L = T + S.

    Args:
      bias: must depend on the distance alone.
      num_queries: T, with padding.
      num_keys: S, with padding.
    """
    distance_1L = jnp.arange(-num_keys, num_queries, dtype=jnp.int32)[None, :]
    bias_1NL1 = bias.block(distance_1L, jnp.zeros((1, 1), jnp.int32))
    return bias_1NL1[0, :, :, 0].astype(jnp.float32)


def bias_of_block(
    plan: Plan, bias_ref: Any, block: jax.Array, number: jax.Array, num_blocks: int | jax.Array
) -> jax.Array:
    """Returns the bias of a block of logits for base 2, float32 [S, R].

    Args:
      plan: the settings.
      bias_ref: float32 [1, G, L], the bias of the query heads of a key-value head.
      block: the number of the block of queries.
      number: the number of the block of keys.
      num_blocks: the number of blocks of keys in a row.
    """
    part = _distances(plan, block, number, num_blocks)
    heads = [spread(plan, bias_ref[0, head : head + 1, part] * LOG2_E) for head in range(bias_ref.shape[1])]
    return jnp.concatenate(heads, axis=1)


def add_bias_gradient(
    plan: Plan,
    total_ref: Any,
    grad_logits_SR: jax.Array,
    block: jax.Array,
    number: jax.Array,
    num_blocks: int | jax.Array,
) -> None:
    """Adds the sums of a block's gradient along its diagonals to ``total_ref``, float32 [1, G, L].

    The other arguments are those of :func:`bias_of_block`.
    """
    part = _distances(plan, block, number, num_blocks)
    for head in range(total_ref.shape[1]):
        columns = slice(head * plan.query_block, (head + 1) * plan.query_block)
        total_ref[0, head : head + 1, part] += summed(plan, grad_logits_SR[:, columns])


def _distances(plan: Plan, block: jax.Array, number: jax.Array, num_blocks: int | jax.Array) -> Any:
    """Returns where the W distances of a block lie: entry w of them is the distance w - S, with S the keys of a block.

    The first query of the block has the distance ``block * T - number * S`` from its first key.
    """
    first = block * plan.query_block + (num_blocks - 1 - number) * plan.key_block
    return pl.ds(pl.multiple_of(first, LANES), plan.key_block + plan.query_block)


def spread(plan: Plan, bias_1W: jax.Array) -> jax.Array:
    """Returns a block of one head, [S, T], whose entry (s, t) is entry S + t - s of ``bias_1W``, float32 [1, W]."""
    tiles = {}
    for diagonal in range(1 - plan.key_block // LANES, plan.query_block // LANES):
        rows = jnp.broadcast_to(bias_1W[:, _of_diagonal(plan, diagonal)], (LANES, 2 * LANES))
        tiles[diagonal] = pltpu.roll(rows, 0, 1, stride=1, stride_axis=0)[:, LANES:]
    down, across = range(plan.key_block // LANES), range(plan.query_block // LANES)
    return jnp.concatenate([jnp.concatenate([tiles[b - a] for b in across], axis=1) for a in down], axis=0)


def summed(plan: Plan, grad_ST: jax.Array) -> jax.Array:
    """Returns float32 [1, W] for a block of one head [S, T]: entry w is the sum of the entries with S + t - s = w."""
    down, across = plan.key_block // LANES, plan.query_block // LANES
    halves = [jnp.zeros((1, LANES), jnp.float32) for _ in range(down + across)]
    for diagonal in range(1 - down, across):
        pairs = [(a, a + diagonal) for a in range(down) if 0 <= a + diagonal < across]
        tile = sum(grad_ST[a * LANES : (a + 1) * LANES, b * LANES : (b + 1) * LANES] for a, b in pairs)
        rows = jnp.concatenate([jnp.zeros_like(tile), tile], axis=1)
        # Row s is to be rotated by -s, and all rows are to be added: half of them at a time.
        size = LANES
        while size > 1:
            size //= 2
            rows = rows[:size] + pltpu.roll(rows[size:], 2 * LANES - size, 1)
        first = _of_diagonal(plan, diagonal).start // LANES
        halves[first] += rows[:, :LANES]
        halves[first + 1] += rows[:, LANES:]
    return jnp.concatenate(halves, axis=1)


def _of_diagonal(plan: Plan, diagonal: int) -> slice:
    """Returns the 256 distances of the tiles of a diagonal: those of tile (a, b) with ``diagonal = b - a``."""
    middle = plan.key_block + diagonal * LANES
    return slice(middle - LANES, middle + LANES)
