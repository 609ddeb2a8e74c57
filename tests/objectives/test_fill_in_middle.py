import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax.data.config import DataConfig
from lmjax.objectives import FillInMiddle
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Rows

PREFIX, SUFFIX, MIDDLE, EOS, PAD = 61, 62, 63, 60, 59
MARKERS = {"<fim_prefix>": PREFIX, "<fim_suffix>": SUFFIX, "<fim_middle>": MIDDLE}
BYTES = np.array([1] * 59 + [0] * 5, np.int32)
VOCABULARY = Vocabulary(size=64, pad_id=PAD, eos_id=EOS, named_ids=MARKERS, byte_length_V=BYTES)


@functools.cache
def corrupt(objective):
    return jax.jit(functools.partial(objective.corrupt, vocabulary=VOCABULARY))


def whole_rows(batch):
    """The rows the batch was shifted from: inputs and the last target."""
    return np.concatenate([batch.inputs.tokens_BT, batch.targets_BP[:, -1:]], axis=1)


def read(tokens):
    """The document a rewritten one was made of, and its order."""
    tokens = list(tokens)
    if PREFIX not in tokens:
        return tokens, "plain"
    assert tokens[0] == PREFIX
    end = [tokens.pop()] if tokens[-1] == EOS else []
    s, m = tokens.index(SUFFIX), tokens.index(MIDDLE)
    return tokens[1:s] + tokens[m + 1 :] + tokens[s + 1 : m] + end, "SPM or empty" if s == 1 else "PSM"


def documents(num_rows=32):
    """Packed rows of three documents that end in EOS, every token told apart by its place, and padding."""
    segments = tiny.segments([[20, 12, 10]] * num_rows, 44)
    tokens = np.where(segments > 0, np.arange(44) % 59, PAD)
    for end in (19, 31, 41):
        tokens[:, end] = EOS
    return Rows(tokens_BT=jnp.asarray(tokens, jnp.int32), segments_BT=jnp.asarray(segments))


def test_every_document_of_packed_rows_comes_back_the_last_one_too():
    objective = FillInMiddle(documents_per_row=3)
    rows = documents()
    assert objective.row_length(52) == 44
    orders = {number: set() for number in (1, 2, 3)}
    batch = corrupt(objective)(jax.random.key(1), rows)
    assert batch.inputs.tokens_BT.shape == (32, 52)
    for row, (got, tokens) in enumerate(zip(whole_rows(batch), np.asarray(rows.tokens_BT), strict=True)):
        cut = [i + 1 for i, token in enumerate(got) if token == EOS]
        for number, (start, end) in enumerate(zip([0, *cut], cut, strict=False), start=1):
            back, order = read(got[start:end])
            assert back == tokens[np.asarray(rows.segments_BT[row]) == number].tolist()
            orders[number].add(order)
    # Rewritten in both orders, and not: side by side in one batch.
    assert all(kinds == {"plain", "PSM", "SPM or empty"} for kinds in orders.values())


