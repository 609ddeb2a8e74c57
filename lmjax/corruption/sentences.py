"""Numbers of sentences, found by the tokens that end a sentence."""

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.integers import as_int32
from lmjax.layout import running_count


def sentence_numbers(tokens_BT: jax.Array, sentence_end_V: np.ndarray | jax.Array) -> jax.Array:
    """Numbers the sentences of each row. A sentence ends with the last of consecutive tokens that end sentences.

    BART splits documents at full stops in this way (Lewis et al. 2020, section 2.2). A full stop within a number or a
    name ends a sentence, too. ``number[t]`` is the number of sentences that begin at positions ``1 <= s <= t``.

    Args:
      tokens_BT: int32 ids.
      sentence_end_V: bool [V], whether a sentence ends with the token (``vocabulary.sentence_end_V``).

    Returns:
      int32 [B, T], from 0 and rising along the row, as :func:`lmjax.corruption.denoise` takes it.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import corruption
      >>> print(corruption.sentence_numbers(jnp.array([[5, 2, 6, 7, 2, 8]]), jnp.arange(9) == 2))
      [[0 0 1 1 1 2]]
    """
    ends_BT = jnp.asarray(sentence_end_V, bool)[as_int32(tokens_BT, "tokens_BT")]
    begins_BT = jnp.pad(ends_BT[:, :-1] & ~ends_BT[:, 1:], ((0, 0), (1, 0)))
    return running_count(begins_BT)
