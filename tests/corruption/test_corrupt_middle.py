"""Fill-in-the-middle: every document of a row comes back, the last one too; orders, rates and cutting."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.corruption import ended_documents, fill_in_middle

PREFIX, SUFFIX, MIDDLE, BOS, EOS = 1, 2, 3, 4, 5
LENGTHS = [12, 1, 2, 30, 3, 7]
fim = jax.jit(
    functools.partial(
        fill_in_middle, prefix_id=PREFIX, suffix_id=SUFFIX, middle_id=MIDDLE, bos_id=BOS, eos_id=EOS, pad_id=9
    ),
    static_argnames=("length",),
)


@pytest.fixture(scope="module")
def rows():
    segments = np.repeat(np.arange(1, 7), LENGTHS)
    segments = np.concatenate([segments, np.zeros(9, int)])[None, :].repeat(64, 0).astype(np.int32)
    tokens = np.arange(64 * 64).reshape(64, 64).astype(np.int32) + 10
    tokens[:, 0] = BOS
    tokens[:, [11, 12, 54]] = EOS
    return tokens, segments


def undo(document):
    """The document before, and its order: None, "PSM" or "SPM"."""
    head = [BOS] if document[:1] == [BOS] else []
    tail = [EOS] if document[-1:] == [EOS] else []
    body = document[len(head) : len(document) - len(tail)]
    if PREFIX not in body:
        return document, None
    assert body[0] == PREFIX
    suffix_at, middle_at = body.index(SUFFIX), body.index(MIDDLE)
    suffix, middle = body[suffix_at + 1 : middle_at], body[middle_at + 1 :]
    if suffix_at > 1:
        return head + body[1:suffix_at] + middle + suffix + tail, "PSM"
    return head + middle + suffix + tail, "SPM or PSM without prefix"


def test_every_document_comes_back(rows):
    tokens, segments = rows
    orders = {}
    for seed in range(4):
        out = fim(jax.random.key(seed), tokens, segments_BT=segments, length=64 + 18)
        out_tokens, out_segments = np.asarray(out.tokens_BT), np.asarray(out.segments_BT)
        assert (out_tokens[out_segments == 0] == 9).all()
        for row in range(64):
            for number in range(1, 7):
                got = out_tokens[row][out_segments[row] == number].tolist()
                back, order = undo(got)
                assert back == tokens[row][segments[row] == number].tolist()
                orders.setdefault(number, []).append(order)
    # Document 2 is a lone end of sequence and has nothing to cut.
    assert set(orders[2]) == {None}
    for number in (1, 3, 4, 5, 6):
        applied = sum(order is not None for order in orders[number])
        assert abs(applied - 128) < 3 * 8
    applied = [order for order in orders[4] if order]
    # SPM half of the time; in PSM the prefix is empty when either cut is 0 of 0..30.
    no_prefix = 1 - (30 / 31) ** 2
    expected = 0.5 + 0.5 * no_prefix
    share = np.mean([order != "PSM" for order in applied])
    assert abs(share - expected) < 3 * np.sqrt(expected * (1 - expected) / len(applied))


def test_spm_continues_the_prefix_after_the_middle_marker(rows):
    tokens = jnp.arange(10, 30, dtype=jnp.int32)[None, :].repeat(2000, 0)
    out = np.asarray(fim(jax.random.key(1), tokens, rate=1.0, spm_fraction=1.0).tokens_BT)
    assert out.shape == (2000, 23)
    assert (out[:, :2] == [PREFIX, SUFFIX]).all()
    middle_at = np.argmax(out == MIDDLE, axis=1)
    suffix_sizes = middle_at - 2
    for row, size in zip(out, suffix_sizes, strict=True):
        assert row[2 : 2 + size].tolist() == list(range(30 - size, 30))
        assert row[3 + size :].tolist() == list(range(10, 30 - size))
    # The later of two uniform cuts is at k with probability (2k + 1) / 21^2, so the suffix averages 6.83.
    cut = np.arange(21)
    probability = (2 * cut + 1) / 21**2
    mean = (probability * (20 - cut)).sum()
    deviation = np.sqrt((probability * (20 - cut - mean) ** 2).sum())
    assert abs(suffix_sizes.mean() - mean) < 3 * deviation / np.sqrt(2000)


def test_documents_of_a_stream_end_with_their_end_token():
    tokens = jnp.array([[7, EOS, EOS, 8, 9, EOS], [7, 8, 9, 7, 8, 9]])
    np.testing.assert_array_equal(ended_documents(tokens, EOS), [[1, 1, 2, 3, 3, 3], [1] * 6])


def test_extremes_of_the_rates(rows):
    tokens, segments = rows
    plain = fim(jax.random.key(0), tokens, segments_BT=segments, rate=0.0)
    np.testing.assert_array_equal(plain.segments_BT[:, :64], segments)
    np.testing.assert_array_equal(plain.tokens_BT[:, :55], tokens[:, :55])
    psm = np.asarray(fim(jax.random.key(0), tokens, rate=1.0, spm_fraction=0.0).tokens_BT)
    assert (np.argmax(psm == PREFIX, axis=1) == 1).all()
    assert (np.argmax(psm == SUFFIX, axis=1) < np.argmax(psm == MIDDLE, axis=1)).all()


def test_rows_are_cut_at_their_end_and_nowhere_else(rows):
    tokens, segments = rows
    long = fim(jax.random.key(2), tokens, segments_BT=segments, length=82)
    for length in (64, 40):
        short = fim(jax.random.key(2), tokens, segments_BT=segments, length=length)
        np.testing.assert_array_equal(short.tokens_BT, long.tokens_BT[:, :length])
        np.testing.assert_array_equal(short.segments_BT, long.segments_BT[:, :length])


def test_impossible_arguments_are_refused():
    tokens = jnp.zeros((1, 8), jnp.int32)
    with pytest.raises(ValueError, match="rate=2"):
        fill_in_middle(jax.random.key(0), tokens, prefix_id=1, suffix_id=2, middle_id=3, rate=2.0)
    with pytest.raises(ValueError, match="must differ"):
        fill_in_middle(jax.random.key(0), tokens, prefix_id=1, suffix_id=2, middle_id=2)
