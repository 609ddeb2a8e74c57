"""Losses for what a model must not predict: unlikelihood of negative tokens, and a margin over corrupted text.

Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training": the sum ``Σ_c -log(1 - p(c))`` over negative
candidates ``c`` is added to the loss. The candidates are given, or are the tokens of the context (section 5.1).
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lmjax.integers import as_int32


def _negative_log_complement(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """``-log(1 - p(token))`` of each of ``tokens`` [..., C] under ``logits`` [..., V]; 0 of a negative token.

    Only the likeliest token can have a probability near 1, where float32 has no digits left for
    ``1 - p``; there the other tokens are summed instead, so it is exact and its gradient never fades.
    """
    scored = jnp.any(tokens >= 0, axis=-1, keepdims=True)
    logits = jnp.where(scored, logits.astype(jnp.float32), 0.0)
    log_normaliser = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    # Where nothing is scored no token is left out: with a vocabulary of one token nothing would remain to be summed.
    is_best = scored & jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(is_best, -jnp.inf, logits), axis=-1, keepdims=True)
    index = jnp.clip(tokens, 0, logits.shape[-1] - 1)
    probability = jnp.exp(jnp.take_along_axis(logits, index, axis=-1) - log_normaliser)
    is_likely = probability > 0.5
    unlikely = -jnp.log1p(-jnp.where(is_likely, 0.0, probability))
    values = jnp.where(is_likely, log_normaliser - others, unlikely)
    return jnp.where(tokens < 0, 0.0, jnp.where(index == tokens, values, jnp.nan))


def unlikelihood(logits: jax.Array, candidates: ArrayLike) -> jax.Array:
    """``Σ_c -log(1 - p(c))`` over the candidates given for each position.

    Welleck et al. 2020, section 5.1.

    Args:
      logits: [..., T, V], any float dtype.
      candidates: integers [..., T, C], tokens to make unlikely; a negative id means "no candidate", and a token that
        is listed twice counts twice.

    Returns:
      float32 [..., T], in nats, unreduced; 0 where there is no candidate, NaN where one is not in the vocabulary.

    Raises:
      ValueError: shapes that do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
      >>> print(losses.unlikelihood(logits, [[0, -1]]))  # -log(1 - 0.5)
      [0.6931472]
    """
    candidates = as_int32(candidates, "candidates")
    if candidates.shape[:-1] != logits.shape[:-1]:
        raise ValueError(
            f"unlikelihood: logits {logits.shape} need candidates of shape {logits.shape[:-1]} and one axis "
            f"more, not {candidates.shape}"
        )
    return jnp.sum(_negative_log_complement(logits, candidates), axis=-1)


def context_candidates(targets: ArrayLike, segments: ArrayLike | None = None) -> jax.Array:
    """The negative candidates of each position: the targets before it, without its own.

    ``C_t = {x_1, ..., x_(t-1)} - {x_t}`` (Welleck et al. 2020, section 5.1). Each token is a candidate once, however
    often it occurred.

    Args:
      targets: integers [..., T]; negative ones (not scored) are never candidates.
      segments: integers [..., T], the document of each position; candidates come from the same document. 0 is
        padding, which has no candidates and is not a candidate.

    Returns:
      int32 [..., T, T] for :func:`unlikelihood`, -1 where there is none.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> print(losses.context_candidates([5, 6, 5]))
      [[-1 -1 -1]
       [ 5 -1 -1]
       [-1  6 -1]]
    """
    targets = as_int32(targets, "targets")
    same = targets[..., :, None] == targets[..., None, :]
    allowed = jnp.tri(targets.shape[-1], k=-1, dtype=bool)
    allowed = jnp.broadcast_to(allowed, same.shape)
    if segments is not None:
        segments = as_int32(segments, "segments")
        allowed &= (segments[..., :, None] == segments[..., None, :]) & (segments != 0)[..., None]
    is_repeat = jnp.any(same & allowed, axis=-1)
    allowed &= ~same & ~is_repeat[..., None, :]
    candidates = jnp.broadcast_to(targets[..., None, :], same.shape)
    return jnp.where(allowed, jnp.maximum(candidates, -1), -1)


def corrupted_margin(
    original_nats: jax.Array, corrupted_nats: jax.Array, *, margin: float | jax.Array = 1.0
) -> jax.Array:
    """Hinge loss that is 0 when a corrupted text is at least ``margin`` nats less likely than the original.

        loss = max(0, margin + original_nats - corrupted_nats)

    The ranking criterion of Collobert and Weston 2008, section 3.4, is added to the likelihood of the original.

    Args:
      original_nats: [...], negative log-likelihood of each original (a sum or a mean, as the margin is).
      corrupted_nats: [...], that of its corruption.
      margin: in nats, at least 0; a number or a traced scalar.

    Returns:
      float32 [...], unreduced.

    Raises:
      ValueError: shapes that differ or a negative margin.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> print(losses.corrupted_margin(jnp.array([1.0]), jnp.array([1.5])))
      [0.5]
    """
    if original_nats.shape != corrupted_nats.shape:
        raise ValueError(
            f"corrupted_margin: original_nats {original_nats.shape} and corrupted_nats {corrupted_nats.shape} differ"
        )
    if isinstance(margin, float | int) and not 0 <= margin < math.inf:
        raise ValueError(f"corrupted_margin: margin={margin}: must be at least 0, and finite")
    difference = original_nats.astype(jnp.float32) - corrupted_nats.astype(jnp.float32)
    return jnp.maximum(0.0, margin + difference)


def repeated_ngrams(tokens: ArrayLike, size: int) -> jax.Array:
    """Which tokens are part of an n-gram that began earlier in the sequence already (Welleck et al. 2020, §5.2).

    In text that the model has written itself, these tokens are the negative candidates of the sequence-level loss.

    Args:
      tokens: integers [..., T].
      size: n.

    Returns:
      bool [..., T].

    Raises:
      ValueError: ``size`` is below 1.
    """
    if size < 1:
        raise ValueError(f"repeated_ngrams: size={size}: must be at least 1")
    tokens = as_int32(tokens, "tokens")
    length = tokens.shape[-1]
    num_starts = length - size + 1
    if num_starts < 1:
        return jnp.zeros(tokens.shape, bool)
    grams = jnp.stack([tokens[..., offset : offset + num_starts] for offset in range(size)], axis=-1)
    same = jnp.all(grams[..., :, None, :] == grams[..., None, :, :], axis=-1)
    earlier = jnp.broadcast_to(jnp.tri(num_starts, k=-1, dtype=bool), same.shape)
    begins_repeat = jnp.any(same & earlier, axis=-1)
    padding = [(0, 0)] * (tokens.ndim - 1)
    covered = [jnp.pad(begins_repeat, [*padding, (offset, size - 1 - offset)]) for offset in range(size)]
    return jnp.any(jnp.stack(covered), axis=0)
