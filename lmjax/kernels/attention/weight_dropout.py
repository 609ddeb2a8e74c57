"""Dropout of attention weights by a hash: which weights are dropped is a function of key, row, head and positions.

Each backend computes the part of the mask that it needs, where it needs it, in any blocks and on any device, and all
drop the same weights. A few integer operations a weight take the place of a random generator, which costs more than the
rest of attention on TPUs, and nothing has to be kept for the backward pass.

A PRNG key gives a random word for each row and head. Mixed with the number of a query it gives a word for each query,
and that one, mixed with the number of a key, decides. The mixing function is that of Wellons (2018, "Prospecting for
hash functions", `lowbias32`).
"""

import jax
import jax.numpy as jnp
from jax import lax

STEP = 0x9E3779B9 - (1 << 32)
"""The golden ratio as a fraction of 2^32, an odd number: its multiples visit all words, neighbours far apart."""
FACTORS = (0x7FEB352D, 0x846CA68B - (1 << 32))


def query_words(key: jax.Array, batch: int, num_queries: int, num_heads: int) -> jax.Array:
    """Returns a random word for each query of each row and head, int32 [B, T, N]."""
    words_B1N = lax.bitcast_convert_type(jax.random.bits(key, (batch, 1, num_heads), jnp.uint32), jnp.int32)
    words_BTN = words_B1N + STEP * jnp.arange(num_queries, dtype=jnp.int32)[None, :, None]
    mixed_BTN = _mixed(words_BTN)
    return mixed_BTN ^ _shifted(mixed_BTN, 16)


def is_kept(words: jax.Array, key_index: jax.Array, rate: float) -> jax.Array:
    """Returns whether weights stay, bool, with probability ``1 - rate``; the two arrays are broadcast.

    Args:
      words: int32, the words of the queries.
      key_index: int32, the numbers of the keys.
      rate: share of weights dropped, at least 0 and below 1.
    """
    # Words are uniform between -2^31 and 2^31 - 1.
    return _mixed(words ^ (STEP * key_index)) >= round(rate * 2**32) - 2**31


def _mixed(word: jax.Array) -> jax.Array:
    """Returns a permutation of the words in which each bit of the input changes about half of the upper bits."""
    word = (word ^ _shifted(word, 16)) * FACTORS[0]
    return (word ^ _shifted(word, 15)) * FACTORS[1]


def _shifted(word: jax.Array, bits: int) -> jax.Array:
    return lax.shift_right_logical(word, jnp.int32(bits))
