"""Sentence pairs: every token accounted for, half of the pairs wrong, cuts where they may be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.corruption import next_sentence_pairs, sentence_order_pairs

CLS, SEP, PAD = 1, 2, 3
LENGTHS = [10, 1, 7, 15, 8]
order_pairs, next_pairs = (
    jax.jit(functools.partial(function, cls_id=CLS, sep_id=SEP, pad_id=PAD), static_argnames=("length",))
    for function in (sentence_order_pairs, next_sentence_pairs)
)


@pytest.fixture(scope="module")
def rows():
    segments = np.concatenate([np.repeat([3, 4, 5, 6, 7], LENGTHS), np.zeros(7, int)])
    segments = segments[None, :].repeat(512, 0).astype(np.int32)
    tokens = np.broadcast_to(np.arange(10, 58, dtype=np.int32)[None, :], segments.shape)
    return tokens, segments


def read(pairs, row):
    """``(number, label, first part, second part)`` of each pair of a row."""
    tokens, segments, types, labels = (np.asarray(part)[row] for part in pairs)
    assert (tokens[segments == 0] == PAD).all()
    found = []
    for number in dict.fromkeys(segments[segments > 0].tolist()):
        where = segments == number
        got, kinds = tokens[where].tolist(), types[where].tolist()
        assert got[0] == CLS
        assert got[-1] == SEP
        at = got.index(SEP)
        assert kinds == [0] * (at + 1) + [1] * (len(got) - at - 1)
        assert (labels[where][1:] == -100).all()
        found.append((number, int(labels[where][0]), got[1:at], got[at + 1 : -1]))
    return found


def test_order_pairs_hold_the_document_in_one_of_two_orders(rows):
    tokens, segments = rows
    pairs = order_pairs(jax.random.key(0), tokens, segments_BT=segments, length=48 + 15)
    wrong, cuts = [], []
    for row in range(512):
        found = read(pairs, row)
        assert [number for number, *_ in found] == [3, 4, 5, 6, 7]
        for number, label, first, second in found:
            document = tokens[row][segments[row] == number].tolist()
            if number == 4:
                assert (label, first, second) == (-100, document, [])
                continue
            assert document == (second + first if label else first + second)
            assert first
            assert second
            wrong.append(label)
            cuts += [len(second if label else first)] if number == 3 else []
    assert set(wrong) == {0, 1}
    assert abs(np.mean(wrong) - 0.5) < 3 * 0.5 / np.sqrt(len(wrong))
    counts = np.bincount(cuts, minlength=10)[1:]
    chi_square = ((counts - 512 / 9) ** 2 / (512 / 9)).sum()
    assert abs(chi_square - 8) < 3 * np.sqrt(2 * 8)


def test_next_pairs_exchange_second_parts_within_the_row(rows):
    tokens, segments = rows
    pairs = next_pairs(jax.random.key(1), tokens, segments_BT=segments, length=48 + 15)
    wrong = []
    for row in range(512):
        found = read(pairs, row)
        seen = sorted(token for _, _, first, second in found for token in first + second)
        assert seen == tokens[row][segments[row] > 0].tolist()
        for number, label, first, second in found:
            inside = tokens[row][segments[row] == number].tolist()
            assert first == inside[: len(first)]
            if label == 1:
                other = segments[row][np.isin(tokens[row], second)]
                assert set(other.tolist()) != {number}
                assert len(set(other.tolist())) == 1
            else:
                assert first + second == inside
            wrong += [label] if number != 4 else []
    assert set(wrong) == {0, 1}
    # Two of a row's four labels are tied where a lone flag was repaired, hence the wider margin.
    assert abs(np.mean(wrong) - 0.5) < 3 * 0.5 * np.sqrt(2 / len(wrong))


def test_two_documents_are_exchanged_half_of_the_time(rows):
    segments = jnp.asarray([[1] * 8 + [2] * 8] * 1000, jnp.int32)
    tokens = jnp.broadcast_to(jnp.arange(10, 26, dtype=jnp.int32)[None, :], segments.shape)
    labels = np.asarray(next_pairs(jax.random.key(2), tokens, segments_BT=segments, length=22).labels_BS)
    first, second = labels[:, 0], np.asarray([row[row != -100][1] for row in labels])
    np.testing.assert_array_equal(first, second)
    assert abs(first.mean() - 0.5) < 3 * 0.5 / np.sqrt(1000)


def test_cuts_fall_between_sentences(rows):
    tokens, segments = rows
    sentences = np.broadcast_to((np.arange(48) // 4)[None, :], segments.shape)
    for function in (order_pairs, next_pairs):
        pairs = function(jax.random.key(3), tokens, segments_BT=segments, sentences_BT=sentences, length=48 + 15)
        for row in range(64):
            for _, label, first, second in read(pairs, row):
                if label == 0:
                    assert (second[0] - 10) % 4 == 0
                if label == -100:
                    assert not second
                    assert len(first) < 8


def test_rows_are_cut_at_their_end(rows):
    tokens, segments = rows
    long = next_pairs(jax.random.key(4), tokens, segments_BT=segments, length=63)
    short = next_pairs(jax.random.key(4), tokens, segments_BT=segments)
    assert short.tokens_BS.shape == (512, 51)
    for one, other in zip(long, short, strict=True):
        np.testing.assert_array_equal(one[:, :51], other)


def test_what_cannot_be_paired_is_refused():
    with pytest.raises(ValueError, match="pack several documents"):
        next_sentence_pairs(jax.random.key(0), jnp.zeros((2, 8), jnp.int32), cls_id=CLS, sep_id=SEP, segments_BT=None)
    with pytest.raises(ValueError, match="at least 2 tokens"):
        sentence_order_pairs(jax.random.key(0), jnp.zeros((2, 1), jnp.int32), cls_id=CLS, sep_id=SEP)
