"""Masking whole words, and spans of whole words.

Whole-word masking is BERT's later release (Devlin et al. 2019, code of May 2019): either all tokens of a word are
hidden, or none. SpanBERT (Joshi et al. 2020, section 3.1) hides spans of words whose lengths are geometrically
distributed, and also predicts them from the tokens next to the span.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.corruption.ids import check_ids, is_special
from lmjax.corruption.placement import draw_lengths, place_spans
from lmjax.corruption.tokens import hide
from lmjax.integers import as_int32
from lmjax.layout import Documents, documents, running_count
from lmjax.rates import check_rate
from lmjax.types import IGNORE_INDEX


def mask_words(
    key: jax.Array,
    tokens_BT: jax.Array,
    *,
    vocab_size: int,
    mask_id: int,
    word_start_V: np.ndarray | None,
    word_end_V: np.ndarray | None = None,
    special_ids: Sequence[int] = (),
    rate: float | jax.Array = 0.15,
    budget: int | None = None,
    mask_fraction: float | jax.Array = 0.8,
    random_fraction: float | jax.Array = 0.1,
    segments_BT: jax.Array | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> tuple[jax.Array, jax.Array]:
    """Chooses each word with probability ``rate`` and hides all of its tokens: 80% masked, 10% random, 10% unchanged.

    Devlin et al. 2019 (BERT), in the code of May 2019.

    Args:
      key: PRNG key.
      tokens_BT: int32 ids.
      vocab_size: ids are below this.
      mask_id: the mask token.
      word_start_V: bool [V], whether a token begins a word (``vocabulary.word_start_V``). A word also
        begins at the start of a document and after a special token.
      word_end_V: bool [V], whether a token ends a word, so that the next begins one; ``None``: none does.
      special_ids: ids that are left alone and belong to no word.
      rate: probability of a word to be chosen; may be traced.
      budget: the largest number of tokens to choose in a row. Words are chosen in random order while they fit, so
        ``rate=1`` with a budget is BERT's own procedure. ``None``: no limit.
      mask_fraction: share of the chosen tokens that are masked.
      random_fraction: share of the chosen tokens that are replaced by a random one.
      segments_BT: document numbers, 0 for padding; ``None``: one document fills the row.
      ignore_index: the label of tokens that were not chosen.

    Returns:
      ``(inputs_BT, labels_BT)``, as :func:`lmjax.corruption.mask_tokens`.

    Raises:
      ValueError: the tokenizer cannot tell where words start, or an argument is impossible.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from lmjax import corruption
      >>> word_start_V = jnp.arange(10) % 2 == 1  # odd ids begin a word
      >>> key, tokens_BT = jax.random.key(0), jnp.array([[1, 2, 3, 4, 5, 6]])
      >>> options = {"vocab_size": 10, "mask_id": 9, "word_start_V": word_start_V, "rate": 0.5}
      >>> masks_only = {"mask_fraction": 1.0, "random_fraction": 0.0}
      >>> inputs_BT, labels_BT = corruption.mask_words(key, tokens_BT, **options, **masks_only)
      >>> print(inputs_BT, labels_BT)
      [[1 2 9 9 9 9]] [[-100 -100    3    4    5    6]]
    """
    check_rate("mask_words", rate=rate)
    if budget is not None and budget < 1:
        raise ValueError(f"mask_words: budget={budget}: must be at least 1 token, or None")
    tokens_BT = as_int32(tokens_BT, "tokens_BT")
    where = documents(segments_BT, tokens_BT.shape)
    specials = (*special_ids, mask_id)
    eligible_BT, starts_BT = _words("mask_words", tokens_BT, where, vocab_size, word_start_V, word_end_V, specials)
    word_key, fate_key, replace_key = jax.random.split(key, 3)
    chosen_BT = _chosen_words(word_key, where, eligible_BT, starts_BT, rate=rate, budget=budget)
    inputs_BT = hide(
        replace_key,
        tokens_BT,
        chosen_BT,
        jax.random.uniform(fate_key, tokens_BT.shape),
        vocab_size=vocab_size,
        mask_id=mask_id,
        special_ids=special_ids,
        mask_fraction=mask_fraction,
        random_fraction=random_fraction,
    )
    return inputs_BT, jnp.where(chosen_BT, tokens_BT, ignore_index)


class MaskedSpans(NamedTuple):
    """The input and the targets of SpanBERT; all arrays are [B, T].

    For the span-boundary objective, a chosen token is predicted from the hidden states at
    ``left_BT`` and ``right_BT``, the positions just outside of its span (at a document's edge, the
    span's own outermost position), and from its place in the span, ``t - left``.
    """

    inputs_BT: jax.Array
    labels_BT: jax.Array
    span_BT: jax.Array
    """int32: the number of each token's span within its row, from 1; 0 outside of spans."""
    left_BT: jax.Array
    right_BT: jax.Array


def mask_spans(
    key: jax.Array,
    tokens_BT: jax.Array,
    *,
    vocab_size: int,
    mask_id: int,
    word_start_V: np.ndarray | None,
    word_end_V: np.ndarray | None = None,
    special_ids: Sequence[int] = (),
    rate: float | jax.Array = 0.15,
    length_p: float = 0.2,
    max_words: int = 10,
    mask_fraction: float | jax.Array = 0.8,
    random_fraction: float | jax.Array = 0.1,
    segments_BT: jax.Array | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> MaskedSpans:
    """SpanBERT's masking: spans of whole words until ``rate`` of a row's words are hidden.

    Lengths in words follow the geometric distribution ``p (1 - p)^(n - 1)`` on 1 .. ``max_words``
    (a mean of 3.8 words as published). A whole span becomes mask tokens, becomes random tokens, or stays. Spans
    contain no special tokens and do not cross documents: a span that meets such a border is divided into two.

    Joshi et al. 2020 (SpanBERT), section 3.1.

    Args:
      key: PRNG key.
      tokens_BT: int32 ids.
      vocab_size: ids are below this.
      mask_id: the mask token.
      word_start_V: bool [V], whether a token begins a word.
      word_end_V: bool [V], whether a token ends one; see :func:`mask_words`.
      special_ids: ids that are left alone and belong to no word.
      rate: share of the words of a row to hide; the number of hidden words differs from it by less than one. May be
        traced.
      length_p: parameter of the geometric distribution.
      max_words: longest span.
      mask_fraction: share of the spans that are masked.
      random_fraction: share of the spans whose tokens are replaced by random ones.
      segments_BT: document numbers, 0 for padding; ``None``: one document fills the row.
      ignore_index: the label of tokens outside of spans.

    Raises:
      ValueError: the tokenizer cannot tell where words start, or an argument is impossible.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from lmjax import corruption
      >>> word_start_V = jnp.ones(10, bool)
      >>> key, tokens_BT = jax.random.key(0), jnp.array([[1, 2, 3, 4, 5, 6]])
      >>> options = {"vocab_size": 10, "mask_id": 9, "word_start_V": word_start_V, "rate": 0.5}
      >>> spans = corruption.mask_spans(key, tokens_BT, **options, mask_fraction=1.0, random_fraction=0.0)
      >>> print(spans.inputs_BT, spans.span_BT)
      [[9 9 9 4 5 6]] [[1 1 1 0 0 0]]
    """
    check_rate("mask_spans", rate=rate)
    tokens_BT = as_int32(tokens_BT, "tokens_BT")
    where = documents(segments_BT, tokens_BT.shape)
    specials = (*special_ids, mask_id)
    eligible_BT, starts_BT = _words("mask_spans", tokens_BT, where, vocab_size, word_start_V, word_end_V, specials)
    length_key, place_key, fate_key, replace_key = jax.random.split(key, 4)
    lengths_BT = draw_lengths(length_key, tokens_BT.shape, _geometric(length_p, max_words), least=1)
    span_BT = _spans_of_words(place_key, lengths_BT, eligible_BT, starts_BT, rate)
    fate_BT = jnp.take_along_axis(jax.random.uniform(fate_key, tokens_BT.shape), span_BT, axis=1, mode="clip")
    inputs_BT = hide(
        replace_key,
        tokens_BT,
        span_BT > 0,
        fate_BT,
        vocab_size=vocab_size,
        mask_id=mask_id,
        special_ids=special_ids,
        mask_fraction=mask_fraction,
        random_fraction=random_fraction,
    )
    piece_BT, left_BT, right_BT = _pieces(span_BT, where)
    labels_BT = jnp.where(span_BT > 0, tokens_BT, ignore_index)
    return MaskedSpans(inputs_BT, labels_BT, piece_BT, left_BT, right_BT)


def _words(
    function: str,
    tokens_BT: jax.Array,
    where: Documents,
    vocab_size: int,
    word_start_V: np.ndarray | None,
    word_end_V: np.ndarray | None,
    special_ids: Sequence[int],
) -> tuple[jax.Array, jax.Array]:
    """Returns which tokens belong to words, and which begin a word (bool [B, T] both)."""
    check_ids(function, vocab_size=vocab_size, special_ids=special_ids)
    if word_start_V is None:
        raise ValueError(
            f"{function}: word_start_V is missing: this tokenizer cannot tell where words start; "
            f"use one that can (byte-level BPE or SentencePiece), or mask single tokens"
        )
    if np.shape(word_start_V) != (vocab_size,):
        raise ValueError(f"{function}: word_start_V has shape {np.shape(word_start_V)}, not ({vocab_size},)")
    special_BT = is_special(tokens_BT, vocab_size=vocab_size, special_ids=special_ids)
    eligible_BT = where.real_BT & ~special_BT
    eligible_before_BT = jnp.pad(eligible_BT[:, :-1], ((0, 0), (1, 0)))
    opens_BT = jnp.asarray(word_start_V, bool)[tokens_BT] | ~eligible_before_BT | where.first
    if word_end_V is not None:
        ends_BT = jnp.asarray(word_end_V, bool)[tokens_BT]
        opens_BT |= jnp.pad(ends_BT[:, :-1], ((0, 0), (1, 0)))
    return eligible_BT, eligible_BT & opens_BT


def _chosen_words(
    key: jax.Array,
    where: Documents,
    eligible_BT: jax.Array,
    starts_BT: jax.Array,
    *,
    rate: float | jax.Array,
    budget: int | None,
) -> jax.Array:
    """Returns which tokens belong to chosen words (bool [B, T]). The tokens of a word share one draw."""
    draw_BT = jax.random.uniform(key, eligible_BT.shape)
    begin_BT = jax.lax.cummax(jnp.where(starts_BT, where.index_BT, 0), axis=1)
    draw_BT = jnp.where(eligible_BT, jnp.take_along_axis(draw_BT, begin_BT, axis=1), 1.0)
    chosen_BT = eligible_BT & (draw_BT < rate)
    if budget is not None and budget < eligible_BT.shape[1]:
        # Words with draws below that of the first token over the budget fit into it.
        chosen_BT &= draw_BT < jnp.sort(draw_BT, axis=1)[:, budget : budget + 1]
    return chosen_BT


def _geometric(length_p: float, max_words: int) -> np.ndarray:
    """Returns numbers in proportion to the probabilities of the lengths 1 .. ``max_words`` of a span."""
    if not 0 < length_p < 1:
        raise ValueError(f"mask_spans: length_p={length_p}: must be above 0 and below 1")
    if max_words < 1:
        raise ValueError(f"mask_spans: max_words={max_words}: must be at least 1")
    return length_p * (1 - length_p) ** np.arange(max_words)


def _spans_of_words(
    key: jax.Array, lengths_BT: jax.Array, eligible_BT: jax.Array, starts_BT: jax.Array, rate: float | jax.Array
) -> jax.Array:
    """Returns the number of the span that each token is in, 0 for none; ``lengths_BT`` are spans in words."""
    word_BT = running_count(starts_BT)
    placed = place_spans(key, lengths_BT, word_BT[:, -1:], rate)
    word_span_BT = jnp.take_along_axis(placed.span_BT, jnp.maximum(word_BT - 1, 0), axis=1)
    return jnp.where(eligible_BT, word_span_BT, 0)


def _pieces(span_BT: jax.Array, where: Documents) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Numbers the contiguous pieces of spans along the row; returns numbers and the positions outside of each."""
    length = span_BT.shape[1]
    before_BT = jnp.pad(span_BT[:, :-1], ((0, 0), (1, 0)))
    after_BT = jnp.pad(span_BT[:, 1:], ((0, 0), (0, 1)))
    inside_BT = span_BT > 0
    begins_BT = inside_BT & ((before_BT != span_BT) | (where.index_BT == where.start_BT))
    ends_BT = inside_BT & ((after_BT != span_BT) | (where.index_BT == where.end_BT - 1))
    begin_BT = jax.lax.cummax(jnp.where(begins_BT, where.index_BT, 0), axis=1)
    end_BT = jax.lax.cummin(jnp.where(ends_BT, where.index_BT, length), axis=1, reverse=True)
    left_BT = jnp.maximum(begin_BT - 1, where.start_BT)
    right_BT = jnp.minimum(end_BT + 1, where.end_BT - 1)
    numbered = (running_count(begins_BT), left_BT, right_BT)
    piece_BT, left_BT, right_BT = (jnp.where(inside_BT, value_BT, 0) for value_BT in numbered)
    return piece_BT, left_BT, right_BT
