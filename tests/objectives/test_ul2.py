import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax.corruption import UL2_DENOISERS, Denoiser
from lmjax.objectives import UL2
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Rows

R, S, X, EOS, PAD = 60, 61, 62, 63, 59
SENTINELS = tuple(range(58, 42, -1))
TEXT = 43
BYTES = np.array([1] * TEXT + [0] * (64 - TEXT), np.int32)
MODES = {"[R]": R, "[S]": S, "[X]": X}
VOCABULARY = Vocabulary(size=64, pad_id=PAD, eos_id=EOS, sentinel_ids=SENTINELS, named_ids=MODES, byte_length_V=BYTES)


NUM_ROWS, SEQUENCE = 256, 100


@functools.cache
def corrupt(objective):
    return jax.jit(functools.partial(objective.corrupt, vocabulary=VOCABULARY))


def text(num_rows, length):
    tokens = jnp.tile(jnp.arange(length, dtype=jnp.int32)[None, :] % TEXT, (num_rows, 1))
    return Rows(tokens_BT=tokens, weights_BT=tokens + 1.0)


def restore(inputs, targets):
    spans, current = {}, None
    for token in targets:
        current = token if token in SENTINELS else current
        spans.setdefault(current, []).append(token)
    return [t for token in inputs for t in (spans[token][1:] if token in SENTINELS else [token])]


def test_a_case_worked_by_hand():
    """S on four tokens, half of them dropped: ``[S] a b | c d <eos>``."""
    objective = UL2(denoisers=(Denoiser(mode="S", density=0.5),))
    assert objective.row_length(5) == 4
    batch = corrupt(objective)(jax.random.key(0), Rows(tokens_BT=jnp.array([[10, 11, 12, 13]])))
    np.testing.assert_array_equal(batch.inputs.tokens_BT, [[S, 10, 11, 12, 13]])
    np.testing.assert_array_equal(batch.inputs.mask.end_BT, [[3, 3, 3, 4, 5]])
    np.testing.assert_array_equal(batch.scored_BP, [[2, 3, 4]])
    np.testing.assert_array_equal(batch.targets_BP, [[12, 13, EOS]])
    np.testing.assert_array_equal(batch.weights["loss"], [[1, 1, 1]])


def test_the_seven_denoisers_side_by_side_give_their_rows_back():
    objective = UL2()
    assert objective.denoisers == UL2_DENOISERS
    length = objective.row_length(SEQUENCE)
    rows = text(NUM_ROWS, length)
    batch = corrupt(objective)(jax.random.key(1), rows)
    inputs = np.asarray(batch.inputs.tokens_BT)
    shapes = {R: set(), S: set(), X: set()}
    for row in range(NUM_ROWS):
        end = int(batch.inputs.mask.end_BT[row, 0])
        targets = np.asarray(batch.targets_BP[row])[np.asarray(batch.weights["loss"][row]) > 0].tolist()
        assert targets.pop() == EOS
        mode, body = inputs[row, 0], inputs[row, 1:end].tolist()
        whole = body + targets if mode == S else restore(body, targets)
        assert whole == np.asarray(rows.tokens_BT[row]).tolist()
        num_spans = sum(token in SENTINELS for token in body)
        shapes[mode].add((len(targets) - num_spans, num_spans))
        # The positions scored are those from the prefix' last one on.
        assert np.asarray(batch.scored_BP[row, : len(targets) + 1]).tolist() == list(range(end - 1, end + len(targets)))
    # Two settings of R, one of S without sentinels, four of X, all met; and a mode tells nothing more.
    assert [len(shapes[mode]) for mode in (R, S, X)] == [2, 1, 4]
    assert {spans for _, spans in shapes[S]} == {0}


def test_the_longest_denoiser_fills_the_row():
    objective = UL2()
    batch = corrupt(objective)(jax.random.key(1), text(NUM_ROWS, objective.row_length(SEQUENCE)))
    tokens = np.asarray(batch.inputs.tokens_BT)
    used = (tokens != PAD).sum(axis=1)
    assert used.max() >= 98
    assert all(used[tokens[:, 0] == S] < 90)


def test_weights_choose_among_denoisers():
    rare = dataclasses.replace(UL2_DENOISERS[0], weight=0.0)
    often = Denoiser(mode="X", density=0.5, mean_span=3.0, weight=3.0)
    objective = UL2(denoisers=(rare, Denoiser(mode="S", density=0.25), often))
    tokens = corrupt(objective)(jax.random.key(1), text(512, 20)).inputs.tokens_BT
    share = np.asarray(tokens[:, 0] == X).mean()
    assert set(np.asarray(tokens[:, 0]).tolist()) == {S, X}
    assert abs(share - 0.75) < 3 * math.sqrt(0.75 * 0.25 / 512)


