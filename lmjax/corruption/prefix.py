"""Prefix language modelling: where each document's bidirectional prefix ends.

T5's prefix LM (Raffel et al. 2020, section 3.2.1): a document is cut at a uniformly random point,
the model reads the part before it in both directions and predicts the part after.
"""

import jax
import jax.numpy as jnp

from lmjax import masks
from lmjax.rates import check_rate


def split_prefix(key: jax.Array, segments_BT: jax.Array, *, empty_fraction: float | jax.Array = 0.0) -> jax.Array:
    """A uniformly random split of every document, independent of every other.

    A document of n tokens gets a prefix of ``1 .. n - 1`` tokens, each length equally likely. A document of a single
    token and padding get an empty prefix.

    Raffel et al. 2020, section 3.2.1.

    Args:
      key: PRNG key.
      segments_BT: int32 document numbers, 0 for padding.
      empty_fraction: probability of a document to get an empty prefix in place of a split; may be traced.

    Returns:
      int32 [B, T]: the index into the row of the first token after the prefix of each token's
      document, as :func:`lmjax.masks.packed` takes it.

    Raises:
      ValueError: ``empty_fraction`` is outside of [0, 1].

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from lmjax import corruption
      >>> print(corruption.split_prefix(jax.random.key(0), jnp.array([[1, 1, 2, 2, 0]])))
      [[1 1 3 3 4]]
    """
    check_rate("split_prefix", empty_fraction=empty_fraction)
    start_BT, end_BT = masks.document_bounds(segments_BT)
    bits_BT = jax.random.bits(key, segments_BT.shape, jnp.uint32)
    document_bits_BT = jnp.take_along_axis(bits_BT, start_BT, axis=1)
    choices_BT = end_BT - start_BT - 1
    offset_BT = document_bits_BT % jnp.maximum(choices_BT, 1).astype(jnp.uint32)
    empty_BT = jax.random.uniform(jax.random.fold_in(key, 1), segments_BT.shape) < empty_fraction
    has_prefix_BT = (choices_BT > 0) & (segments_BT != 0) & ~jnp.take_along_axis(empty_BT, start_BT, axis=1)
    return start_BT + jnp.where(has_prefix_BT, 1 + offset_BT.astype(jnp.int32), 0)
