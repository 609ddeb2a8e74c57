"""Pairs of texts, right or wrong, made from packed documents.

Every document of a row is cut in two, A and B, and written ``<cls> A <sep> B <sep>``; half of the
pairs are wrong. Next-sentence prediction (Devlin et al. 2019, section 3.1) exchanges the Bs of a
row's documents; sentence-order prediction (Lan et al. 2020, section 3.1) exchanges A and B.

Axes: S positions of a row of pairs, D documents of a row, N what such a row is put together from: tokens
and markers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lmjax.integers import as_int32
from lmjax.layout import Documents, arrangement, documents, place, running_count, segment_numbers
from lmjax.types import IGNORE_INDEX


class PairRows(NamedTuple):
    """Rows of pairs; all arrays are int32 [B, S]."""

    tokens_BS: jax.Array
    segments_BS: jax.Array
    """The document number of each pair, which is that of its part A; 0 for padding."""
    types_BS: jax.Array
    """0 up to the first separator of a pair, 1 after it (BERT's segment embedding)."""
    labels_BS: jax.Array
    """At each pair's first token, 0 for a right pair and 1 for a wrong one; ``IGNORE_INDEX`` elsewhere, and where
    a document was too short to cut."""


class _Cuts(NamedTuple):
    """One entry for each document, in the order of the row; as many entries as positions, the last ones empty."""

    start_BD: jax.Array
    cut_BD: jax.Array
    end_BD: jax.Array
    number_BD: jax.Array
    splits_BD: jax.Array


def sentence_order_pairs(
    key: jax.Array,
    tokens_BT: jax.Array,
    *,
    cls_id: int,
    sep_id: int,
    segments_BT: jax.Array | None = None,
    sentences_BT: jax.Array | None = None,
    length: int | None = None,
    pad_id: int = 0,
) -> PairRows:
    """Cuts each document in two at random and swaps the parts with probability one half.

    A right pair is ``<cls> A <sep> B <sep>``, a wrong one ``<cls> B <sep> A <sep>`` (ALBERT, Lan et al. 2020,
    section 3.1).

    Args:
      key: PRNG key.
      tokens_BT: int32 ids.
      cls_id: begins each pair.
      sep_id: ends each part.
      segments_BT: document numbers, 0 for padding; ``None``: one document fills the row.
      sentences_BT: sentence numbers: cuts fall where they change; ``None``: between any two tokens.
      length: length of the rows, T + 3 by default; every document becomes three tokens longer, and a row that is too
        long is cut at its end.
      pad_id: fills the rows.

    Raises:
      ValueError: rows of fewer than two tokens.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from lmjax import corruption
      >>> pairs = corruption.sentence_order_pairs(jax.random.key(0), jnp.array([[5, 6], [7, 8]]), cls_id=1, sep_id=2)
      >>> print(pairs.tokens_BS)
      [[1 6 2 5 2]
       [1 7 2 8 2]]
      >>> print(pairs.labels_BS[:, 0])
      [1 0]
    """
    tokens_BT = as_int32(tokens_BT, "tokens_BT")
    where, cuts, swap_key = _cut("sentence_order_pairs", key, tokens_BT, segments_BT, sentences_BT)
    wrong_BD = cuts.splits_BD & jax.random.bernoulli(swap_key, 0.5, tokens_BT.shape)
    own_BD = where.index_BT
    length = tokens_BT.shape[1] + 3 if length is None else length
    return _write(tokens_BT, where, cuts, own_BD, own_BD, wrong_BD, wrong_BD, (cls_id, sep_id, pad_id), length)


def next_sentence_pairs(
    key: jax.Array,
    tokens_BT: jax.Array,
    *,
    cls_id: int,
    sep_id: int,
    segments_BT: jax.Array | None,
    sentences_BT: jax.Array | None = None,
    length: int | None = None,
    pad_id: int = 0,
) -> PairRows:
    """Cuts each document in two; half of them get the second part of another document of the same row.

    In a row with two or more documents that can be cut, a document is wrong with probability one half. A single
    document has nothing to exchange and stays right.

    Of the documents A B and C D a right pair is ``<cls> A <sep> B <sep>``, a wrong one ``<cls> A <sep> D <sep>`` (BERT,
    Devlin et al. 2019, section 3.1).

    Args:
      key: PRNG key.
      tokens_BT: int32 ids.
      cls_id: begins each pair.
      sep_id: ends each part.
      segments_BT: document numbers, 0 for padding.
      sentences_BT: sentence numbers: cuts fall where they change; ``None``: between any two tokens.
      length: length of the rows, T + 3 by default; every document makes its row three tokens longer, and a row that
        is too long is cut at its end.
      pad_id: fills the rows.

    Raises:
      ValueError: the rows are not packed, or have fewer than two tokens.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from lmjax import corruption
      >>> tokens_BT, segments_BT = jnp.array([[5, 6]]), jnp.array([[1, 1]])
      >>> pairs = corruption.next_sentence_pairs(
      ...     jax.random.key(0), tokens_BT, cls_id=1, sep_id=2, segments_BT=segments_BT
      ... )
      >>> print(pairs.tokens_BS, pairs.types_BS, pairs.labels_BS[:, 0])
      [[1 5 2 6 2]] [[0 0 0 1 1]] [0]
    """
    if segments_BT is None:
        raise ValueError(
            "next_sentence_pairs: segments_BT=None: wrong pairs are made of documents packed into one "
            "row: pack several documents a row, or use sentence_order_pairs"
        )
    tokens_BT = as_int32(tokens_BT, "tokens_BT")
    where, cuts, flag_key = _cut("next_sentence_pairs", key, tokens_BT, segments_BT, sentences_BT)
    wrong_BD = _wrong_documents(flag_key, cuts.splits_BD)
    receives_BD, gives_to_BD = _exchange(wrong_BD)
    length = tokens_BT.shape[1] + 3 if length is None else length
    ordered_BD = jnp.zeros_like(wrong_BD)
    ids = (cls_id, sep_id, pad_id)
    return _write(tokens_BT, where, cuts, receives_BD, gives_to_BD, ordered_BD, wrong_BD, ids, length)


def _cut(
    function: str,
    key: jax.Array,
    tokens_BT: jax.Array,
    segments_BT: jax.Array | None,
    sentences_BT: jax.Array | None,
) -> tuple[Documents, _Cuts, jax.Array]:
    """Cuts every document at a uniformly chosen place; returns the documents, the cuts, and a key for the next draw."""
    length = tokens_BT.shape[1]
    if length < 2:
        raise ValueError(f"{function}: rows of length {length} cannot be cut: use at least 2 tokens")
    cut_key, next_key = jax.random.split(key)
    where = documents(segments_BT, tokens_BT.shape)
    places_BT = where.real_BT & (where.index_BT > where.start_BT)
    if sentences_BT is not None:
        places_BT &= jnp.pad(sentences_BT[:, 1:] != sentences_BT[:, :-1], ((0, 0), (1, 0)))
    rank_BT = where.before(places_BT)
    choices_BT = jnp.take_along_axis(rank_BT, where.end_BT - 1, axis=1)
    bits_BT = where.shared(jax.random.bits(cut_key, tokens_BT.shape, jnp.uint32))
    choice_BT = (bits_BT % jnp.maximum(choices_BT, 1).astype(jnp.uint32)).astype(jnp.int32)
    chosen_BT = places_BT & (rank_BT == choice_BT + 1)

    def table(values_BT: jax.Array, keep_BT: jax.Array) -> jax.Array:
        return place(values_BT, where.number_BT, keep_BT, length=length, fill=0)

    splits_BD = table(chosen_BT, chosen_BT)
    end_BD = table(where.end_BT, where.first)
    number_BT = segment_numbers(segments_BT, tokens_BT.shape)
    cuts = _Cuts(
        start_BD=table(where.index_BT, where.first),
        cut_BD=jnp.where(splits_BD, table(where.index_BT, chosen_BT), end_BD),
        end_BD=end_BD,
        number_BD=table(number_BT, where.first),
        splits_BD=splits_BD,
    )
    return where, cuts, next_key


def _wrong_documents(key: jax.Array, splits_BD: jax.Array) -> jax.Array:
    """Flags documents with probability one half, but never exactly one document of a row."""
    flag_key, repair_key = jax.random.split(key)
    wrong_BD = splits_BD & jax.random.bernoulli(flag_key, 0.5, splits_BD.shape)
    num_wrong_B1 = wrong_BD.sum(axis=1, keepdims=True)
    num_splits_B1 = splits_BD.sum(axis=1, keepdims=True)
    # A single flag is removed, or the next document is flagged too, equally often: the mean stays one half.
    joins_B1 = (num_splits_B1 > 1) & jax.random.bernoulli(repair_key, 0.5, num_wrong_B1.shape)
    rank_BD = running_count(splits_BD) - 1
    lone_rank_B1 = jnp.where(wrong_BD, rank_BD, 0).sum(axis=1, keepdims=True)
    next_rank_B1 = (lone_rank_B1 + 1) % jnp.maximum(num_splits_B1, 1)
    joined_BD = wrong_BD | (splits_BD & (rank_BD == next_rank_B1))
    return jnp.where(num_wrong_B1 == 1, joined_BD & joins_B1, wrong_BD)


def _exchange(wrong_BD: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns each document's giver and receiver of B, as indices; the wrong documents form a cycle."""
    length = wrong_BD.shape[1]
    index_BD = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None, :], wrong_BD.shape)
    rank_BD = running_count(wrong_BD) - 1
    num_wrong_B1 = jnp.maximum(wrong_BD.sum(axis=1, keepdims=True, dtype=jnp.int32), 1)
    member_BD = place(index_BD, rank_BD, wrong_BD, length=length, fill=0)
    neighbours = (jnp.take_along_axis(member_BD, (rank_BD + step) % num_wrong_B1, axis=1) for step in (1, -1))
    receives_BD, gives_to_BD = (jnp.where(wrong_BD, near_BD, index_BD) for near_BD in neighbours)
    return receives_BD, gives_to_BD


