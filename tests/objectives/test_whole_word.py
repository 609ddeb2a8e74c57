import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax.objectives import MaskedLM, SpanMaskedLM, WholeWordMaskedLM
from lmjax.objectives.whole_word import word_slots
from lmjax.types import Rows

MASK, BOS = 63, 61
STARTS = np.zeros(64, bool)
STARTS[:20] = True
STARTS[60:] = True
VOCABULARY = dataclasses.replace(tiny.VOCABULARY, word_start_V=STARTS)
WORDS, SPANS = WholeWordMaskedLM(mask_fraction=1.0, random_fraction=0.0), SpanMaskedLM(random_fraction=0.0)


@functools.cache
def corrupt(objective):
    return jax.jit(functools.partial(objective.corrupt, vocabulary=VOCABULARY))


def text(num_rows, length=128, *, seed=0):
    """Random words of random lengths, in two documents that begin within a word, and padding."""
    tokens = np.random.default_rng(seed).integers(0, 60, (num_rows, length))
    segments = tiny.segments([[length // 2, length // 3]] * num_rows, length)
    tokens[:, [0, length // 2]] = 40
    return Rows(tokens_BT=jnp.asarray(tokens, jnp.int32), segments_BT=jnp.asarray(segments))


def words(rows):
    """The number of the word of each token, -1 for padding."""
    tokens, segments = np.asarray(rows.tokens_BT), np.asarray(rows.segments_BT)
    begins = STARTS[tokens]
    begins[:, 0] = True
    begins[:, 1:] |= segments[:, 1:] != segments[:, :-1]
    return np.where(segments > 0, np.cumsum(begins, axis=1), -1)


def scored(batch, length=128):
    """Which positions of the rows count, bool [B, T]."""
    at = np.zeros((batch.targets_BP.shape[0], length), bool)
    for row, (positions, weights) in enumerate(zip(batch.scored_BP, batch.weights["loss"], strict=True)):
        at[row, np.asarray(positions)[np.asarray(weights) > 0]] = True
    return at


def test_a_case_worked_by_hand():
    """Words ``1 30 31``, ``2`` and ``3 32``, the first two within document 1: what is hidden is one of the words."""
    tokens = jnp.array([[1, 30, 31, 2, 3, 32, BOS, 0]])
    rows = Rows(tokens_BT=tokens, segments_BT=jnp.array([[1, 1, 1, 1, 2, 2, 2, 0]]))
    objective = dataclasses.replace(WORDS, rate=0.5)
    allowed = {0: [MASK] * 3, 3: [MASK], 4: [MASK] * 2}
    seen = set()
    for seed in range(24):
        batch = corrupt(objective)(jax.random.key(seed), rows)
        hidden = np.asarray(batch.inputs.tokens_BT[0]) == MASK
        seen.add(tuple(hidden.tolist()))
        for start, masks in allowed.items():
            assert hidden[start : start + len(masks)].all() or not hidden[start : start + len(masks)].any()
        assert not hidden[6:].any()
        positions = np.asarray(batch.scored_BP[0])[np.asarray(batch.weights["loss"][0]) > 0]
        np.testing.assert_array_equal(positions, np.nonzero(hidden)[0])
        np.testing.assert_array_equal(batch.targets_BP[0][: len(positions)], tokens[0][positions])
    assert len(seen) >= 6


@pytest.mark.parametrize("objective", [WORDS, SPANS, WholeWordMaskedLM(rate=0.4)], ids=lambda o: type(o).__name__)
def test_words_are_scored_whole_and_at_the_rate(objective):
    rows = text(1024)
    batch = corrupt(objective)(jax.random.key(0), rows)
    at, number = scored(batch), words(rows)
    real = number > 0
    assert not at[~real].any()
    for row in range(0, 1024, 16):
        chosen = set(number[row][at[row]])
        assert not chosen & set(number[row][real[row] & ~at[row]])
    # Of some 100,000 tokens; they come in words, whose lengths make the deviation at most three times as large.
    deviation = 3 * np.sqrt(objective.rate * (1 - objective.rate) / real.sum())
    assert abs(at[real].mean() - objective.rate) < 3 * deviation
    inputs, targets = np.asarray(batch.inputs.tokens_BT), np.asarray(rows.tokens_BT)
    np.testing.assert_array_equal(inputs[~at], targets[~at])
    kept = (inputs[at] == targets[at]).mean()
    assert abs(kept - (1 - objective.mask_fraction - objective.random_fraction)) < 0.03


def test_spans_are_runs_of_words_that_share_their_fate():
    rows = text(1024)
    batch = corrupt(SPANS)(jax.random.key(0), rows)
    inputs, at, number = np.asarray(batch.inputs.tokens_BT), scored(batch), words(rows)
    segments, tokens = np.asarray(rows.segments_BT), np.asarray(rows.tokens_BT)
    lengths = []
    for row in range(256):
        edges = np.nonzero(np.diff(np.concatenate([[0], at[row] * segments[row], [0]])))[0]
        for start, end in itertools.pairwise(edges):
            if at[row, start]:
                masked = inputs[row, start:end] == MASK
                assert masked.all() or (inputs[row, start:end] == tokens[row, start:end]).all()
                lengths.append(len(set(number[row, start:end])))
    assert max(lengths) <= 10
    # The published mean of 3.8 words, less what document ends and a budget of about 6 words a row cut off;
    # words drawn one by one would make runs of 1.2.
    assert 2.3 < np.mean(lengths) < 3.8


def test_nothing_is_hidden_that_is_not_scored():
    for objective in (WORDS, SPANS):
        batch = corrupt(objective)(jax.random.key(0), text(1024))
        changed = np.asarray(batch.inputs.tokens_BT) == MASK
        assert batch.scored_BP.shape[1] == word_slots(128, 0.15) < 128
        assert not (changed & ~scored(batch)).any()
    # Of words that do not fit, nothing is hidden.
    batch = corrupt(WORDS)(jax.random.key(0), dataclasses.replace(text(1024), tokens_BT=jnp.full((1024, 128), 40)))
    hidden = np.asarray(batch.inputs.tokens_BT) == MASK
    assert set(hidden.sum(axis=1).tolist()) == {0, 42, 64}


@pytest.mark.parametrize(
    "objective", [WORDS, SpanMaskedLM(mask_fraction=1.0, random_fraction=0.0)], ids=lambda o: type(o).__name__
)
def test_inputs_hold_nothing_of_the_targets(objective):
    """Rows that differ at the scored places only become the same input."""
    rows = text(1024)
    batch = corrupt(objective)(jax.random.key(0), rows)
    at = scored(batch)
    # Within the tokens that begin words, or those that do not, so that words stay where they are.
    tokens = np.asarray(rows.tokens_BT)
    other = np.where(tokens < 20, (tokens + 7) % 20, 20 + (tokens + 3) % 40)
    changed = Rows(tokens_BT=jnp.asarray(np.where(at, other, tokens)), segments_BT=rows.segments_BT)
    again = corrupt(objective)(jax.random.key(0), changed)
    np.testing.assert_array_equal(batch.inputs.tokens_BT, again.inputs.tokens_BT)
    assert (np.asarray(batch.targets_BP != again.targets_BP) == (np.asarray(batch.weights["loss"]) > 0)).all()


def test_masked_lm_at_a_high_rate_meets_it_and_scores_all_it_hides():
    """RoBERTa-like models mask up to 40% (Wettig et al. 2023)."""
    rate, rows = 0.4, text(1024)
    batch = corrupt(MaskedLM(rate=rate))(jax.random.key(0), rows)
    at, real = scored(batch), np.asarray(rows.segments_BT) > 0
    assert abs(at[real].mean() - rate) < 3 * np.sqrt(rate * (1 - rate) / real.sum())
    assert not ((np.asarray(batch.inputs.tokens_BT) == MASK) & ~at).any()


@pytest.mark.parametrize("kind", [WholeWordMaskedLM, SpanMaskedLM])
def test_a_tokenizer_that_cannot_tell_words_or_has_no_mask_is_refused(kind):
    name = kind.__name__
    with pytest.raises(ValueError, match=f"{name} hides whole words .* set tokenizer.kind"):
        kind().check(model=tiny.MODEL, vocabulary=tiny.VOCABULARY, sequence_length=16)
    with pytest.raises(ValueError, match=f"{name} needs a 'mask' token"):
        kind().check(model=tiny.MODEL, vocabulary=dataclasses.replace(VOCABULARY, mask_id=None), sequence_length=16)
    kind().check(model=tiny.MODEL, vocabulary=VOCABULARY, sequence_length=16)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rate": 0.0}, r"objective\.rate=0\.0"),
        ({"length_p": 1.0}, r"objective\.length_p=1\.0"),
        ({"max_words": 0}, r"objective\.max_words=0"),
    ],
)
def test_impossible_hyperparameters_are_refused_by_field(options, words):
    with pytest.raises(ValueError, match=words):
        SpanMaskedLM(**options)
