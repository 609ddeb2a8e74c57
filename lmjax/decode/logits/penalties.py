"""Processors that look back at the text: penalties of repetition, and n-grams that may not come again.

``previous``, int32 [..., S], holds the text. Its first ``length`` ids are looked at and the rest is ignored, so that
one compilation serves every step. A negative id is padding: it is never counted, and no n-gram contains it.
"""

import jax
import jax.numpy as jnp

from lmjax.decode.logits.checks import check_value
from lmjax.integers import as_int32


def repetition_penalty(
    logits: jax.Array, previous: jax.Array, penalty: float, *, length: jax.Array | None = None
) -> jax.Array:
    """Divides positive logits of tokens in the text by ``penalty``, and multiplies negative ones (CTRL, section 4.1).

    Args:
      logits: float32 [..., V].
      previous: int32 [..., S].
      penalty: above 1 discourages repetition.
      length: int [...], the number of ids of ``previous`` that count; all of them when absent.
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
    """Returns ``logits - frequency * count - presence * [count > 0]`` (OpenAI's API).

    ``count`` is how often each token stands in the part of the text that is looked at.

    Args:
      logits: float32 [..., V].
      previous: int32 [..., S].
      frequency: what is subtracted for every occurrence.
      presence: what is subtracted once.
      begin: int [...], the place in ``previous`` where counting begins (after the prompt); 0 when absent.
      length: int [...], the number of ids of ``previous`` that count; all of them when absent.
    """
    check_value("frequency_penalty", frequency)
    check_value("presence_penalty", presence)
    counts = token_counts(previous, logits.shape[-1], begin=begin, length=length)
    return logits - frequency * counts - presence * (counts > 0)


def no_repeat_ngram(logits: jax.Array, previous: jax.Array, size: int, *, length: jax.Array | None = None) -> jax.Array:
    """Excludes the tokens that would complete an n-gram that the text already has (Paulus et al. 2018, section 2.5).

    Args:
      logits: float32 [..., V].
      previous: int32 [..., S].
      size: n; 1 excludes every token of the text.
      length: int [...], the number of ids of ``previous`` that count; all of them when absent.
    """
    check_value("no_repeat_ngram", size)
    previous = as_int32(previous, "previous")
    num_windows = previous.shape[-1] - size + 1
    if num_windows < 1:
        return logits
    length_1 = _bound(previous, length)
    start = _positions(previous)[..., :num_windows]
    repeats = start + size <= length_1
    for offset in range(size):
        repeats &= previous[..., offset : offset + num_windows] >= 0
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
    """Counts each id in ``previous[begin:length]``, int32 [..., V]; ids outside of 0 to V - 1 are not counted."""
    previous = as_int32(previous, "previous")
    position = _positions(previous)
    first, end = _bound(previous, 0 if begin is None else begin), _bound(previous, length)
    is_counted = (first <= position) & (position < end) & (previous >= 0)
    ids = jnp.where(is_counted, previous, vocab_size).reshape(-1, previous.shape[-1])
    row = jnp.arange(len(ids))[:, None]
    zeros = jnp.zeros((len(ids), vocab_size), jnp.int32)
    return zeros.at[row, ids].add(1, mode="drop").reshape(*previous.shape[:-1], vocab_size)


def _positions(previous: jax.Array) -> jax.Array:
    return jax.lax.broadcasted_iota(jnp.int32, previous.shape, previous.ndim - 1)


def _bound(previous: jax.Array, bound: jax.Array | int | None) -> jax.Array:
    """An index into ``previous`` as int32 [..., 1]; None is its end."""
    bound = previous.shape[-1] if bound is None else bound
    return jnp.broadcast_to(jnp.asarray(bound, jnp.int32), previous.shape[:-1])[..., None]