def _write(
    tokens_BT: jax.Array,
    where: Documents,
    cuts: _Cuts,
    receives_BD: jax.Array,
    gives_to_BD: jax.Array,
    reversed_BD: jax.Array,
    wrong_BD: jax.Array,
    ids: tuple[int, int, int],
    length: int,
) -> PairRows:
    """Lays out ``<cls> first <sep> second <sep>`` for every document."""
    cls_id, sep_id, pad_id = ids
    a_size_BD = cuts.cut_BD - cuts.start_BD
    b_size_BD = jnp.take_along_axis(cuts.end_BD - cuts.cut_BD, receives_BD, axis=1)
    exists_BD = cuts.end_BD > cuts.start_BD
    size_BD = jnp.where(exists_BD, a_size_BD + b_size_BD + 3, 0)
    base_BD = jnp.cumsum(size_BD, axis=1) - size_BD
    separator_BD = base_BD + 1 + jnp.where(reversed_BD, b_size_BD, a_size_BD)
    a_begin_BD = jnp.where(reversed_BD, separator_BD + 1, base_BD + 1)
    b_begin_BD = jnp.where(reversed_BD, base_BD + 1, separator_BD + 1)

    def of_token(values_BD: jax.Array) -> jax.Array:
        return jnp.take_along_axis(values_BD, where.number_BT, axis=1)

    in_a_BT = where.index_BT < of_token(cuts.cut_BD)
    host_BT = jnp.where(in_a_BT, where.number_BT, of_token(gives_to_BD))

    def of_host(values_BD: jax.Array) -> jax.Array:
        return jnp.take_along_axis(values_BD, host_BT, axis=1)

    part_start_BT = jnp.where(in_a_BT, of_token(cuts.start_BD), of_token(cuts.cut_BD))
    part_begin_BT = jnp.where(in_a_BT, of_host(a_begin_BD), of_host(b_begin_BD))
    zeros_BD = jnp.zeros_like(base_BD)
    position_BN = jnp.concatenate(
        [part_begin_BT + where.index_BT - part_start_BT, base_BD, separator_BD, base_BD + size_BD - 1], axis=1
    )
    keep_BN = jnp.concatenate([where.real_BT, exists_BD, exists_BD, exists_BD], axis=1)

    arrange = arrangement(position_BN, keep_BN, length=length)

    def lay_out(token_values_BT: jax.Array, *marker_values_BD: jax.Array, fill: int) -> jax.Array:
        return arrange(jnp.concatenate([token_values_BT, *marker_values_BD], axis=1), fill)

    second_BT = (in_a_BT == of_host(reversed_BD)).astype(jnp.int32)
    cls_BD, sep_BD = (jnp.full_like(tokens_BT, token_id) for token_id in (cls_id, sep_id))
    label_BD = jnp.where(cuts.splits_BD, wrong_BD.astype(jnp.int32), IGNORE_INDEX)
    unlabelled_BD = zeros_BD - 100
    return PairRows(
        tokens_BS=lay_out(tokens_BT, cls_BD, sep_BD, sep_BD, fill=pad_id),
        segments_BS=lay_out(of_host(cuts.number_BD), *[cuts.number_BD] * 3, fill=0),
        types_BS=lay_out(second_BT, zeros_BD, zeros_BD, zeros_BD + 1, fill=0),
        labels_BS=lay_out(unlabelled_BD, label_BD, unlabelled_BD, unlabelled_BD, fill=IGNORE_INDEX),
    )
