"""The scored positions of a row, gathered into a static number of slots.

Only these positions reach the head, which spares most of its work where few positions are scored.
"""

import math

import jax
import jax.numpy as jnp


def slots(length: int, rate: float) -> int:
    """Returns how many slots a row of ``length`` tokens needs, if each is scored with probability ``rate``.

    The number is five standard deviations above the mean, rounded up to a multiple of 8, and at most ``length``.
    """
    deviations = 5 * math.sqrt(length * rate * (1 - rate))
    return min(length, -(-math.ceil(length * rate + deviations) // 8) * 8)


def scored_positions(is_scored_BT: jax.Array, num_slots: int) -> jax.Array:
    """Returns the indices of the scored positions in ascending order, int32 [B, num_slots]; empty slots hold T."""
    length = is_scored_BT.shape[1]
    slot_BT = jnp.where(is_scored_BT, jnp.cumsum(is_scored_BT, axis=1, dtype=jnp.int32) - 1, num_slots)
    index_BT = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None, :], slot_BT.shape)

    def compact(slot_T: jax.Array, index_T: jax.Array) -> jax.Array:
        return jnp.full((num_slots,), length, jnp.int32).at[slot_T].set(index_T, mode="drop")

    return jax.vmap(compact)(slot_BT, index_BT)


def scored_targets(scored_BP: jax.Array, labels_BT: jax.Array, weights_BT: jax.Array) -> dict:
    """Returns the fields ``scored_BP``, ``targets_BP`` and ``weights`` of a :class:`~lmjax.types.Batch`.

    Args:
      scored_BP: from :func:`scored_positions`.
      labels_BT: the right token of each position.
      weights_BT: the loss weight of each position; an empty slot weighs 0.
    """
    length = labels_BT.shape[1]
    filled_BP = scored_BP < length
    scored_BP = jnp.minimum(scored_BP, length - 1)
    weights_BP = jnp.take_along_axis(weights_BT, scored_BP, axis=1) * filled_BP
    targets_BP = jnp.where(filled_BP, jnp.take_along_axis(labels_BT, scored_BP, axis=1), 0)
    return {"scored_BP": scored_BP, "targets_BP": targets_BP, "weights": {"loss": weights_BP}}
