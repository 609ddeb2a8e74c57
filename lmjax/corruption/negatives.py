"""Negatives to train against: tokens that must not be repeated, and rows with some wrong tokens.

Axes: C candidates.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.corruption.ids import check_ids, is_special
from lmjax.integers import as_int32
from lmjax.layout import documents
from lmjax.rates import check_rate
from lmjax.types import IGNORE_INDEX


def previous_candidates(
    targets_BT: jax.Array, *, window: int, segments_BT: jax.Array | None = None, ignore_index: int = IGNORE_INDEX
) -> jax.Array:
    """Lists the unlikelihood candidates of each position: the tokens of its context that are not its target.

    The set ``{x_1 .. x_(t-1)} \\ {x_t}`` of Welleck et al. 2020, section 4.1, within the last
    ``window`` tokens of the document; every distinct token is listed once.

    Args:
      targets_BT: int32 ids.
      window: how many tokens to look back; T is the whole context, and gives T ids for each position.
      segments_BT: document numbers, 0 for padding; ``None``: one document fills the row.
      ignore_index: fills the places that hold no candidate.

    Returns:
      int32 [B, T, window]; place c holds the token c + 1 positions back, if it is a candidate.

    Raises:
      ValueError: ``window`` is below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import corruption
      >>> print(corruption.previous_candidates(jnp.array([[5, 6, 5]]), window=2))
      [[[-100 -100]
        [   5 -100]
        [   6 -100]]]
    """
    if window < 1:
        raise ValueError(f"previous_candidates: window={window}: must be at least 1 token")
    targets_BT = as_int32(targets_BT, "targets_BT")
    where = documents(segments_BT, targets_BT.shape)
    # The positions of a document are sorted by token, so the next entry of the list is the token's next occurrence.
    *same, order_BT = jax.lax.sort((where.number_BT, targets_BT, where.index_BT), dimension=1, num_keys=3)
    repeats_BT = jnp.logical_and(*(jnp.roll(value_BT, -1, axis=1) == value_BT for value_BT in same))
    repeats_BT &= where.index_BT < targets_BT.shape[1] - 1
    next_BT = jnp.where(repeats_BT, jnp.roll(order_BT, -1, axis=1), jnp.iinfo(jnp.int32).max)
    next_BT = jax.vmap(lambda order, value: jnp.zeros_like(value).at[order].set(value))(order_BT, next_BT)
    back_C = jnp.arange(1, window + 1, dtype=jnp.int32)
    from_BTC = where.index_BT[:, :, None] - back_C[None, None, :]

    def context(values_BT: jax.Array) -> jax.Array:
        return jax.vmap(lambda row, at: row[at])(values_BT, jnp.maximum(from_BTC, 0))

    # A token is listed at its last occurrence before the position, and not if its next occurrence is the target
    # itself.
    is_last_BTC = context(next_BT) > where.index_BT[:, :, None]
    valid_BTC = is_last_BTC & (from_BTC >= where.start_BT[:, :, None]) & where.real_BT[:, :, None]
    return jnp.where(valid_BTC, context(targets_BT), ignore_index)


def corrupt_negatives(
    key: jax.Array,
    tokens_BT: jax.Array,
    *,
    vocab_size: int,
    special_ids: Sequence[int] = (),
    rate: float | jax.Array = 0.15,
    segments_BT: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Replaces a share of the tokens by wrong ones; a margin loss then compares these rows with the true rows.

    Collobert and Weston 2008, section 3.4.

    Args:
      key: PRNG key.
      tokens_BT: int32 ids.
      vocab_size: ids are below this.
      special_ids: ids that are neither replaced nor drawn.
      rate: probability of a token to be replaced; may be traced.
      segments_BT: document numbers, 0 for padding; ``None``: no padding.

    Returns:
      ``(negatives_BT, replaced_BT)``; a replacement always differs from the original and is uniform
      over the other ordinary ids.

    Raises:
      ValueError: an impossible rate or id, or fewer than two ordinary ids.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from lmjax import corruption
      >>> negatives_BT, replaced_BT = corruption.corrupt_negatives(
      ...     jax.random.key(0), jnp.array([[0, 1, 1]]), vocab_size=2, rate=1.0
      ... )
      >>> print(negatives_BT, replaced_BT)
      [[1 0 0]] [[ True  True  True]]
    """
    check_rate("corrupt_negatives", rate=rate)
    check_ids("corrupt_negatives", vocab_size=vocab_size, special_ids=special_ids)
    ordinary = np.setdiff1d(np.arange(vocab_size, dtype=np.int32), np.asarray(special_ids, np.int32))
    if ordinary.size < 2:
        raise ValueError(f"corrupt_negatives: special_ids leave {ordinary.size} ids of vocab_size={vocab_size}: need 2")
    rank_V = np.zeros(vocab_size, np.int32)
    rank_V[ordinary] = np.arange(ordinary.size)
    tokens_BT = as_int32(tokens_BT, "tokens_BT")
    choose_key, step_key = jax.random.split(key)
    eligible_BT = ~is_special(tokens_BT, vocab_size=vocab_size, special_ids=special_ids)
    if segments_BT is not None:
        eligible_BT &= segments_BT != 0
    replaced_BT = eligible_BT & (jax.random.uniform(choose_key, tokens_BT.shape) < rate)
    # The ordinary ids form a circle of n; a step of 1 to n - 1 ids along it always ends at another id.
    bits_BT = jax.random.bits(step_key, tokens_BT.shape, jnp.uint32)
    steps_BT = 1 + (bits_BT % jnp.uint32(ordinary.size - 1)).astype(jnp.int32)
    wrong_BT = jnp.asarray(ordinary)[(jnp.asarray(rank_V)[tokens_BT] + steps_BT) % ordinary.size]
    return jnp.where(replaced_BT, wrong_BT, tokens_BT), replaced_BT
