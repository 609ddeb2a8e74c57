"""Loss weights for objectives that move tokens and insert others between them.

The weights of the data are indexed by the original position of a token. To find where each token went, the
same corruption is run once more, with the same key, on rows that hold position codes instead of tokens.

Axes: K documents of a row.
"""

import jax
import jax.numpy as jnp

from lmjax.layout import documents, place
from lmjax.objectives.parts.token_objective import token_weights
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Rows


def place_codes(rows: Rows, vocabulary: Vocabulary) -> jax.Array:
    """Returns position codes: rows with ``vocabulary.size + t`` at position ``t``, int32 [B, T].

    A document's first and last token stay if they are the begin and end of text, because corruption
    recognises these by their ids.
    """
    where = documents(rows.segments_BT, rows.tokens_BT.shape)
    begins_BT = where.first & (rows.tokens_BT == (-1 if vocabulary.bos_id is None else vocabulary.bos_id))
    ends_BT = where.last & (rows.tokens_BT == (-1 if vocabulary.eos_id is None else vocabulary.eos_id))
    return jnp.where(begins_BT | ends_BT, rows.tokens_BT, vocabulary.size + where.index_BT)


def moved_weights(rows: Rows, codes: Rows, vocabulary: Vocabulary) -> jax.Array:
    """Returns the weight of each token of corrupted rows as a target.

    Args:
      rows: the data.
      codes: what corruption made of :func:`place_codes`.
      vocabulary: as there.

    Returns:
      float32, the shape of ``codes``. A token of the data keeps its weight, a token that corruption inserted
      weighs as much as its document's last token, and padding weighs 0.
    """
    weights_BT = token_weights(rows)
    where = documents(rows.segments_BT, weights_BT.shape)
    number_BT = jnp.ones_like(rows.tokens_BT) if rows.segments_BT is None else rows.segments_BT
    length = weights_BT.shape[1]
    # Entry k is the weight of the last token of document k; entry 0, padding, stays 0.
    last_BK = place(weights_BT, number_BT, where.last, length=length + 1, fill=0)
    code_number_BT = jnp.ones_like(codes.tokens_BT) if codes.segments_BT is None else codes.segments_BT
    own_BT = jnp.take_along_axis(weights_BT, jnp.clip(codes.tokens_BT - vocabulary.size, 0, length - 1), axis=1)
    added_BT = jnp.take_along_axis(last_BK, code_number_BT, axis=1)
    return jnp.where(codes.tokens_BT >= vocabulary.size, own_BT, added_BT) * (code_number_BT > 0)
