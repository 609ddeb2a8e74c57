"""Losses of two-way decisions: was this token replaced, does this pair belong together."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lmjax.integers import as_int32
from lmjax.losses.token import cross_entropy
from lmjax.types import IGNORE_INDEX


def replaced_token_loss(logits: jax.Array, is_replaced: ArrayLike, *, ignore_index: int = IGNORE_INDEX) -> jax.Array:
    """Binary cross entropy of each position's "this token is not the original".

        loss = softplus(logit) - is_replaced logit        (ELECTRA, Clark et al. 2020, section 2)

    Args:
      logits: [...], the discriminator's score that the token was replaced, any float dtype.
      is_replaced: booleans, or integers 0 and 1, [...]; ``ignore_index`` where nothing is scored.
      ignore_index: the label that gives 0.

    Returns:
      float32 [...], in nats, unreduced; NaN where a label is another number.

    Raises:
      ValueError: shapes that differ, or labels that are no integers.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> print(losses.replaced_token_loss(jnp.array([0.0, 3.0]), [1, -100]))  # log 2, not scored
      [0.6931472 0.       ]
    """
    is_replaced = as_int32(is_replaced, "is_replaced")
    if logits.shape != is_replaced.shape:
        raise ValueError(f"replaced_token_loss: logits {logits.shape} and is_replaced {is_replaced.shape} differ")
    ignored = is_replaced == ignore_index
    logits = jnp.where(ignored, 0.0, logits.astype(jnp.float32))
    loss = jax.nn.softplus(logits) - is_replaced.astype(jnp.float32) * logits
    is_label = (is_replaced == 0) | (is_replaced == 1)
    return jnp.where(ignored, 0.0, jnp.where(is_label, loss, jnp.nan))


def pair_loss(logits: jax.Array, labels: ArrayLike, *, ignore_index: int = IGNORE_INDEX) -> jax.Array:
    """Cross entropy of whether two segments follow one another or are in order.

    ``loss = logsumexp(logits) - logits[label]`` (BERT, Devlin et al. 2019, section 3.1; ALBERT, Lan et al. 2020,
    section 3.1).

    Args:
      logits: [..., 2].
      labels: integers [...], 0 or 1, ``ignore_index`` for a row that holds no pair.
      ignore_index: the label that gives 0.

    Returns:
      float32 [...], in nats, unreduced.

    Raises:
      ValueError: logits that are not two-way, or shapes that do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> print(losses.pair_loss(jnp.zeros((2, 2)), [1, -100]))  # log 2, not scored
      [0.6931472 0.       ]
    """
    if logits.shape[-1:] != (2,):
        raise ValueError(f"pair_loss: logits {logits.shape} must end in an axis of 2")
    return cross_entropy(logits, labels, ignore_index=ignore_index)
