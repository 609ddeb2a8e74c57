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
    kept = _likeliest(logits, jax.nn.softmax(logits, axis=-1), jnp.asarray(p))
    if (keep, most) != (1, None):
        count = jnp.clip(jnp.sum(kept, axis=-1, keepdims=True), keep, most)
        kept = _likeliest(logits, jnp.ones_like(logits), count)
    return jnp.where(kept, logits, -jnp.inf)


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
    near = -jnp.abs(-log_probability - entropy)
    last = jnp.minimum(_threshold(_order(near), probability, jnp.asarray(p)), _order(_kth_largest(near, keep)))
    return jnp.where(_order(near) < last, -jnp.inf, logits)


def epsilon_cutoff(logits: jax.Array, epsilon: float, *, keep: int = 1) -> jax.Array:
    """Keeps tokens of probability ``epsilon`` or more (Hewitt et al. 2022, section 4), or the ``keep`` likeliest."""
    check_value("epsilon", epsilon)
    unlikely = jax.nn.softmax(logits, axis=-1) < epsilon
    return jnp.where(unlikely & (logits < _kth_largest(logits, keep)), -jnp.inf, logits)


def _kth_largest(logits: jax.Array, k: int) -> jax.Array:
    # Not the last of them by its index: XLA would sort the whole vocabulary for that.
    return jnp.min(jax.lax.top_k(logits, min(k, logits.shape[-1]))[0], axis=-1, keepdims=True)


def _likeliest(logits: jax.Array, mass: jax.Array, needed: jax.Array) -> jax.Array:
    """Whether a token is in the smallest set of largest logits [..., V] whose ``mass`` reaches ``needed`` [..., 1]."""
    order = _order(logits)
    last = _threshold(order, mass, needed)
    above, at = order > last, order == last
    before = jnp.sum(jnp.where(above, mass, 0), axis=-1, keepdims=True) + (jnp.cumsum(at, axis=-1) - 1) * mass
    return above | (at & (before < needed))


def _threshold(order: jax.Array, mass: jax.Array, needed: jax.Array) -> jax.Array:
    """The largest number [..., 1] such that the ``mass`` of those not below it reaches ``needed``.

    Halving an interval 32 times finds it, which takes a small part of the time of sorting a vocabulary. It is the
    smallest number there is if all mass together is not enough.
    """
    least, greatest = jnp.iinfo(jnp.int32).min, jnp.iinfo(jnp.int32).max
    low = jnp.full((*order.shape[:-1], 1), least)

    def halve(_: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        # The mean of both, rounded down, without their sum, which may be too large for 32 bits.
        middle = (low & high) + ((low ^ high) >> 1)
        reached = jnp.sum(jnp.where(order >= middle, mass, 0), axis=-1, keepdims=True) >= needed
        return jnp.where(reached, middle, low), jnp.where(reached, high, middle)

    return jax.lax.fori_loop(0, 32, halve, (low, jnp.full_like(low, greatest)))[0]


def _order(values: jax.Array) -> jax.Array:
    """Integers, int32, that are in the same order as the float32 values."""
    bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32)
    return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
