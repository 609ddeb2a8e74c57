"""Processors that narrow the choice: they keep likely tokens and set the logits of all others to -inf."""

import jax
import jax.numpy as jnp

from lmjax.decode.logits.checks import check_value


def temperature(logits: jax.Array, value: float) -> jax.Array:
    """Returns ``logits / value``. A value below one sharpens the distribution, one above flattens it."""
    check_value("temperature", value)
    return logits / value


def top_k(logits: jax.Array, k: int) -> jax.Array:
    """Keeps the ``k`` largest logits (Fan et al. 2018), and those that are equal to the k-th."""
    check_value("top_k", k)
    return jnp.where(logits < _kth_largest(logits, k), -jnp.inf, logits)


def top_p(logits: jax.Array, p: float, *, keep: int = 1, most: int | None = None) -> jax.Array:
    """Keeps the smallest set of most likely tokens whose probability reaches ``p`` (Holtzman et al. 2020).

    With ``keep`` and ``most`` it is the hybrid nucleus: never fewer candidates than ``keep``, where the model is sure,
    and never more than ``most``, where it is not.

    Args:
      logits: float32 [..., V].
      p: probability mass to keep, in (0, 1].
      keep: the number of tokens that are kept whatever their probability.
      most: the largest number of tokens that are kept; None for no limit.

    Returns:
      float32 [..., V]. Of tokens that are equally likely, any may be the one that is kept.

    Raises:
      ValueError: a value is impossible, or ``most`` is smaller than ``keep``.
    """
    check_value("top_p", p)
    check_value("top_p_least", keep)
    if most is not None:
        check_value("top_p_most", most)
        if most < keep:
            raise ValueError(f"top_p_most={most}: must be at least top_p_least={keep}")
    descending = jnp.flip(jnp.argsort(logits, axis=-1), axis=-1)
    ordered = jnp.take_along_axis(logits, descending, axis=-1)
    probability = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    rank = jnp.arange(logits.shape[-1]).reshape((1,) * (logits.ndim - 1) + (-1,))
    excluded_ordered = (before >= p) & (rank >= keep)
    if most is not None:
        excluded_ordered |= rank >= most
    excluded = jnp.take_along_axis(excluded_ordered, jnp.argsort(descending, axis=-1), axis=-1)
    return jnp.where(excluded, -jnp.inf, logits)


def min_p(logits: jax.Array, p: float, *, keep: int = 1) -> jax.Array:
    """Keeps tokens at least ``p`` times as likely as the likeliest (Nguyen et al. 2024, section 3), or ``keep``."""
    check_value("min_p", p)
    probability = jax.nn.softmax(logits, axis=-1)
    unlikely = probability < p * jnp.max(probability, axis=-1, keepdims=True)
    return jnp.where(unlikely & (logits < _kth_largest(logits, keep)), -jnp.inf, logits)


def typical_p(logits: jax.Array, p: float, *, keep: int = 1) -> jax.Array:
    """Keeps the tokens whose surprise is nearest to the entropy (Meister et al. 2023, section 3).

    As many are kept as are needed for the probability ``p``.

    Args:
      logits: float32 [..., V].
      p: probability mass to keep, in (0, 1).
      keep: the number of tokens that are kept whatever their probability.
    """
    check_value("typical_p", p)
    log_probability = jax.nn.log_softmax(logits, axis=-1)
    probability = jnp.exp(log_probability)
    terms = jnp.where(probability > 0, probability * log_probability, 0.0)
    entropy = -jnp.sum(terms, axis=-1, keepdims=True)
    distance = jnp.abs(-log_probability - entropy)
    order = jnp.argsort(distance, axis=-1)
    mass = jnp.cumsum(jnp.take_along_axis(probability, order, axis=-1), axis=-1)
    last = jnp.clip(jnp.sum(mass < p, axis=-1, keepdims=True), min(keep, logits.shape[-1]) - 1, logits.shape[-1] - 1)
    furthest = jnp.take_along_axis(distance, jnp.take_along_axis(order, last, axis=-1), axis=-1)
    return jnp.where(distance > furthest, -jnp.inf, logits)


def epsilon_cutoff(logits: jax.Array, epsilon: float, *, keep: int = 1) -> jax.Array:
    """Keeps tokens of probability ``epsilon`` or more (Hewitt et al. 2022, section 4), or the ``keep`` likeliest."""
    check_value("epsilon", epsilon)
    unlikely = jax.nn.softmax(logits, axis=-1) < epsilon
    return jnp.where(unlikely & (logits < _kth_largest(logits, keep)), -jnp.inf, logits)


def _kth_largest(logits: jax.Array, k: int) -> jax.Array:
    return jax.lax.top_k(logits, min(k, logits.shape[-1]))[0][..., -1:]
