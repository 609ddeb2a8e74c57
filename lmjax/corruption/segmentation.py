"""Which tokens are noise: T5's random spans, drawn for every document of a row at once.

Raffel et al. 2020, section 3.1.4, with the counts of t5's ``random_spans_noise_mask``: of n tokens
``round(n * density)`` are noise in ``round(noise / mean_span)`` spans. The kept tokens and the noise tokens are each
cut into that many parts, every choice of cuts equally likely. The parts then alternate, beginning with kept tokens.
If the mean span is as long as the noise, there is one span at the end: a prefix language model.

A short document has few spans. With the default setting, a document of fewer than 31 tokens has a single span, its
last tokens. T5 itself corrupts whole rows of concatenated documents (``segments_BT=None``).
"""

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.layout import Documents, choose, documents, place


def span_counts(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """Returns the numbers of noise tokens and noise spans of a document of ``length`` tokens (0 below two tokens).

    ``noise = round(length density)`` and ``spans = round(noise / mean_span)``, each at least 1 and with a token to keep
    beside every span (Raffel et al. 2020, section 3.1.4).

    Raises:
      ValueError: ``density`` is not in (0, 1), or ``mean_span`` is below 1.

    Example:
      >>> from lmjax import corruption
      >>> print(corruption.span_counts(100, 0.15, 3.0))
      (15, 5)
    """
    check_spans("span_counts", density, mean_span)
    noise, spans = _counts(np.asarray(length), np.float32(density), np.float32(mean_span), np)
    return int(noise), int(spans)


def _counts(length, density, mean_span, xp):
    """Computes the counts in float32, rounding halves to even as t5 does. ``xp`` is numpy or jax.numpy."""
    noise = xp.round(length.astype(np.float32) * density).astype(np.int32)
    noise = xp.clip(noise, 1, xp.maximum(length - 1, 1))
    spans = xp.maximum(xp.round(noise.astype(np.float32) / mean_span).astype(np.int32), 1)
    spans = xp.minimum(spans, xp.minimum(noise, length - noise))
    return xp.where(length > 1, noise, 0), xp.where(length > 1, spans, 0)


def check_spans(function: str, density: float | jax.Array, mean_span: float | jax.Array) -> None:
    """Refuses an impossible density or span length; a traced value is not checked.

    Raises:
      ValueError: ``density`` is not in (0, 1), or ``mean_span`` is below 1.
    """
    if is_static(density) and not 0 < density < 1:
        raise ValueError(f"{function}: density={density}: must be above 0 and below 1")
    if is_static(mean_span) and not mean_span >= 1:
        raise ValueError(f"{function}: mean_span={mean_span}: must be at least 1 token")


def is_static(value: object) -> bool:
    """Whether ``value`` is a plain number, known while tracing."""
    return isinstance(value, int | float | np.number)


def span_mask(
    key: jax.Array,
    shape: tuple[int, ...],
    *,
    density: float | jax.Array = 0.15,
    mean_span: float | jax.Array = 3.0,
    segments_BT: jax.Array | None = None,
) -> jax.Array:
    """Draws the noise tokens of every document.

    Raffel et al. 2020 (T5), section 3.1.4; :func:`span_counts` has the counts.

    Args:
      key: PRNG key.
      shape: ``(B, T)``.
      density: share of noise tokens: a number, or an array that broadcasts to [B, T]. Of an array, the value at the
        first position of a document holds for the document. May be traced.
      mean_span: mean number of tokens of a noise span, in the same forms; infinity asks for one span.
      segments_BT: document numbers, 0 for padding; ``None``: one document fills the row.

    Returns:
      bool [B, T], True on noise. Documents of one token and padding have no noise; every other document begins with a
      kept token and ends with a noise token.

    Raises:
      ValueError: a row has fewer than two tokens, or ``density`` or ``mean_span`` is impossible.

    Example:
      >>> import jax
      >>> from lmjax import corruption
      >>> print(corruption.span_mask(jax.random.key(0), (1, 4), density=0.25))
      [[False False False  True]]
    """
    check_spans("span_mask", density, mean_span)
    if shape[1] < 2:
        raise ValueError(f"span_mask: rows of length {shape[1]} have nothing to keep: use at least 2 tokens")
    where = documents(segments_BT, shape)
    if segments_BT is None and is_static(density) and is_static(mean_span):
        noise, spans = span_counts(shape[1], density, mean_span)  # type: ignore[arg-type]
        noise_BT, spans_BT = jnp.full(shape, noise, jnp.int32), jnp.full(shape, spans, jnp.int32)
    else:
        density_BT = _per_document(density, where)
        noise_BT, spans_BT = _counts(where.length, density_BT, _per_document(mean_span, where), jnp)
        noise_BT, spans_BT = (jnp.where(where.real_BT, count_BT, 0) for count_BT in (noise_BT, spans_BT))
    num_documents = 1 if segments_BT is None else shape[1]
    return _alternate(key, where, noise_BT, spans_BT, num_documents=num_documents)


def _per_document(value: float | jax.Array, where: Documents) -> jax.Array:
    value = jnp.asarray(value, jnp.float32)
    value_BT = value.reshape((1,) * (2 - value.ndim) + value.shape)
    return where.shared(jnp.broadcast_to(value_BT, where.index_BT.shape))


def _alternate(
    key: jax.Array, where: Documents, noise_BT: jax.Array, spans_BT: jax.Array, *, num_documents: int
) -> jax.Array:
    """Cuts each document's kept tokens and noise tokens into random parts and alternates the parts."""
    length = noise_BT.shape[1]
    # For cutting, the first positions of a document represent its kept tokens and the last ones its noise.
    middle_BT = where.end_BT - noise_BT
    is_noise_BT = where.index_BT >= middle_BT
    first_BT = jnp.where(is_noise_BT, middle_BT, where.start_BT)
    begins_BT = choose(
        key,
        2 * where.number_BT + is_noise_BT.astype(jnp.int32),
        (first_BT, jnp.where(is_noise_BT, where.end_BT, middle_BT)),
        spans_BT,
        num_groups=2 * num_documents,
        with_first=True,
    )
    # The offset at which each part begins among the tokens of its kind. Part q is written at the document's q-th
    # position.
    offset_BT = where.index_BT - first_BT
    place_BT = where.start_BT + where.before(begins_BT) - 1
    kept_offset_BT = place(offset_BT, place_BT, begins_BT & ~is_noise_BT, length=length, fill=0)
    noise_offset_BT = place(offset_BT, place_BT - spans_BT, begins_BT & is_noise_BT, length=length, fill=0)
    part_BT = where.index_BT - where.start_BT
    kept_total_BT = where.length - noise_BT
    next_kept_BT = jnp.where(part_BT == spans_BT - 1, kept_total_BT, jnp.roll(kept_offset_BT, -1, axis=1))
    kept_begin_BT = where.start_BT + noise_offset_BT + kept_offset_BT
    noise_begin_BT = where.start_BT + noise_offset_BT + next_kept_BT
    is_part_BT = part_BT < spans_BT
    ones_BT = jnp.ones_like(noise_BT)
    rises_BT = place(ones_BT, noise_begin_BT, is_part_BT, length=length, fill=0)
    falls_BT = place(ones_BT, kept_begin_BT, is_part_BT, length=length, fill=0)
    # A kept part lowers the sum by 1 and the noise after it raises it again: it is 0 on noise and -1 on kept tokens.
    return (jnp.cumsum(rises_BT - falls_BT, axis=1) == 0) & (spans_BT > 0)
