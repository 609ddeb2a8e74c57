"""Logits processors: pure functions from float32 logits [..., V] to others of that shape, -inf where excluded.

Those that look back take ``previous``, int32 [..., S], of which the first ``length`` ids are the text
so far and the rest is ignored, so that one compilation serves every step. Values that no sampling can follow
(see :func:`check_value`) are ``ValueError``s in each of them.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.integers import as_int32

LARGEST = 1e6
"""Most that logits are multiplied or divided by, or moved: beyond it float32 has no room for what comes of it."""


def _scales(value: float) -> bool:
    return 1 / LARGEST <= value <= LARGEST


def _moves(value: float) -> bool:
    return -LARGEST <= value <= LARGEST


def _counts(value: float) -> bool:
    return value >= 1 and value == int(value)


_SCALES, _MOVES = f"must be a number from {1 / LARGEST:g} to {LARGEST:g}", f"must be within {LARGEST:g} of 0"
_SHARES = "must be above 0 and at most 1"
_CHECKS: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (_scales, f"{_SCALES}; 0 is greedy"),
    "repetition_penalty": (_scales, f"{_SCALES}; above 1 discourages"),
    "frequency_penalty": (_moves, _MOVES),
    "presence_penalty": (_moves, _MOVES),
    "no_repeat_ngram": (_counts, "must be at least 1"),
    "top_k": (_counts, "must be at least 1"),
    "top_p": (lambda value: 0 < value <= 1, _SHARES),
    "min_p": (lambda value: 0 < value <= 1, _SHARES),
    "typical_p": (lambda value: 0 < value <= 1, _SHARES),
    "epsilon": (lambda value: 0 < value < 1, "must be above 0 and below 1"),
}


def check_value(name: str, value: float | jax.Array) -> None:
    """Refuses a value that no sampling can follow, NaN and infinity among them; a traced one passes.

    Args:
      name: a field of :class:`SamplingConfig`.
      value: its value.

    Raises:
      ValueError: naming field, value and what is possible.
    """
    possible, remedy = _CHECKS[name]
    is_number = isinstance(value, int | float | np.number) and bool(np.isfinite(value))
    if not isinstance(value, jax.Array) and not (is_number and possible(float(value))):
        raise ValueError(f"{name}={value}: {remedy}")


def temperature(logits: jax.Array, value: float) -> jax.Array:
    """``logits / value``: below one sharpens, above one flattens."""
    check_value("temperature", value)
    return logits / value


def top_k(logits: jax.Array, k: int) -> jax.Array:
    """Keeps the ``k`` largest (Fan et al. 2018); ties with the k-th are kept too."""
    check_value("top_k", k)
    return jnp.where(logits < _kth_largest(logits, k), -jnp.inf, logits)


def top_p(logits: jax.Array, p: float, *, keep: int = 1) -> jax.Array:
    """Keeps the smallest set of most likely tokens whose probability reaches ``p`` (Holtzman et al. 2020).

    Args:
      logits: float32 [..., V].
      p: probability mass to keep, in (0, 1].
      keep: tokens kept whatever their probability.
    """
    check_value("top_p", p)
    descending = jnp.flip(jnp.argsort(logits, axis=-1), axis=-1)
    ordered = jnp.take_along_axis(logits, descending, axis=-1)
    probability = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    rank = jnp.arange(logits.shape[-1]).reshape((1,) * (logits.ndim - 1) + (-1,))
    excluded_ordered = (before >= p) & (rank >= keep)
    excluded = jnp.take_along_axis(excluded_ordered, jnp.argsort(descending, axis=-1), axis=-1)
    return jnp.where(excluded, -jnp.inf, logits)


def min_p(logits: jax.Array, p: float, *, keep: int = 1) -> jax.Array:
    """Keeps tokens at least ``p`` times as likely as the likeliest (Nguyen et al. 2024, section 3), or ``keep``."""
    check_value("min_p", p)
    probability = jax.nn.softmax(logits, axis=-1)
    unlikely = probability < p * jnp.max(probability, axis=-1, keepdims=True)
    return jnp.where(unlikely & (logits < _kth_largest(logits, keep)), -jnp.inf, logits)


def typical_p(logits: jax.Array, p: float, *, keep: int = 1) -> jax.Array:
    """Keeps the tokens whose surprise is nearest the entropy, up to probability ``p`` (Meister et al. 2023, section 3).

    Args:
      logits: float32 [..., V].
      p: probability mass to keep, in (0, 1).
      keep: tokens kept whatever their probability.
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


