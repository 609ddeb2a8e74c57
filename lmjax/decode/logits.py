"""Logits processors: pure functions from float32 logits [..., V] to filtered logits, -inf where excluded."""

import dataclasses

import jax
import jax.numpy as jnp


def temperature(logits: jax.Array, value: float) -> jax.Array:
    """``logits / value``: below one sharpens, above one flattens."""
    return logits / value


def top_k(logits: jax.Array, k: int) -> jax.Array:
    """Keeps the ``k`` largest (Fan et al. 2018); ties with the k-th are kept too."""
    k = min(k, logits.shape[-1])
    threshold = jax.lax.top_k(logits, k)[0][..., -1:]
    return jnp.where(logits < threshold, -jnp.inf, logits)


def top_p(logits: jax.Array, p: float, *, keep: int = 1) -> jax.Array:
    """Keeps the smallest set of most likely tokens whose probability reaches ``p`` (Holtzman et al. 2020).

    Args:
      logits: float32 [..., V].
      p: probability mass to keep, in (0, 1].
      keep: tokens kept whatever their probability.
    """
    descending = jnp.flip(jnp.argsort(logits, axis=-1), axis=-1)
    ordered = jnp.take_along_axis(logits, descending, axis=-1)
    probability = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    rank = jnp.arange(logits.shape[-1]).reshape((1,) * (logits.ndim - 1) + (-1,))
    excluded_ordered = (before >= p) & (rank >= keep)
    excluded = jnp.take_along_axis(excluded_ordered, jnp.argsort(descending, axis=-1), axis=-1)
    return jnp.where(excluded, -jnp.inf, logits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the next token is chosen."""

    temperature: float = 1.0
    """Divides the logits; 0 always takes the most likely token."""
    top_k: int | None = None
    """Choose among the k most likely tokens only."""
    top_p: float | None = None
    """Choose among the most likely tokens that make up this probability only."""

    def __post_init__(self):
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature}: must not be negative; 0 is greedy")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k}: must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: must be above 0 and at most 1")


def choose(key: jax.Array, logits: jax.Array, config: SamplingConfig) -> jax.Array:
    """Samples int32 token ids [...] from logits [..., V]: temperature, then top-k, then top-p."""
    if config.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = temperature(logits, config.temperature)
    if config.top_k is not None:
        logits = top_k(logits, config.top_k)
    if config.top_p is not None:
        logits = top_p(logits, config.top_p)
    return jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)
