"""Span corruption (T5): drop random spans of the input and predict them after their sentinels.

Raffel et al. 2020, section 3.1.4. The spans are drawn by :mod:`lmjax.corruption.segmentation`, and
:mod:`lmjax.corruption.sentinels` makes the rows. All lengths are static and known in advance.
"""

from collections.abc import Sequence

import jax

from lmjax.corruption.segmentation import check_spans, is_static, span_counts, span_mask
from lmjax.corruption.sentinels import join_spans, replace_spans
from lmjax.types import Rows


def span_lengths(inputs_length: int, density: float, mean_span: float) -> tuple[int, int]:
    """Returns how many raw tokens fill an encoder input of ``inputs_length``, and the length of their targets.

    Both lengths count one end-of-sequence token, as t5's ``random_spans_helper`` does.

    With ``noise = round(tokens density)`` and ``spans = round(noise / mean_span)``, the largest number of tokens with
    ``tokens - noise + spans + 1 <= inputs_length`` (Raffel et al. 2020, section 3.1.4).

    Args:
      inputs_length: tokens the encoder is to read.
      density: share of the raw tokens that are noise.
      mean_span: mean length of a noise span, tokens.

    Returns:
      ``(tokens_length, targets_length)``.

    Raises:
      ValueError: ``density`` is not in (0, 1), ``mean_span`` is below 1, or so few tokens have no noise.

    Example:
      >>> from lmjax import corruption
      >>> print(corruption.span_lengths(512, 0.15, 3.0))
      (568, 114)
    """
    check_spans("span_lengths", density, mean_span)

    def lengths(tokens_length: int) -> tuple[int, int]:
        noise = round(tokens_length * density)
        spans = round(noise / mean_span)
        return tokens_length - noise + spans + 1, noise + spans + 1

    if lengths(inputs_length)[0] > inputs_length:
        raise ValueError(
            f"span_lengths: inputs_length={inputs_length} is too short for any noise at density={density}: "
            f"raise one of them"
        )
    tokens_length = inputs_length
    while lengths(tokens_length + 1)[0] <= inputs_length:
        tokens_length += 1
    inputs, targets = lengths(tokens_length)
    # t5 evens out the two lengths at a density of one half.
    shorter = int(density == 0.5 and targets > inputs)
    return tokens_length - shorter, targets - shorter


def check_sentinels(function: str, *, length: int, spans: int, sentinel_ids: Sequence[int]) -> None:
    """Refuses rows that need more sentinels than the vocabulary has.

    Raises:
      ValueError: a document of ``length`` tokens has more spans than ``sentinel_ids``.
    """
    if spans > len(sentinel_ids):
        raise ValueError(
            f"{function}: a document of {length} tokens has {spans} spans but sentinel_ids has only "
            f"{len(sentinel_ids)}: add sentinels to the tokenizer, shorten the rows, lower density or "
            f"raise mean_span"
        )


def _expected_counts(
    function: str, length: int, density: float | jax.Array, mean_span: float | jax.Array, ids: Sequence[int]
) -> tuple[int, int]:
    """Noise tokens and spans of a document that fills the row, checked against the sentinels."""
    if not (is_static(density) and is_static(mean_span)):
        raise ValueError(f"{function}: density and mean_span must be plain numbers; ul2 is what varies them")
    if length < 2:
        raise ValueError(f"{function}: rows of length {length} have nothing to keep: use at least 2 tokens")
    noise, spans = span_counts(length, density, mean_span)  # type: ignore[arg-type]
    check_sentinels(function, length=length, spans=spans, sentinel_ids=ids)
    return noise, spans