def repetition_penalty(
    logits: jax.Array, previous: jax.Array, penalty: float, *, length: jax.Array | None = None
) -> jax.Array:
    """Divides logits of tokens already in the text by ``penalty``, multiplies negative ones (CTRL, section 4.1).

    Args:
      logits: float32 [..., V].
      previous: int32 [..., S].
      penalty: above 1 discourages repetition.
      length: int [...], ids of ``previous`` that count; all when absent.
    """
    check_value("repetition_penalty", penalty)
    seen = token_counts(previous, logits.shape[-1], length=length) > 0
    return jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


def frequency_presence(
    logits: jax.Array,
    previous: jax.Array,
    *,
    frequency: float = 0.0,
    presence: float = 0.0,
    begin: jax.Array | None = None,
    length: jax.Array | None = None,
) -> jax.Array:
    """``logits - frequency * count - presence * [count > 0]``, counting each token's earlier choices (OpenAI's API).

    Args:
      logits: float32 [..., V].
      previous: int32 [..., S].
      frequency: taken off for every occurrence.
      presence: taken off once.
      begin: int [...], where in ``previous`` counting begins (after the prompt); its start when absent.
      length: int [...], ids of ``previous`` that count; all when absent.
    """
    check_value("frequency_penalty", frequency)
    check_value("presence_penalty", presence)
    counts = token_counts(previous, logits.shape[-1], begin=begin, length=length)
    return logits - frequency * counts - presence * (counts > 0)


def no_repeat_ngram(logits: jax.Array, previous: jax.Array, size: int, *, length: jax.Array | None = None) -> jax.Array:
    """Excludes tokens that would complete an n-gram the text already has (Paulus et al. 2018, section 2.5).

    Args:
      logits: float32 [..., V].
      previous: int32 [..., S].
      size: n; 1 excludes every token of the text.
      length: int [...], ids of ``previous`` that count; all when absent.
    """
    check_value("no_repeat_ngram", size)
    previous = as_int32(previous, "previous")
    num_windows = previous.shape[-1] - size + 1
    if num_windows < 1:
        return logits
    length_1 = _bound(previous, length)
    start = _positions(previous)[..., :num_windows]
    repeats = start + size <= length_1
    for offset in range(size - 1):
        # The window's token at this offset against that of the text's unfinished last n-gram.
        last = jnp.take_along_axis(previous, jnp.maximum(length_1 - size + 1 + offset, 0), axis=-1)
        repeats &= previous[..., offset : offset + num_windows] == last
    completions = jnp.where(repeats, previous[..., size - 1 :], logits.shape[-1])
    return jnp.where(token_counts(completions, logits.shape[-1]) > 0, -jnp.inf, logits)


def token_counts(
    previous: jax.Array,
    vocab_size: int,
    *,
    begin: jax.Array | None = None,
    length: jax.Array | None = None,
) -> jax.Array:
    """How often each id is counted in ``previous[begin:length]``, int32 [..., V]; ids outside 0 .. V - 1 are not."""
    previous = as_int32(previous, "previous")
    position = _positions(previous)
    first, end = _bound(previous, 0 if begin is None else begin), _bound(previous, length)
    is_counted = (first <= position) & (position < end) & (previous >= 0)
    ids = jnp.where(is_counted, previous, vocab_size).reshape(-1, previous.shape[-1])
    row = jnp.arange(len(ids))[:, None]
    zeros = jnp.zeros((len(ids), vocab_size), jnp.int32)
    return zeros.at[row, ids].add(1, mode="drop").reshape(*previous.shape[:-1], vocab_size)