def test_a_case_worked_by_hand():
    """A document ``a b`` cut into a | b | nothing, in PSM; the rest of the batch lies as it lay."""
    rows = Rows(tokens_BT=jnp.array([[3, 4, EOS, 5, EOS]]), segments_BT=jnp.array([[1, 1, 1, 2, 2]]))
    objective = FillInMiddle(rate=1.0, spm_fraction=0.0, documents_per_row=2)
    wanted = [PREFIX, 3, SUFFIX, MIDDLE, 4, EOS]
    for seed in range(50):
        batch = corrupt(objective)(jax.random.key(seed), rows)
        if whole_rows(batch)[0, :6].tolist() == wanted:
            break
    assert whole_rows(batch)[0, :6].tolist() == wanted
    np.testing.assert_array_equal(batch.targets_BP[0, :5], wanted[1:])
    # Everything is predicted, markers too, but for a document's first token.
    np.testing.assert_array_equal(batch.weights["loss"][0], [1, 1, 1, 1, 1, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(batch.inputs.positions_BT[0], [0, 1, 2, 3, 4, 5, 0, 1, 2, 3])
    np.testing.assert_array_equal(batch.inputs.mask.end_BT[0], np.arange(10) + 1)
    np.testing.assert_array_equal(batch.inputs.mask.start_BT[0], [0] * 6 + [6] * 4)


def test_rate_zero_is_causal_language_modelling_and_one_rewrites_all():
    rows = documents()
    plain = corrupt(FillInMiddle(rate=0.0))(jax.random.key(0), rows)
    np.testing.assert_array_equal(plain.inputs.tokens_BT[:, :44], rows.tokens_BT)
    every = corrupt(FillInMiddle(rate=1.0, documents_per_row=3))(jax.random.key(0), rows)
    assert (np.asarray(whole_rows(every) == PREFIX).sum(axis=1) == 3).all()


def test_a_stream_is_rewritten_document_by_document_and_stays_one_stream():
    """Rows without segments: what lies between end tokens, the cut ones at the row's edges too, is a document."""
    packed = documents()
    rows = Rows(tokens_BT=packed.tokens_BT[:, 5:38])
    plain, batch = (corrupt(FillInMiddle(rate=r, documents_per_row=3))(jax.random.key(1), rows) for r in (0.0, 1.0))
    for got, tokens in zip(whole_rows(batch), np.asarray(rows.tokens_BT), strict=True):
        back, starts = [], [i for i, token in enumerate(got) if token == PREFIX]
        assert len(starts) == 3
        for start, end in zip(starts, [*starts[1:], 42], strict=True):
            back += read(got[start:end])[0]
        assert back == tokens.tolist()
    assert batch.inputs.mask.kind == "causal"
    np.testing.assert_array_equal(batch.inputs.positions_BT[0], np.arange(41))
    assert np.asarray(batch.weights["loss"]).all()
    # Nobody predicts what fills up a row that got no markers.
    np.testing.assert_array_equal(plain.weights["loss"], np.broadcast_to(np.arange(41) < 32, (32, 41)))
    # As in the paper: no room, and what the markers push over the row's end is lost.
    trimmed = FillInMiddle(rate=1.0, documents_per_row=0)
    assert trimmed.row_length(32) == 33
    np.testing.assert_array_equal(whole_rows(corrupt(trimmed)(jax.random.key(1), rows)), whole_rows(batch)[:, :33])
    weighted = Rows(tokens_BT=rows.tokens_BT, weights_BT=jnp.broadcast_to(jnp.arange(1.0, 34)[None, :], (32, 33)))
    moved = corrupt(FillInMiddle(rate=1.0, documents_per_row=3))(jax.random.key(1), weighted)
    targets, weights = np.asarray(moved.targets_BP), np.asarray(moved.weights["loss"])
    np.testing.assert_array_equal(weights[targets < 59], (targets[targets < 59] - 4))


def test_data_weights_move_with_their_tokens():
    """The same batch as without weights, and each target weighs what its token weighed in the data."""
    rows = documents()
    place_weights = jnp.where(rows.segments_BT > 0, jnp.arange(44.0)[None, :] + 1, 0)
    weighted = Rows(tokens_BT=rows.tokens_BT, segments_BT=rows.segments_BT, weights_BT=place_weights)
    objective = FillInMiddle(documents_per_row=3)
    plain, batch = (corrupt(objective)(jax.random.key(1), r) for r in (rows, weighted))
    np.testing.assert_array_equal(plain.targets_BP, batch.targets_BP)
    targets, weights = np.asarray(batch.targets_BP), np.asarray(batch.weights["loss"])
    np.testing.assert_array_equal(weights > 0, plain.weights["loss"] > 0)
    text = (weights > 0) & (targets < 59)
    np.testing.assert_array_equal(weights[text], targets[text] + 1)
    # End tokens and markers weigh what their document's end weighs.
    rest = (weights > 0) & (targets >= 59)
    assert set(weights[rest]) == {20, 32, 42}
    nothing = Rows(tokens_BT=rows.tokens_BT, segments_BT=rows.segments_BT, weights_BT=jnp.zeros((32, 44)))
    assert not np.asarray(corrupt(objective)(jax.random.key(1), nothing).weights["loss"]).any()


def test_no_prediction_depends_on_what_it_predicts():
    """Another token at the place that is predicted, or after it, changes no hidden state before it."""
    objective = FillInMiddle(documents_per_row=3)
    spec = tiny.model_spec()
    params = tiny.random_params(spec)
    batch = corrupt(objective)(jax.random.key(1), documents())
    hidden = jax.jit(lambda tokens: spec.bind(params)(dataclasses.replace(batch.inputs, tokens_BT=tokens)).states_BTD)
    tokens = batch.inputs.tokens_BT
    before = hidden(tokens)
    for place in (5, 17, 30, 45):
        after = hidden(tokens.at[:, place:].set((tokens[:, place:] + 7) % 59))
        np.testing.assert_array_equal(before[:, :place], after[:, :place])
        assert np.abs(np.asarray(before - after)[:, place]).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rate": 1.5}, r"objective\.rate=1\.5"),
        ({"spm_fraction": -0.1}, r"objective\.spm_fraction=-0\.1"),
        ({"documents_per_row": -1}, r"objective\.documents_per_row=-1"),
        ({"markers": ("a", "a", "b")}, r"objective\.markers="),
    ],
)
def test_impossible_hyperparameters_are_refused_by_field(options, words):
    with pytest.raises(ValueError, match=words):
        FillInMiddle(**options)


def test_what_cannot_train_is_refused_at_the_start():
    bare = Vocabulary(size=64, eos_id=EOS, byte_length_V=np.ones(64, np.int32))
    with pytest.raises(ValueError, match="FillInMiddle needs a '<fim_prefix>' token"):
        FillInMiddle().check(model=tiny.MODEL, vocabulary=bare, sequence_length=64)
    with pytest.raises(ValueError, match=r"data\.fim_rate=0\.5: FillInMiddle would cut documents that are cut already"):
        FillInMiddle().check_data(DataConfig(fim_rate=0.5))
    crowded = FillInMiddle(documents_per_row=5)
    with pytest.raises(ValueError, match=r"train\.sequence_length=15 .* at least 16"):
        crowded.check(model=tiny.MODEL, vocabulary=VOCABULARY, sequence_length=15)
    crowded.check(model=tiny.MODEL, vocabulary=VOCABULARY, sequence_length=16)
