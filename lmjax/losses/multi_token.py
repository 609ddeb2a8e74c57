"""Multi-token prediction: head k of position t names token t + 1 + k (Gloeckle et al. 2024, §2)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lmjax.integers import as_int32
from lmjax.losses.linear import linear_cross_entropy
from lmjax.losses.token import masked_lm_loss
from lmjax.types import IGNORE_INDEX


def multi_token_labels(
    labels: ArrayLike,
    num_heads: int,
    *,
    segments: ArrayLike | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> jax.Array:
    """Returns the label of each head: ``labels[t + 1 + k]``, ignored past the end of the row or of the document.

    Gloeckle et al. 2024, section 2.

    Args:
      labels: integers [..., T], the tokens themselves.
      num_heads: K.
      segments: integers [..., T], the document of each token, 0 for padding; a head never crosses into another
        document, and padding is never a label.
      ignore_index: the label that is not scored.

    Returns:
      int32 [K, ..., T].

    Raises:
      ValueError: fewer than one head.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> print(losses.multi_token_labels([5, 6, 7], 2))
      [[   6    7 -100]
       [   7 -100 -100]]
    """
    if num_heads < 1:
        raise ValueError(f"multi_token_labels: num_heads={num_heads}: must be at least 1")
    labels = as_int32(labels, "labels")

    def ahead(array: jax.Array, steps: int, fill: int) -> jax.Array:
        padding = jnp.full_like(array[..., :steps], fill)
        return jnp.concatenate([array[..., steps:], padding], axis=-1)

    heads = [ahead(labels, k + 1, ignore_index) for k in range(num_heads)]
    if segments is not None:
        segments = as_int32(segments, "segments")
        same = [(ahead(segments, k + 1, 0) == segments) & (segments != 0) for k in range(num_heads)]
        heads = [jnp.where(keep, head, ignore_index) for keep, head in zip(same, heads, strict=True)]
    return jnp.stack(heads)


def multi_token_loss(
    logits_per_head: jax.Array,
    labels: ArrayLike,
    *,
    segments: ArrayLike | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> jax.Array:
    """Mean over the heads of each head's mean cross entropy.

    ``loss = - mean over k of mean over t of log softmax(logits[k, t])[labels[t + 1 + k]]`` (Gloeckle et al. 2024,
    section 2).

    Args:
      logits_per_head: [K, ..., T, V].
      labels: integers [..., T], the tokens themselves (not shifted).
      segments: integers [..., T], the document of each token, 0 for padding, which is not scored.
      ignore_index: the label that is not scored.

    Returns:
      A float32 scalar in nats.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> print(losses.multi_token_loss(jnp.zeros((2, 3, 4)), [1, 2, 3]))  # log 4
      1.3862944
    """
    targets = multi_token_labels(labels, logits_per_head.shape[0], segments=segments, ignore_index=ignore_index)

    def head_loss(head):
        return masked_lm_loss(*head, ignore_index=ignore_index)

    return jnp.mean(jax.lax.map(head_loss, (logits_per_head, targets)))


def linear_multi_token_loss(
    hidden_per_head: jax.Array,
    head: jax.Array,
    labels: ArrayLike,
    *,
    segments: ArrayLike | None = None,
    ignore_index: int = IGNORE_INDEX,
    **options: Any,
) -> jax.Array:
    """The :func:`multi_token_loss` of ``logits = hidden_per_head @ head``, computed in chunks of tokens.

    No head's logits exist whole. Gloeckle et al. 2024, section 2.

    Args:
      hidden_per_head: [K, ..., T, D].
      head: [D, V], shared by the K heads.
      labels: integers [..., T], the tokens themselves (not shifted).
      segments: integers [..., T], the document of each token, 0 for padding, which is not scored.
      ignore_index: the label that is not scored.
      options: those of :func:`lmjax.losses.linear_cross_entropy`.

    Returns:
      A float32 scalar in nats.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> hidden, head = jnp.ones((2, 3, 5)), jnp.zeros((5, 4))
      >>> print(losses.linear_multi_token_loss(hidden, head, [1, 2, 3]))  # log 4
      1.3862944
    """
    num_heads = hidden_per_head.shape[0]
    targets = multi_token_labels(labels, num_heads, segments=segments, ignore_index=ignore_index)
    kept = (targets != ignore_index).astype(jnp.float32)
    each = tuple(range(1, kept.ndim))
    weights = kept / (num_heads * jnp.maximum(jnp.sum(kept, axis=each, keepdims=True), 1.0))
    # With the batch axis first, flattening keeps each row on its device.
    hidden = jnp.moveaxis(hidden_per_head, 0, -3)
    targets, weights = jnp.moveaxis(targets, 0, -2), jnp.moveaxis(weights, 0, -2)
    return linear_cross_entropy(hidden, head, targets, weights, **options)
