"""Whole words and SpanBERT spans: never half a word, the right rate, lengths and fates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.corruption import mask_spans, mask_words

VOCAB, MASK, SPECIAL = 60, 1, (0, 2, 59)
WORD_START = np.random.default_rng(0).random(VOCAB) < 0.6
SETTINGS = {"vocab_size": VOCAB, "mask_id": MASK, "special_ids": SPECIAL, "word_start_V": WORD_START}
words = jax.jit(functools.partial(mask_words, **SETTINGS), static_argnames=("budget", "random_fraction"))
spans = jax.jit(functools.partial(mask_spans, **SETTINGS), static_argnames=("mask_fraction", "random_fraction"))


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, VOCAB, (256, 512)).astype(np.int32)
    segments = np.repeat(np.asarray([1, 2, 3, 0]), [200, 1, 299, 12])[None, :].repeat(256, 0).astype(np.int32)
    return tokens, segments


@pytest.fixture(scope="module")
def word_ids(rows):
    """Word of each token by plain counting, 0 outside of words."""
    tokens, segments = rows
    ids, count = np.zeros_like(tokens), 0
    for b, t in np.ndindex(tokens.shape):
        if segments[b, t] == 0 or tokens[b, t] in (*SPECIAL, MASK):
            continue
        new = t == 0 or WORD_START[tokens[b, t]] or ids[b, t - 1] == 0 or segments[b, t] != segments[b, t - 1]
        count += new
        ids[b, t] = count
    return ids


def chosen_words(labels, word_ids):
    """How many tokens of each word were chosen, and how many it has; asserts nothing else was."""
    chosen = np.asarray(labels) != -100
    assert not chosen[word_ids == 0].any()
    return np.bincount(word_ids[chosen], minlength=word_ids.max() + 1)[1:], np.bincount(word_ids.ravel())[1:]


def test_words_are_hidden_whole_at_the_rate(rows, word_ids):
    tokens, segments = rows
    inputs, labels = words(jax.random.key(0), tokens, segments_BT=segments)
    hidden, sizes = chosen_words(labels, word_ids)
    assert ((hidden == 0) | (hidden == sizes)).all()
    error = np.sqrt(0.15 * 0.85 / sizes.size)
    assert sizes.sum() > 1e5
    assert abs((hidden > 0).mean() - 0.15) < 3 * error
    chosen = np.asarray(labels) != -100
    np.testing.assert_array_equal(np.asarray(labels)[chosen], tokens[chosen])
    np.testing.assert_array_equal(np.asarray(inputs)[~chosen], tokens[~chosen])
    masked = (np.asarray(inputs)[chosen] == MASK).mean()
    assert abs(masked - 0.8) < 3 * np.sqrt(0.8 * 0.2 / chosen.sum())


def test_budget_is_kept_in_random_order(rows, word_ids):
    tokens, segments = rows
    _, labels = words(jax.random.key(1), tokens, segments_BT=segments, rate=1.0, budget=77)
    hidden, sizes = chosen_words(labels, word_ids)
    assert ((hidden == 0) | (hidden == sizes)).all()
    per_row = (np.asarray(labels) != -100).sum(axis=1)
    assert per_row.max() <= 77
    assert per_row.min() > 77 - sizes.max()
    # No part of the row is favoured.
    columns = np.broadcast_to(np.arange(512), tokens.shape)
    chosen = np.asarray(labels) != -100
    everywhere = columns[word_ids > 0]
    assert abs(columns[chosen].mean() - everywhere.mean()) < 4 * everywhere.std() / np.sqrt((hidden > 0).sum())


def test_spans_cover_the_rate_in_whole_words(rows, word_ids):
    tokens, segments = rows
    masked = jax.tree.map(np.asarray, spans(jax.random.key(2), tokens, segments_BT=segments))
    hidden, sizes = chosen_words(masked.labels_BT, word_ids)
    assert ((hidden == 0) | (hidden == sizes)).all()
    words_by_row = np.asarray([np.unique(row[row > 0]).size for row in word_ids])
    row_of_word = np.repeat(np.arange(256), words_by_row)
    hidden_by_row = np.bincount(row_of_word[hidden > 0], minlength=256)
    assert (np.abs(hidden_by_row - 0.15 * words_by_row) < 1).all()
    np.testing.assert_array_equal(masked.span_BT > 0, masked.labels_BT != -100)


def test_span_lengths_follow_the_geometric_distribution():
    # One word a token and one document, so that no border cuts spans short but the row's budget.
    settings = {
        **SETTINGS,
        "word_start_V": np.ones(VOCAB, bool),
        "random_fraction": 0.0,
        "mask_fraction": 1.0,
    }
    tokens = np.full((512, 512), 5, np.int32)
    masked = jax.jit(functools.partial(mask_spans, **settings))(jax.random.key(3), tokens)
    span = np.asarray(masked.span_BT)
    lengths = np.concatenate([np.bincount(row[row > 0])[1:] for row in span])
    # The last length drawn in a row is the one cut short, and spans lie in their order of drawing.
    last = np.cumsum([row.max() for row in span]) - 1
    lengths = np.delete(lengths, last)
    p = 0.2 * 0.8 ** np.arange(10)
    p /= p.sum()
    observed = np.bincount(lengths, minlength=11)[1:]
    # Stopping at a budget biases the lengths before it a little to the short side: 10 of 77 words at most.
    mean = (p * np.arange(1, 11)).sum()
    assert abs(mean - 3.797) < 0.01
    assert abs(lengths.mean() - mean) < 0.25
    assert np.abs(observed / lengths.size - p).max() < 0.03
    assert lengths.max() == 10


def test_spans_share_one_fate_and_know_their_borders(rows):
    tokens, segments = rows
    masked = jax.tree.map(np.asarray, spans(jax.random.key(4), tokens, segments_BT=segments))
    fates = {"masked": 0, "kept": 0, "replaced": 0}
    for b in range(256):
        for number in range(1, masked.span_BT[b].max() + 1):
            (where,) = np.nonzero(masked.span_BT[b] == number)
            assert (np.diff(where) == 1).all()
            (number_of_document,) = set(segments[b, where].tolist())
            (inside,) = np.nonzero(segments[b] == number_of_document)
            assert set(masked.left_BT[b, where].tolist()) == {max(where[0] - 1, inside[0])}
            assert set(masked.right_BT[b, where].tolist()) == {min(where[-1] + 1, inside[-1])}
            got = masked.inputs_BT[b, where]
            if (got == MASK).any():
                assert (got == MASK).all()
                fates["masked"] += 1
            else:
                fates["kept" if (got == tokens[b, where]).all() else "replaced"] += 1
    total = sum(fates.values())
    # A span at a border is two pieces of one fate, so the pieces vary a little more than single draws.
    for fate, share in (("masked", 0.8), ("kept", 0.1), ("replaced", 0.1)):
        assert abs(fates[fate] / total - share) < 4 * np.sqrt(share * (1 - share) / total)


@pytest.mark.parametrize("function", [mask_words, mask_spans])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"word_start_V": None}, "cannot tell where words start"),
        ({"word_start_V": np.ones(3, bool)}, "has shape"),
        ({"rate": 1.2}, "rate=1.2"),
        ({"mask_id": VOCAB}, "has id 60"),
        ({"mask_fraction": 0.95}, "more than 1"),
    ],
)
def test_impossible_arguments_are_refused(function, change, message):
    with pytest.raises(ValueError, match=message):
        function(jax.random.key(0), jnp.zeros((2, 8), jnp.int32), **(SETTINGS | change))


def test_impossible_budgets_and_lengths_are_refused():
    tokens = jnp.zeros((2, 8), jnp.int32)
    with pytest.raises(ValueError, match="budget=0"):
        mask_words(jax.random.key(0), tokens, **SETTINGS, budget=0)
    with pytest.raises(ValueError, match="length_p=1"):
        mask_spans(jax.random.key(0), tokens, **SETTINGS, length_p=1.0)
    with pytest.raises(ValueError, match="max_words=0"):
        mask_spans(jax.random.key(0), tokens, **SETTINGS, max_words=0)
