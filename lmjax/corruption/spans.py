"""Span corruption: T5's noise spans, with T5's exact counts, drawn for every document of a row.

Raffel et al. 2020, section 3.1.4, as t5's ``random_spans_noise_mask`` has it: of n tokens
``round(n * density)`` are noise in ``round(noise / mean_span)`` spans; noise and kept tokens are each
cut into that many parts, every cut equally likely, and the parts alternate, kept ones first.
A mean span as long as the noise gives one span at the end: a prefix language model.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.corruption.ids import check_rate
from lmjax.corruption.layout import Documents, choose, documents, place, running_count
from lmjax.corruption.sentinels import join_spans, replace_spans
from lmjax.types import Rows


def span_lengths(inputs_length: int, density: float, mean_span: float) -> tuple[int, int]:
    """How many raw tokens fill an encoder input of ``inputs_length``, and how long the targets are then.

    Both lengths count one end-of-sequence token (t5's ``random_spans_helper``).

    Args:
      inputs_length: tokens the encoder is to read.
      density: share of the raw tokens that are noise.
      mean_span: mean length of a noise span, tokens.

    Returns:
      ``(tokens_length, targets_length)``.

    Raises:
      ValueError: ``density`` is not in (0, 1), ``mean_span`` is below 1, or no row is that short.
    """
    _check_spans("span_lengths", density, mean_span)

    def lengths(tokens_length: int) -> tuple[int, int]:
        noise = round(tokens_length * density)
        spans = round(noise / mean_span)
        return tokens_length - noise + spans + 1, noise + spans + 1

    tokens_length = inputs_length
    while lengths(tokens_length + 1)[0] <= inputs_length:
        tokens_length += 1
    if lengths(tokens_length)[0] > inputs_length or inputs_length < 2:
        raise ValueError(f"span_lengths: inputs_length={inputs_length}: too short for density={density}")
    inputs, targets = lengths(tokens_length)
    # At a density of one half, inputs and targets are of one length and not one token apart.
    if density == 0.5 and targets > inputs:
        return tokens_length - 1, targets - 1
    return tokens_length, targets


def span_counts(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """Noise tokens and noise spans of a document of ``length`` tokens (0 and 0 below two tokens).

    Raises:
      ValueError: ``density`` is not in (0, 1), or ``mean_span`` is below 1.
    """
    _check_spans("span_counts", density, mean_span)
    noise, spans = _counts(np.asarray(length), np.float32(density), np.float32(mean_span), np)
    return int(noise), int(spans)


def _counts(length, density, mean_span, numpy):
    noise = numpy.round(length.astype(np.float32) * density).astype(np.int32)
    noise = numpy.clip(noise, numpy.minimum(1, length - 1), length - 1)
    spans = numpy.maximum(numpy.round(noise.astype(np.float32) / mean_span).astype(np.int32), 1)
    spans = numpy.minimum(spans, numpy.minimum(noise, length - noise))
    return numpy.where(length > 1, noise, 0), numpy.where(length > 1, spans, 0)


def _check_spans(function: str, density, mean_span) -> None:
    if isinstance(density, int | float | np.number) and not 0 < density < 1:
        raise ValueError(f"{function}: density={density}: must be above 0 and below 1")
    if isinstance(mean_span, int | float | np.number) and not mean_span >= 1:
        raise ValueError(f"{function}: mean_span={mean_span}: must be at least 1 token")


def span_mask(
    key: jax.Array,
    shape: tuple[int, int],
    *,
    density: float | jax.Array = 0.15,
    mean_span: float | jax.Array = 3.0,
    segments_BT: jax.Array | None = None,
) -> jax.Array:
    """Draws the noise tokens of every document.

    Args:
      key: PRNG key.
      shape: ``(B, T)``.
      density: share of noise tokens; a number, or an array that broadcasts to [B, T], of which the
        value at a document's first position counts. May be traced.
      mean_span: mean tokens of a noise span, likewise; infinity asks for one span.
      segments_BT: document numbers, 0 for padding; ``None``: one document fills the row.

    Returns:
      bool [B, T]: true on noise. Documents of one token and padding have none; all others start
      with a kept token and end with a noise token.

    Raises:
      ValueError: a row has fewer than two tokens, or ``density`` or ``mean_span`` is impossible.
    """
    _check_spans("span_mask", density, mean_span)
    if shape[1] < 2:
        raise ValueError(f"span_mask: rows of {shape[1]} token cannot be split into kept and noise: use at least 2")
    where = documents(segments_BT, shape)
    noise_BT, spans_BT = _document_counts(where, shape, density, mean_span, packed=segments_BT is not None)
    return _alternate(key, where, noise_BT, spans_BT, num_groups=2 if segments_BT is None else 2 * shape[1])


def _document_counts(where: Documents, shape, density, mean_span, *, packed: bool):
    traced = not all(isinstance(value, int | float | np.number) for value in (density, mean_span))
    if not packed and not traced:
        noise, spans = span_counts(shape[1], float(density), float(mean_span))
        return jnp.full(shape, noise, jnp.int32), jnp.full(shape, spans, jnp.int32)
    density_BT, mean_BT = (
        where.shared(jnp.broadcast_to(jnp.asarray(value, jnp.float32), shape)) for value in (density, mean_span)
    )
    noise_BT, spans_BT = _counts(where.length_BT, density_BT, mean_BT, jnp)
    return jnp.where(where.real_BT, noise_BT, 0), jnp.where(where.real_BT, spans_BT, 0)


def _alternate(
    key: jax.Array, where: Documents, noise_BT: jax.Array, spans_BT: jax.Array, *, num_groups: int
) -> jax.Array:
    """Lays out each document's kept and noise parts in turn, both cut at random."""
    length = noise_BT.shape[1]
    # The document's positions stand for its kept tokens first, then its noise tokens; cut both.
    middle_BT = where.end_BT - noise_BT
    is_noise_BT = where.index_BT >= middle_BT
    first_BT = jnp.where(is_noise_BT, middle_BT, where.start_BT)
    bounds_BT = first_BT, jnp.where(is_noise_BT, where.end_BT, middle_BT)
    group_BT = 2 * where.number_BT + is_noise_BT.astype(jnp.int32)
    begins_BT = choose(key, group_BT, bounds_BT, spans_BT, num_groups=num_groups, with_first=True)
    # Part q of each kind begins after `offset` tokens of its kind; written at the document's q-th place.
    offset_BT = where.index_BT - first_BT
    part_BT = where.start_BT + running_count(begins_BT) - 1
    kept_part_BT = part_BT - where.shared(running_count(begins_BT) - 1)
    noise_part_BT = kept_part_BT - spans_BT
    kept_offset_BT = place(offset_BT, kept_part_BT, begins_BT & ~is_noise_BT, length=length, fill=0)
    noise_offset_BT = place(offset_BT, noise_part_BT, begins_BT & is_noise_BT, length=length, fill=0)
    part_BT = where.index_BT - where.start_BT
    exists_BT = part_BT < spans_BT
    next_kept_BT = jnp.where(part_BT == spans_BT - 1, middle_BT - where.start_BT, jnp.roll(kept_offset_BT, -1, 1))
    starts_BT = where.start_BT + noise_offset_BT
    ones_BT = jnp.ones_like(noise_BT)
    kept_begin_BT = place(ones_BT, starts_BT + kept_offset_BT, exists_BT, length=length, fill=0)
    noise_begin_BT = place(ones_BT, starts_BT + next_kept_BT, exists_BT, length=length, fill=0)
    level_BT = jnp.cumsum(noise_begin_BT - kept_begin_BT, axis=1)
    return (level_BT == 0) & (spans_BT > 0)


def span_corrupt(
    key: jax.Array,
    tokens_BT: jax.Array,
    *,
    sentinel_ids: Sequence[int],
    density: float | jax.Array = 0.15,
    mean_span: float | jax.Array = 3.0,
    segments_BT: jax.Array | None = None,
    eos_id: int | None = None,
    pad_id: int = 0,
    inputs_length: int | None = None,
    targets_length: int | None = None,
) -> tuple[Rows, Rows]:
    """T5's objective for an encoder-decoder: the input without its noise spans, and the spans.

    ``a b c d e`` with noise ``b`` and ``d e`` becomes ``a <0> c <1>`` and ``<0> b <1> d e``.
    In packed rows every document is corrupted on its own and starts again at the first sentinel.

    Args:
      key: PRNG key.
      tokens_BT: int32 ids.
      sentinel_ids: sentinels in the order of use (``vocabulary.sentinel_ids``).
      density: share of noise tokens, see :func:`span_mask`.
      mean_span: mean tokens of a noise span.
      segments_BT: document numbers, 0 for padding; ``None``: one document fills the row.
      eos_id: appended to every document's input and targets; ``None`` appends nothing.
      pad_id: fills rows that come out shorter than their length.
      inputs_length: length of the input rows; by default what a document filling the row needs.
        Longer rows are cut at the end, which packed rows of many tiny documents can reach.
      targets_length: length of the target rows, likewise.

    Returns:
      ``(inputs, targets)``, whose ``segments_BT`` number the same documents alike.

    Raises:
      ValueError: a row has more spans than there are sentinels, or is too short, or an argument is
        impossible, or a length is missing where ``density`` is traced.
    """
    noise_BT, spans, lengths = _draw(
        key, tokens_BT, sentinel_ids, density, mean_span, segments_BT, inputs_length, targets_length
    )
    del spans
    extra = int(eos_id is not None)
    return replace_spans(
        tokens_BT,
        noise_BT,
        sentinel_ids=sentinel_ids,
        segments_BT=segments_BT,
        eos_id=eos_id,
        pad_id=pad_id,
        inputs_length=inputs_length or lengths[0] + extra,
        targets_length=targets_length or lengths[1] + extra,
    )


def _draw(*_):
    raise NotImplementedError


_ = (math, check_rate, join_spans)