def test_packed_documents_draw_their_own_denoiser():
    objective = UL2(documents_per_row=2)
    length = objective.row_length(60)
    segments = jnp.asarray(tiny.segments([[20, length - 20]] * 32, length))
    batch = corrupt(objective)(jax.random.key(1), dataclasses.replace(text(32, length), segments_BT=segments))
    tokens, positions = np.asarray(batch.inputs.tokens_BT), np.asarray(batch.inputs.positions_BT)
    starts_BT, ends_BT = np.asarray(batch.inputs.mask.start_BT), np.asarray(batch.inputs.mask.end_BT)
    pairs = set()
    for row in range(32):
        first, second = np.nonzero(positions[row] == 0)[0][:2]
        pairs.add((tokens[row, first], tokens[row, second]))
        scored = np.nonzero(np.asarray(batch.weights["loss"][row]))[0]
        for start in (first, second):
            own = [t for t in scored if starts_BT[row, t] == start]
            assert own[0] == ends_BT[row, start] - 1
            assert batch.targets_BP[row, own[-1]] == EOS
    assert len(pairs) > 4


def test_data_weights_move_with_their_tokens():
    length = UL2().row_length(SEQUENCE)
    rows = text(NUM_ROWS, length)
    batch = corrupt(UL2())(jax.random.key(1), rows)
    targets, weights = np.asarray(batch.targets_BP), np.asarray(batch.weights["loss"])
    is_text = (weights > 0) & (targets < TEXT)
    assert is_text.sum() > NUM_ROWS * 8
    np.testing.assert_array_equal(weights[is_text], targets[is_text] + 1)
    assert set(weights[(weights > 0) & (targets >= TEXT)]) == {float(rows.weights_BT[0, -1])}


def test_no_prediction_depends_on_what_it_predicts():
    spec = tiny.model_spec()
    params = tiny.random_params(spec)
    batch = corrupt(UL2())(jax.random.key(1), text(NUM_ROWS, UL2().row_length(SEQUENCE)))
    batch = jax.tree.map(lambda leaf: leaf[:16], batch)
    hidden = jax.jit(lambda tokens: spec.bind(params)(dataclasses.replace(batch.inputs, tokens_BT=tokens)).states_BTD)
    tokens = batch.inputs.tokens_BT
    before = hidden(tokens)
    prefix_end_B1 = batch.inputs.mask.end_BT[:, :1]
    index_1T = jnp.arange(SEQUENCE)[None, :]
    for further in (0, 3):
        place_B1 = prefix_end_B1 + further
        after = hidden(jnp.where(index_1T >= place_B1, (tokens + 7) % TEXT, tokens))
        untouched = np.asarray(index_1T < place_B1)
        np.testing.assert_array_equal(np.asarray(before)[untouched], np.asarray(after)[untouched])
        assert np.abs(np.asarray(before - after)[~untouched]).max() > 1e-3


def test_impossible_hyperparameters_are_refused_by_field():
    with pytest.raises(ValueError, match=r"objective\.denoisers=\(\): give at least one a weight above 0"):
        UL2(denoisers=())
    with pytest.raises(ValueError, match=r"objective\.documents_per_row=0"):
        UL2(documents_per_row=0)


def test_what_cannot_train_is_refused_at_the_start():
    check = functools.partial(UL2().check, model=tiny.MODEL)
    with pytest.raises(ValueError, match=r"UL2 needs a '\[X\]' token"):
        named = {name: token_id for name, token_id in MODES.items() if name != "[X]"}
        check(vocabulary=dataclasses.replace(VOCABULARY, named_ids=named), sequence_length=100)
    with pytest.raises(ValueError, match="UL2 needs a 'eos' token"):
        check(vocabulary=dataclasses.replace(VOCABULARY, eos_id=None), sequence_length=100)
    with pytest.raises(ValueError, match=r"tokenizer\.num_sentinels=16: a row of .* set it to at least 32"):
        check(vocabulary=VOCABULARY, sequence_length=256)
    with pytest.raises(ValueError, match=r"train\.sequence_length=4 .* set it to at least 5"):
        check(vocabulary=VOCABULARY, sequence_length=4)
    check(vocabulary=VOCABULARY, sequence_length=5)
    check(vocabulary=VOCABULARY, sequence_length=100)
