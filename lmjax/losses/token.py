"""Losses of a token given its logits, one value for each position, and the units in which they are reported.

Every label smoothing is one formula. With a target distribution that puts ``a + b`` on the target
and ``b`` on every other of the V tokens, ``a + b V = 1``,

    loss = logsumexp(z) - a z[target] - b sum(z)   (+ z_loss logsumexp(z)²)
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lmjax.integers import as_int32
from lmjax.types import IGNORE_INDEX

Smoothing = Literal["uniform", "others"]


def smoothing_weights(label_smoothing: float, smoothing: Smoothing, vocab_size: int) -> tuple[float, float]:
    """The ``(a, b)`` of the module's formula.

    Args:
      label_smoothing: the probability taken from the target, in [0, 1).
      smoothing: ``"uniform"`` spreads it over all V tokens (torch), ``"others"`` over the V - 1
        tokens that are not the target (T5X).
      vocab_size: V.

    Raises:
      ValueError: a rate outside [0, 1) or an unknown convention.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing={label_smoothing}: must be at least 0 and under 1")
    if smoothing == "uniform":
        spread = label_smoothing / vocab_size
        return 1 - label_smoothing, spread
    if smoothing == "others":
        if vocab_size == 1:
            return 1.0, 0.0  # there is no other token that could have the probability
        spread = label_smoothing / (vocab_size - 1)
        return 1 - label_smoothing - spread, spread
    raise ValueError(f"smoothing={smoothing!r}: use 'uniform' or 'others'")


def cross_entropy(
    logits: jax.Array,
    targets: ArrayLike,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    smoothing: Smoothing = "uniform",
    ignore_index: int = IGNORE_INDEX,
) -> jax.Array:
    """Cross entropy of each position, in nats, unreduced.

    Without smoothing and z-loss this is ``logsumexp(logits) - logits[target]``. Label smoothing is that of
    Szegedy et al. 2016, section 7, and the z-loss that of PaLM (Chowdhery et al. 2022, section 5).

    Args:
      logits: [..., T, V], any float dtype; the arithmetic is float32.
      targets: integers [..., T].
      label_smoothing: probability moved from the target to other tokens, in [0, 1).
      z_loss: coefficient of ``logsumexp(logits)²``, which keeps the normaliser near 1 (PaLM, section 5).
      smoothing: where the smoothed probability goes, see :func:`smoothing_weights`.
      ignore_index: positions with this target give 0, and a gradient of 0.

    Returns:
      float32 [..., T]. A target that is neither ignored nor in [0, V) gives NaN: a wrong id must
      not train in silence.

    Raises:
      ValueError: shapes that do not match, or a bad smoothing.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
      >>> print(losses.cross_entropy(logits, [1]))  # -log 0.25
      [1.3862944]
    """
    targets = as_int32(targets, "targets")
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"cross_entropy: logits {logits.shape} need targets of shape {logits.shape[:-1]}, not {targets.shape}"
        )
    vocab_size = logits.shape[-1]
    on_target, spread = smoothing_weights(label_smoothing, smoothing, vocab_size)
    ignored = targets == ignore_index
    # The logits are replaced, not only the loss: the gradient of an infinite logit is NaN even if multiplied by 0.
    logits = jnp.where(ignored[..., None], 0.0, logits.astype(jnp.float32))
    index = jnp.clip(targets, 0, vocab_size - 1)
    target_logit = jnp.take_along_axis(logits, index[..., None], axis=-1)[..., 0]
    log_normaliser = jax.nn.logsumexp(logits, axis=-1)
    loss = log_normaliser - on_target * target_logit
    if spread:
        loss -= spread * jnp.sum(logits, axis=-1)
    if z_loss:
        loss += z_loss * jnp.square(log_normaliser)
    loss = jnp.where(index == targets, loss, jnp.nan)
    return jnp.where(ignored, 0.0, loss)


def mean_kept(losses: jax.Array, kept: jax.Array) -> jax.Array:
    """Mean of ``losses`` over the positions that are ``kept`` (booleans); 0 when there are none."""
    total = jnp.sum(jnp.where(kept, losses, 0.0))
    return total / jnp.maximum(jnp.sum(kept.astype(jnp.float32)), 1.0)


def masked_lm_loss(logits: jax.Array, labels: ArrayLike, *, ignore_index: int = IGNORE_INDEX) -> jax.Array:
    """Mean cross entropy over the labelled positions: position ``t`` is scored on ``labels[t]``.

    ``loss = - mean over labelled t of log softmax(logits[t])[labels[t]]`` (BERT, Devlin et al. 2019, section 3.1).

    Args:
      logits: [..., T, V].
      labels: integers [..., T], ``ignore_index`` where nothing is scored.
      ignore_index: the label that is not scored.

    Returns:
      A float32 scalar in nats; 0 when nothing is scored.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> print(losses.masked_lm_loss(jnp.zeros((3, 4)), [2, -100, 0]))  # log 4
      1.3862944
    """
    labels = as_int32(labels, "labels")
    return mean_kept(cross_entropy(logits, labels, ignore_index=ignore_index), labels != ignore_index)


def causal_lm_loss(logits: jax.Array, labels: ArrayLike, *, ignore_index: int = IGNORE_INDEX) -> jax.Array:
    """Mean next-token cross entropy: position ``t`` is scored on ``labels[t + 1]``.

    ``loss = - mean over t of log softmax(logits[t])[labels[t + 1]]`` (GPT, Radford et al. 2018, section 3.1).

    Args:
      logits: [..., T, V], the model's prediction after each token.
      labels: integers [..., T], the tokens themselves (not shifted), ``ignore_index`` where a
        token is not to be learned.
      ignore_index: the label that is not scored.

    Returns:
      A float32 scalar in nats; 0 when nothing is scored.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> print(losses.causal_lm_loss(jnp.zeros((3, 4)), [1, 2, 3]))  # log 4
      1.3862944
    """
    labels = as_int32(labels, "labels")
    return masked_lm_loss(logits[..., :-1, :], labels[..., 1:], ignore_index=ignore_index)


def perplexity(mean_nats: ArrayLike) -> jax.Array:
    """``exp(mean_nats)`` of a mean negative log-likelihood given in nats a token (Jelinek et al. 1977).

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> print(losses.perplexity(jnp.log(8.0)))
      8.0
    """
    return jnp.exp(mean_nats)


def bits_per_byte(sum_nats: ArrayLike, num_bytes: ArrayLike) -> jax.Array:
    """A total negative log-likelihood in nats as bits a byte of text, whatever the tokenizer.

    ``sum_nats / (log(2) num_bytes)``, the measure of the Pile (Gao et al. 2020, section 3.1).

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> print(losses.bits_per_byte(8 * jnp.log(2.0), 4))
      2.0
    """
    return jnp.asarray(sum_nats) / (math.log(2) * jnp.asarray(num_bytes))


def bits_per_character(sum_nats: ArrayLike, num_characters: ArrayLike) -> jax.Array:
    """A total negative log-likelihood in nats as bits a character of text.

    ``sum_nats / (log(2) num_characters)``, the measure of Graves 2013, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> print(losses.bits_per_character(8 * jnp.log(2.0), 4))
      2.0
    """
    return jnp.asarray(sum_nats) / (math.log(2) * jnp.asarray(num_characters))
