import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax.corruption import span_counts
from lmjax.objectives import SpanCorruption
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Rows

EOS, PAD, SENTINELS = 48, 49, tuple(range(63, 49, -1))
BYTES = np.array([1] * 48 + [0] * 16, np.int32)
VOCABULARY = Vocabulary(size=64, pad_id=PAD, eos_id=EOS, sentinel_ids=SENTINELS, byte_length_V=BYTES)
OBJECTIVE = SpanCorruption(density=0.4, mean_span=2.0)


@functools.cache
def corrupt(objective, vocabulary=VOCABULARY):
    return jax.jit(functools.partial(objective.corrupt, vocabulary=vocabulary))


LENGTH = OBJECTIVE.row_length(40)


def text(num_rows, length):
    tokens = jnp.tile(jnp.arange(length, dtype=jnp.int32)[None, :] % 48, (num_rows, 1))
    return Rows(tokens_BT=tokens, weights_BT=tokens + 1.0)


def restore(inputs, targets):
    """T5's inverse: each sentinel of the input gives way to what follows it in the targets."""
    spans, current = {}, None
    for token in targets:
        current = token if token in SENTINELS else current
        spans.setdefault(current, []).append(token)
    return [t for token in inputs for t in (spans[token][1:] if token in SENTINELS else [token])]


def joined_row(batch, row):
    """Prefix and suffix of a row that is one document, read off mask, inputs and last target."""
    prefix_end = int(batch.inputs.mask.end_BT[row, 0])
    tokens = np.asarray(batch.inputs.tokens_BT[row]).tolist()
    return tokens[:prefix_end], tokens[prefix_end:]


def test_a_case_worked_by_hand():
    """Six tokens, half of them noise in one span, the last three: ``a b c <0> | <0> d e f <eos>``."""
    objective = SpanCorruption(density=0.5, mean_span=3.0)
    first, eos = SENTINELS[0], EOS
    batch = corrupt(objective)(jax.random.key(0), Rows(tokens_BT=jnp.array([[10, 11, 12, 13, 14, 15]])))
    assert objective.row_length(8) == 6
    np.testing.assert_array_equal(batch.inputs.tokens_BT, [[10, 11, 12, first, first, 13, 14, 15]])
    np.testing.assert_array_equal(batch.inputs.mask.end_BT, [[4, 4, 4, 4, 5, 6, 7, 8]])
    np.testing.assert_array_equal(batch.inputs.mask.start_BT, [[0] * 8])
    np.testing.assert_array_equal(batch.inputs.positions_BT, [np.arange(8)])
    # The first target is asked for at the prefix' last position.
    np.testing.assert_array_equal(batch.scored_BP, [[3, 4, 5, 6, 7]])
    np.testing.assert_array_equal(batch.targets_BP, [[first, 13, 14, 15, eos]])
    np.testing.assert_array_equal(batch.weights["loss"], [[1, 1, 1, 1, 1]])


@pytest.mark.parametrize("objective", [SpanCorruption(), OBJECTIVE, SpanCorruption(density=0.5, mean_span=8.0)])
@pytest.mark.parametrize("sequence_length", [16, 61, 128, 512])
def test_rows_fill_the_sequence(objective, sequence_length):
    length = objective.row_length(sequence_length)

    def joined(n):
        return n + 2 * span_counts(n, objective.density, objective.mean_span)[1] + 1

    assert joined(length) <= sequence_length + 1 < joined(length + 1)
    assert sequence_length + 1 - joined(length) <= 2
    rows = Rows(tokens_BT=jax.ShapeDtypeStruct((1, length), jnp.int32))
    many = dataclasses.replace(VOCABULARY, sentinel_ids=SENTINELS * 8)
    inputs = jax.eval_shape(functools.partial(objective.corrupt, vocabulary=many), jax.random.key(0), rows).inputs
    width = inputs.tokens_BT.shape[1]
    assert width == sequence_length or (sequence_length % 4 and abs(width - sequence_length) <= 2)


def test_input_and_targets_give_the_row_back():
    rows = text(64, LENGTH)
    batch = corrupt(OBJECTIVE)(jax.random.key(0), rows)
    seen = set()
    for row in range(64):
        inputs, targets = joined_row(batch, row)
        scored = np.asarray(batch.targets_BP[row])[np.asarray(batch.weights["loss"][row]) > 0].tolist()
        # What is scored is the targets as they follow the prefix, and the end of text.
        assert scored[:-1] == [token for token in targets if token != PAD][: len(scored) - 1]
        assert scored[-1] == EOS
        assert restore(inputs, scored[:-1]) == np.asarray(rows.tokens_BT[row]).tolist()
        seen.add(tuple(inputs))
    assert len(seen) > 32