def _kth_largest(logits: jax.Array, k: int) -> jax.Array:
    return jax.lax.top_k(logits, min(k, logits.shape[-1]))[0][..., -1:]


def _positions(previous: jax.Array) -> jax.Array:
    return jax.lax.broadcasted_iota(jnp.int32, previous.shape, previous.ndim - 1)


def _bound(previous: jax.Array, bound: jax.Array | int | None) -> jax.Array:
    """An index into ``previous`` as int32 [..., 1]; None is its end."""
    bound = previous.shape[-1] if bound is None else bound
    return jnp.broadcast_to(jnp.asarray(bound, jnp.int32), previous.shape[:-1])[..., None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the next token is chosen: penalties, then the temperature, then what narrows the choice, in this order."""

    temperature: float = 1.0
    """Divides the logits; 0 always takes the most likely token."""
    repetition_penalty: float | None = None
    """Divides the logits of tokens already in prompt or text (multiplies negative ones); above 1 discourages."""
    frequency_penalty: float = 0.0
    """Taken off a token's logit for every time it was chosen."""
    presence_penalty: float = 0.0
    """Taken off a token's logit once it was chosen."""
    no_repeat_ngram: int | None = None
    """Never repeat a sequence of so many tokens, the prompt's included."""
    top_k: int | None = None
    """Choose among the k most likely tokens only."""
    top_p: float | None = None
    """Choose among the most likely tokens that make up this probability only."""
    min_p: float | None = None
    """Choose among tokens at least this many times as likely as the likeliest."""
    typical_p: float | None = None
    """Choose among the tokens of nearest to average surprise that make up this probability."""
    epsilon: float | None = None
    """Choose among tokens of at least this probability."""

    def __post_init__(self):
        if self.temperature != 0:
            check_value("temperature", self.temperature)
        for name in _CHECKS.keys() - {"temperature"}:
            if getattr(self, name) is not None:
                check_value(name, getattr(self, name))


def penalize(
    logits: jax.Array,
    config: SamplingConfig,
    *,
    previous: jax.Array,
    prompt_length: jax.Array,
    length: jax.Array,
) -> jax.Array:
    """The part of ``config`` that looks back at the text.

    Args:
      logits: float32 [..., V].
      config: what to apply.
      previous: int32 [..., S], prompt and text so far.
      prompt_length: int [...], how much of it is prompt.
      length: int [...], how much of it there is.
    """
    if config.repetition_penalty is not None:
        logits = repetition_penalty(logits, previous, config.repetition_penalty, length=length)
    if config.frequency_penalty or config.presence_penalty:
        logits = frequency_presence(
            logits,
            previous,
            frequency=config.frequency_penalty,
            presence=config.presence_penalty,
            begin=prompt_length,
            length=length,
        )
    if config.no_repeat_ngram is not None:
        logits = no_repeat_ngram(logits, previous, config.no_repeat_ngram, length=length)
    return logits


def choose(key: jax.Array, logits: jax.Array, config: SamplingConfig) -> jax.Array:
    """Samples int32 token ids [...] from logits [..., V] that are already penalised, see :func:`penalize`."""
    if config.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = temperature(logits, config.temperature)
    if config.top_k is not None:
        logits = top_k(logits, config.top_k)
    if config.top_p is not None:
        logits = top_p(logits, config.top_p)
    if config.min_p is not None:
        logits = min_p(logits, config.min_p)
    if config.typical_p is not None:
        logits = typical_p(logits, config.typical_p)
    if config.epsilon is not None:
        logits = epsilon_cutoff(logits, config.epsilon)
    return jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)
