"""Sampling of tokens from logits with few random numbers.

Axes: K blocks of the vocabulary, C ids of a block.
"""

import jax
import jax.numpy as jnp


def gumbel_sample(key: jax.Array, logits_V: jax.Array) -> jax.Array:
    """Samples ``v`` with probability ``softmax(logits)_v`` along the last axis, from little noise.

    The largest of ``logits_v + Gumbel noise`` within a block of the vocabulary is itself
    ``logsumexp(block) + Gumbel noise``: first a block is drawn that way, then an id in it. This takes about 2 sqrt(V)
    random numbers. :func:`jax.random.categorical` draws V of them, which costs more than computing the logits.

    Args:
      key: PRNG key.
      logits_V: float [..., V]; minus infinity is never sampled.

    Returns:
      int32 [...], the ids.

    Source: Maddison et al. 2014, "A* Sampling", section 2 (the maximum of Gumbels, top down).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from lmjax import corruption
      >>> print(corruption.gumbel_sample(jax.random.key(0), jnp.array([-jnp.inf, 0.0, -jnp.inf])))
      1
    """
    vocab_size = logits_V.shape[-1]
    block = 1 << (vocab_size.bit_length() // 2)
    padded = jnp.pad(logits_V, [(0, 0)] * (logits_V.ndim - 1) + [(0, -vocab_size % block)], constant_values=-jnp.inf)
    logits_KC = padded.reshape(*logits_V.shape[:-1], -1, block)
    block_key, id_key = jax.random.split(key)
    chosen = jax.random.categorical(block_key, jax.nn.logsumexp(logits_KC, axis=-1))
    logits_C = jnp.take_along_axis(logits_KC, chosen[..., None, None], axis=-2).squeeze(-2)
    return (chosen * block + jax.random.categorical(id_key, logits_C)).astype(jnp.int32)