def span_corrupt(
    key: jax.Array,
    tokens_BT: jax.Array,
    *,
    sentinel_ids: Sequence[int],
    density: float = 0.15,
    mean_span: float = 3.0,
    segments_BT: jax.Array | None = None,
    eos_id: int | None = None,
    pad_id: int = 0,
    inputs_length: int | None = None,
    targets_length: int | None = None,
) -> tuple[Rows, Rows]:
    """T5's corruption for an encoder-decoder: the inputs are the row without its noise spans, the targets are the
    spans.

    ``a b c d e`` with noise ``b`` and ``d e`` becomes ``a <0> c <1>`` and ``<0> b <1> d e``. In packed
    rows every document is corrupted on its own and starts again at the first sentinel.

    Raffel et al. 2020 (T5), section 3.1.4.

    Args:
      key: PRNG key.
      tokens_BT: int32 ids.
      sentinel_ids: sentinels in the order of use (``vocabulary.sentinel_ids``).
      density: share of noise tokens.
      mean_span: mean tokens of a noise span.
      segments_BT: document numbers, 0 for padding; ``None``: one document fills the row.
      eos_id: appended to every document's input and targets; ``None`` appends nothing.
      pad_id: fills rows that come out shorter than their length.
      inputs_length: length of the input rows, by default the length for one document that fills the row. Longer rows
        are cut at the end (packed rows of many tiny documents can be longer).
      targets_length: length of the target rows, with the same default and cut.

    Returns:
      ``(inputs, targets)``. The same document has the same number in the ``segments_BT`` of both. They are ``None``
      if the argument is ``None`` and the rows are full.

    Raises:
      ValueError: a row has more spans than there are sentinels, or is too short, or ``density`` or
        ``mean_span`` is impossible or traced.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from lmjax import corruption
      >>> tokens_BT = jnp.array([[5, 6, 7, 8]])
      >>> inputs, targets = corruption.span_corrupt(
      ...     jax.random.key(0), tokens_BT, sentinel_ids=(90, 91), density=0.25
      ... )
      >>> print(inputs.tokens_BT, targets.tokens_BT)
      [[ 5  6  7 90]] [[90  8]]
    """
    row_length, extra = tokens_BT.shape[1], int(eos_id is not None)
    noise, spans = _expected_counts("span_corrupt", row_length, density, mean_span, sentinel_ids)
    exact = row_length - noise + spans + extra, noise + spans + extra
    wanted = inputs_length or exact[0], targets_length or exact[1]
    pair = replace_spans(
        tokens_BT,
        span_mask(key, tokens_BT.shape, density=density, mean_span=mean_span, segments_BT=segments_BT),
        sentinel_ids=sentinel_ids,
        inputs_length=wanted[0],
        targets_length=wanted[1],
        segments_BT=segments_BT,
        eos_id=eos_id,
        pad_id=pad_id,
    )
    if segments_BT is not None:
        return pair
    # Full rows of one document each need no segments, and masks without them are cheaper.
    inputs, targets = (
        Rows(tokens_BT=rows.tokens_BT, segments_BT=None if length <= needed else rows.segments_BT)
        for rows, length, needed in zip(pair, wanted, exact, strict=True)
    )
    return inputs, targets


def span_corrupt_joined(
    key: jax.Array,
    tokens_BT: jax.Array,
    *,
    sentinel_ids: Sequence[int],
    density: float = 0.15,
    mean_span: float = 3.0,
    segments_BT: jax.Array | None = None,
    eos_id: int | None = None,
    pad_id: int = 0,
    length: int | None = None,
) -> tuple[Rows, jax.Array]:
    """T5's corruption for a decoder: each document's input is followed by its targets in the same row.

    Raffel et al. 2020 (T5), sections 3.1.4 and 3.2.1.

    Args:
      key: PRNG key.
      tokens_BT: int32 ids.
      sentinel_ids: sentinels in the order of use.
      density: share of noise tokens.
      mean_span: mean tokens of a noise span.
      segments_BT: document numbers, 0 for padding; ``None``: one document fills the row.
      eos_id: appended to every document's targets; ``None`` appends nothing.
      pad_id: fills the rows.
      length: length of the rows, by default the length for one document that fills the row; longer rows are cut at
        the end.

    Returns:
      ``(rows, prefix_end_BT)``, see :func:`lmjax.corruption.sentinels.join_spans`.

    Raises:
      ValueError: as :func:`span_corrupt`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from lmjax import corruption
      >>> tokens_BT = jnp.array([[5, 6, 7, 8]])
      >>> rows, prefix_end_BT = corruption.span_corrupt_joined(
      ...     jax.random.key(0), tokens_BT, sentinel_ids=(90, 91), density=0.25
      ... )
      >>> print(rows.tokens_BT, prefix_end_BT)
      [[ 5  6  7 90 90  8]] [[4 4 4 4 4 4]]
    """
    row_length = tokens_BT.shape[1]
    _, spans = _expected_counts("span_corrupt_joined", row_length, density, mean_span, sentinel_ids)
    return join_spans(
        tokens_BT,
        span_mask(key, tokens_BT.shape, density=density, mean_span=mean_span, segments_BT=segments_BT),
        sentinel_ids=sentinel_ids,
        length=length or row_length + 2 * spans + int(eos_id is not None),
        segments_BT=segments_BT,
        eos_id=eos_id,
        pad_id=pad_id,
    )
