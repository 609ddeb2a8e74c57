"""Sampling of tokens from logits with few random numbers."""

import jax
import jax.numpy as jnp


def gumbel_sample(key: jax.Array, logits: jax.Array) -> jax.Array:
    """Samples ``v`` with probability ``softmax(logits)_v`` along the last axis, from little noise.

    The largest of ``logits_v + Gumbel noise`` within a block of the vocabulary is itself
    ``logsumexp(block) + Gumbel noise``: first a block is drawn that way, then an id in it. This takes about 2 sqrt(V)
    random numbers. :func:`jax.random.categorical` draws V of them, which costs more than computing the logits.

    Args:
      key: PRNG key.
      logits: float [..., V]; minus infinity is never sampled.

    Returns:
      int32 [...], the ids.

    Source: Maddison et al. 2014, "A* Sampling", section 2 (the maximum of Gumbels, top down).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from lmjax import corruption
      >>> print(corruption.gumbel_sample(jax.random.key(0), jnp.array([-jnp.inf, 0.0, -jnp.inf])))
      1
    """
    vocab_size = logits.shape[-1]
    block = 1 << (vocab_size.bit_length() // 2)
    padded = jnp.pad(logits, [(0, 0)] * (logits.ndim - 1) + [(0, -vocab_size % block)], constant_values=-jnp.inf)
    blocks = padded.reshape(*logits.shape[:-1], -1, block)
    block_key, id_key = jax.random.split(key)
    chosen = jax.random.categorical(block_key, jax.nn.logsumexp(blocks, axis=-1))
    of_block = jnp.take_along_axis(blocks, chosen[..., None, None], axis=-2).squeeze(-2)
    return (chosen * block + jax.random.categorical(id_key, of_block)).astype(jnp.int32)
