"""Scheduled sampling: the model's own predictions mixed into what it reads.

Bengio et al. 2015, section 2.4, in the two-pass form for transformers (Mihaylova and Martins 2019):
the first pass predicts every token from the true ones, the second reads a mix of both.
"""

import jax
import jax.numpy as jnp

from lmjax.integers import as_int32
from lmjax.layout import documents
from lmjax.rates import check_rate


def predicted_positions(
    key: jax.Array,
    shape: tuple[int, ...],
    *,
    teacher_rate: float | jax.Array,
    segments_BT: jax.Array | None = None,
) -> jax.Array:
    """Chooses the positions that read a prediction, each with probability ``1 - teacher_rate`` (bool [B, T]).

    Args:
      key: PRNG key.
      shape: [B, T].
      teacher_rate: probability of the true token; may be traced.
      segments_BT: document numbers, 0 for padding; ``None``: one document fills the row.

    Returns:
      bool [B, T]; padding and the first token of a document, which nothing predicts, are never chosen.

    Raises:
      ValueError: ``teacher_rate`` is not in [0, 1].
    """
    check_rate("predicted_positions", teacher_rate=teacher_rate)
    where = documents(segments_BT, shape)
    predictable_BT = where.real_BT & (where.index_BT > where.start_BT)
    return predictable_BT & (jax.random.uniform(key, shape) >= teacher_rate)


def put_predictions(tokens_BT: jax.Array, predictions_BT: jax.Array, predicted_BT: jax.Array) -> jax.Array:
    """Replaces each ``predicted`` token by the prediction that the position before it makes.

    Args:
      tokens_BT: int32, the true tokens.
      predictions_BT: int32, what the first pass predicts at each position, for the next one.
      predicted_BT: bool, see :func:`predicted_positions`.
    """
    prediction_BT = jnp.roll(as_int32(predictions_BT, "predictions_BT"), 1, axis=1)
    return jnp.where(predicted_BT, prediction_BT, as_int32(tokens_BT, "tokens_BT"))


def mix_predictions(
    key: jax.Array,
    tokens_BT: jax.Array,
    predictions_BT: jax.Array,
    *,
    teacher_rate: float | jax.Array,
    segments_BT: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Puts the model's prediction in place of each token with probability ``1 - teacher_rate``.

    Bengio et al. 2015, section 2.4; Mihaylova and Martins 2019, section 3.

    Args:
      key: PRNG key.
      tokens_BT: int32, the true tokens.
      predictions_BT: int32, what the first pass predicts at each position, for the next one.
      teacher_rate: probability of the true token; may be traced.
      segments_BT: document numbers, 0 for padding; ``None``: one document fills the row.

    Returns:
      ``(inputs_BT, predicted_BT)``: the tokens to read in the second pass, and which are predictions.
      The first token of a document is always the true one, for nothing predicts it.

    Raises:
      ValueError: ``teacher_rate`` is not in [0, 1].

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from lmjax import corruption
      >>> tokens_BT, predictions_BT = jnp.array([[5, 6, 7]]), jnp.array([[6, 9, 8]])
      >>> inputs_BT, predicted_BT = corruption.mix_predictions(
      ...     jax.random.key(0), tokens_BT, predictions_BT, teacher_rate=0.0
      ... )
      >>> print(inputs_BT, predicted_BT)
      [[5 6 9]] [[False  True  True]]
    """
    predicted_BT = predicted_positions(key, tokens_BT.shape, teacher_rate=teacher_rate, segments_BT=segments_BT)
    return put_predictions(tokens_BT, predictions_BT, predicted_BT), predicted_BT