def test_packed_documents_are_corrupted_apart_and_see_only_themselves():
    objective = dataclasses.replace(OBJECTIVE, documents_per_row=3)
    length = objective.row_length(56)
    segments = jnp.asarray(tiny.segments([[14, 12, length - 30]] * 16, length))
    rows = dataclasses.replace(text(16, length), segments_BT=segments)
    batch = corrupt(objective)(jax.random.key(2), rows)
    tokens, positions = np.asarray(batch.inputs.tokens_BT), np.asarray(batch.inputs.positions_BT)
    targets, weights = np.asarray(batch.targets_BP), np.asarray(batch.weights["loss"])
    starts_BT, ends_BT = np.asarray(batch.inputs.mask.start_BT), np.asarray(batch.inputs.mask.end_BT)
    for row in range(16):
        starts = np.nonzero(positions[row] == 0)[0]
        for number, start in enumerate(starts[:3], start=1):
            prefix_end = ends_BT[row, start]
            scored = [t for t in range(prefix_end - 1, 56) if weights[row, t] and starts_BT[row, t] == start]
            assert scored == list(range(prefix_end - 1, prefix_end - 1 + len(scored)))
            assert targets[row, scored[-1]] == EOS
            whole = np.asarray(rows.tokens_BT[row])[np.asarray(segments[row]) == number].tolist()
            assert restore(tokens[row, start:prefix_end].tolist(), targets[row, scored[:-1]].tolist()) == whole


def test_data_weights_move_with_their_tokens():
    rows = text(64, LENGTH)
    batch = corrupt(OBJECTIVE)(jax.random.key(0), rows)
    targets, weights = np.asarray(batch.targets_BP), np.asarray(batch.weights["loss"])
    is_text = (weights > 0) & (targets < 48)
    assert is_text.sum() > 64 * 8
    np.testing.assert_array_equal(weights[is_text], targets[is_text] + 1)
    # Sentinels and the end of text weigh what the document's end weighs.
    assert set(weights[(weights > 0) & (targets >= 48)]) == {LENGTH}
    nothing = dataclasses.replace(rows, weights_BT=jnp.zeros((64, LENGTH)))
    assert not np.asarray(corrupt(OBJECTIVE)(jax.random.key(0), nothing).weights["loss"]).any()


def test_no_prediction_depends_on_what_it_predicts():
    """Other tokens from the predicted place on change nothing; other tokens in the prefix do, in both directions."""
    spec = tiny.model_spec()
    params = tiny.random_params(spec)
    batch = corrupt(OBJECTIVE)(jax.random.key(1), text(64, LENGTH))
    hidden = jax.jit(lambda tokens: spec.bind(params)(dataclasses.replace(batch.inputs, tokens_BT=tokens)).states_BTD)
    tokens = batch.inputs.tokens_BT
    before = hidden(tokens)
    prefix_end = int(batch.inputs.mask.end_BT[0, 0])
    for place in (prefix_end, prefix_end + 5, 38):
        after = hidden(tokens.at[:, place:].set((tokens[:, place:] + 7) % 48))
        np.testing.assert_array_equal(before[:, :place], after[:, :place])
    after = hidden(tokens.at[:, prefix_end - 1].set(1))
    assert np.abs(np.asarray(before - after)[:, 0]).max() > 1e-5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"density": 1.0}, r"objective\.density=1\.0"),
        ({"mean_span": 0.5}, r"objective\.mean_span=0\.5"),
        ({"documents_per_row": 0}, r"objective\.documents_per_row=0"),
    ],
)
def test_impossible_hyperparameters_are_refused_by_field(options, words):
    with pytest.raises(ValueError, match=words):
        SpanCorruption(**options)


def test_what_cannot_train_is_refused_at_the_start():
    check = functools.partial(SpanCorruption().check, model=tiny.MODEL)
    no_end = Vocabulary(size=64, sentinel_ids=SENTINELS, byte_length_V=BYTES)
    with pytest.raises(ValueError, match="SpanCorruption needs a 'eos' token"):
        check(vocabulary=no_end, sequence_length=64)
    with pytest.raises(ValueError, match=r"tokenizer\.num_sentinels=14: a row of 2\d\d tokens has 15 spans"):
        check(vocabulary=VOCABULARY, sequence_length=320)
    with pytest.raises(ValueError, match=r"tokenizer\.num_sentinels=0: .* set it to at least 3"):
        check(vocabulary=dataclasses.replace(VOCABULARY, sentinel_ids=()), sequence_length=64)
    with pytest.raises(ValueError, match=r"train\.sequence_length=3 .* set it to at least 4"):
        check(vocabulary=VOCABULARY, sequence_length=3)
    check(vocabulary=VOCABULARY, sequence_length=4)
    check(vocabulary=VOCABULARY, sequence_length=300)
