"""Tests of token ids: which may be corrupted, which may be drawn as random replacements, and which are invalid."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def is_special(tokens: jax.Array, *, vocab_size: int, special_ids: Sequence[int]) -> jax.Array:
    """Returns whether each token is in ``special_ids`` or not an id (negative, or not below ``vocab_size``); bool."""
    special_V = np.zeros(vocab_size, bool)
    special_V[list(special_ids)] = True
    is_id = (tokens >= 0) & (tokens < vocab_size)
    return jnp.asarray(special_V)[jnp.where(is_id, tokens, 0)] | ~is_id


def random_ids(key: jax.Array, shape: tuple[int, ...], *, vocab_size: int, special_ids: Sequence[int]) -> jax.Array:
    """Draws ids uniformly from the vocabulary without ``special_ids`` (int32).

    Raises:
      ValueError: every id is special.
    """
    ordinary = np.setdiff1d(np.arange(vocab_size, dtype=np.int32), np.asarray(special_ids, np.int32))
    if ordinary.size == 0:
        raise ValueError(f"special_ids cover all {vocab_size} ids of vocab_size: nothing is left to draw from")
    # 32 random bits modulo the count: no id is favoured by more than count / 2^32.
    draws = jax.random.bits(key, shape, jnp.uint32) % jnp.uint32(ordinary.size)
    return jnp.asarray(ordinary)[draws.astype(jnp.int32)]


def check_ids(function: str, *, vocab_size: int, **named_ids: int | Sequence[int] | None) -> None:
    """Refuses ids outside of the vocabulary, naming the argument.

    Raises:
      ValueError: an id is negative or not below ``vocab_size``.
    """
    for name, value in named_ids.items():
        if value is None:
            continue
        for token_id in np.atleast_1d(np.asarray(value, np.int64)):
            if not 0 <= token_id < vocab_size:
                raise ValueError(f"{function}: {name} has id {token_id}: ids lie in 0 .. {vocab_size - 1} (vocab_size)")
