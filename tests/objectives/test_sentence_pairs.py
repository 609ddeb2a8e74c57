"""Sentence pairs: what is masked, what is decided, and which rows may be decided on."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax.corruption import next_sentence_pairs
from lmjax.data.config import DataConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import SentencePairs
from lmjax.objectives.parts.token_objective import gather_scored
from lmjax.types import Rows

KEY = jax.random.key(0)
CLS, SEP, STOP = 58, 59, 7
VOCABULARY = dataclasses.replace(tiny.VOCABULARY, cls_id=CLS, sep_id=SEP, sentence_end_V=np.arange(64) == STOP)
MODEL = dataclasses.replace(
    tiny.MODEL,
    num_layers=1,
    execution=ExecutionConfig(scan_layers=False, remat="none"),
    num_types=2,
    pooler=True,
    pair_head=True,
)
NEXT = SentencePairs(rate=0.3, tokens_per_pair=8, cut_at="tokens")
ORDER = SentencePairs(rate=0.3, tokens_per_pair=8, cut_at="tokens", task="sentence_order")


@functools.cache
def batch_of(objective: SentencePairs):
    """A batch of rows that hold from one to four documents, their text below the special ids."""
    lengths = [[24], [9, 8], [8, 8, 8], [6, 5, 5, 5]] * 16
    segments_BT = tiny.segments(lengths, 24)
    tokens_BT = np.random.default_rng(0).integers(0, 50, segments_BT.shape).astype(np.int32) * (segments_BT > 0)
    rows = Rows(tokens_BT=jnp.asarray(tokens_BT), segments_BT=jnp.asarray(segments_BT))
    return rows, jax.jit(functools.partial(objective.corrupt, vocabulary=VOCABULARY))(KEY, rows)


@functools.cache
def spec_and_params():
    spec = tiny.model_spec(MODEL)
    return spec, tiny.random_params(spec)


def test_rows_leave_room_for_the_markers_of_their_pairs():
    objective = SentencePairs(tokens_per_pair=125)
    # Lengths that divide each other as 128 and 512 do, so that a run may begin with shorter rows.
    assert (objective.row_length(128), objective.row_length(512)) == (125, 500)
    for length in (5, 128, 255):
        row = objective.row_length(length)
        made = jax.eval_shape(
            functools.partial(objective.corrupt, vocabulary=VOCABULARY),
            KEY,
            Rows(tokens_BT=jnp.zeros((1, row), jnp.int32), segments_BT=jnp.ones((1, row), jnp.int32)),
        )
        assert length - 3 <= made.inputs.tokens_BT.shape[1] <= length


@pytest.mark.parametrize("objective", [NEXT, ORDER], ids=lambda o: o.task)
def test_markers_are_never_masked_and_their_documents_see_both_parts(objective):
    rows, batch = batch_of(objective)
    inputs = np.asarray(batch.inputs.tokens_BT)
    hidden = np.asarray(batch.weights["loss"]) > 0
    assert not np.isin(np.asarray(batch.targets_BP)[hidden], [CLS, SEP]).any()
    restored = inputs.copy()
    row, slot = np.nonzero(hidden)
    restored[row, np.asarray(batch.scored_BP)[row, slot]] = np.asarray(batch.targets_BP)[row, slot]
    for b in range(len(inputs)):
        number_of_pairs = int(rows.segments_BT[b].max())
        assert (restored[b] == CLS).sum() == number_of_pairs
        assert (restored[b] == SEP).sum() == 2 * number_of_pairs
        text = restored[b][~np.isin(restored[b], [CLS, SEP, VOCABULARY.pad_id])]
        assert sorted(text) == sorted(np.asarray(rows.tokens_BT[b])[np.asarray(rows.segments_BT[b]) > 0])
    visible = np.asarray(batch.inputs.mask.dense(inputs.shape[1]))
    starts = np.asarray(batch.inputs.positions_BT) == 0
    pair_of = np.cumsum(starts, axis=1)
    np.testing.assert_array_equal(visible, pair_of[:, :, None] == pair_of[:, None, :])
    # The second segment begins after a pair's first separator and nowhere else.
    types, place = np.asarray(batch.inputs.types_BT), np.asarray(batch.inputs.positions_BT)
    rises = (np.diff(types, axis=1) == 1) & (place[:, 1:] > 0)
    np.testing.assert_array_equal(rises.sum(axis=1), rows.segments_BT.max(axis=1))
    assert (inputs[:, :-1][rises] == SEP).all()


def test_half_of_the_decided_pairs_are_wrong_and_lone_ones_are_not_decided():
    for objective in (NEXT, ORDER):
        rows, batch = batch_of(objective)
        weights, labels = np.asarray(batch.weights["pair"]), np.asarray(batch.extras["label"])
        documents = np.asarray(rows.segments_BT).max(axis=1)
        expected = np.where(documents > 1, documents, 0) if objective is NEXT else documents
        np.testing.assert_array_equal(weights.sum(axis=1), expected)
        first = np.take_along_axis(np.asarray(batch.inputs.tokens_BT), np.asarray(batch.extras["first"]), axis=1)
        assert (first[weights > 0] == CLS).all()
        share = labels[weights > 0].mean()
        assert abs(share - 0.5) < 3 * 0.5 * math.sqrt(2 / weights.sum())


def test_loss_and_accuracy_of_a_model_that_answers_by_its_bias():
    """With all parameters zero but the classifier's bias each pair gets the same logits, (0, 2)."""
    spec, _ = spec_and_params()
    model = dataclasses.replace(MODEL, bias=True)
    spec = tiny.model_spec(model)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), spec.shapes)
    params["pair_classifier"]["bias"] = jnp.array([0.0, 2.0])
    _, batch = batch_of(NEXT)
    weights, labels = np.asarray(batch.weights["pair"]), np.asarray(batch.extras["label"])
    terms = jax.jit(lambda params, batch: NEXT.terms(spec.bind(params), batch, None).sums)(params, batch)
    wrong = (weights * labels).sum()
    expected = math.log1p(math.exp(2)) * (weights.sum() - wrong) + math.log1p(math.exp(-2)) * wrong
    assert float(terms["pair"]) == pytest.approx(expected, rel=1e-5)
    assert float(terms["accuracy"]) == wrong
    assert float(terms["loss"]) == pytest.approx(math.log(64) * float(batch.weights["loss"].sum()), rel=1e-5)
    assert NEXT.coefficients() == {"pair": 1.0}
    assert float(NEXT.total({"loss": jnp.array(2.0), "pair": jnp.array(3.0), "accuracy": jnp.array(5.0)})) == 5.0


def test_decisions_read_their_own_pair_only_and_train_the_head():
    spec, params = spec_and_params()
    _, batch = batch_of(NEXT)
    some = jax.tree.map(lambda leaf: leaf[:4], batch)

    def second_pairs(params, added_BTD):
        """The logit of the second pair of each row."""
        model = spec.bind(params)
        embedded_BTD = model.embed(some.inputs) + added_BTD
        hidden_BTD = model.run(embedded_BTD, some.inputs.positions_BT, some.inputs.mask).states_BTD
        return model.pair_logits(gather_scored(hidden_BTD, some.extras["first"]))[:, 1, 1].sum()

    nothing = jnp.zeros((*some.inputs.tokens_BT.shape, MODEL.width))
    of_params, of_positions = jax.jit(jax.grad(second_pairs, argnums=(0, 1)))(params, nothing)
    reached = np.abs(np.asarray(of_positions)).max(axis=-1) > 0
    pair_of = np.cumsum(np.asarray(some.inputs.positions_BT) == 0, axis=1)
    for b in range(1, 4):
        np.testing.assert_array_equal(reached[b], pair_of[b] == 2)
    for name in ("pooler", "pair_classifier", "type_embedding"):
        assert any(np.any(leaf) for leaf in jax.tree.leaves(of_params[name]))


def test_the_datas_weights_move_with_their_tokens():
    rows, batch = batch_of(NEXT)
    weights_BT = jnp.where(rows.tokens_BT % 2 == 0, 0.25, 1.0)
    weighted = jax.jit(functools.partial(NEXT.corrupt, vocabulary=VOCABULARY))(
        KEY, dataclasses.replace(rows, weights_BT=weights_BT)
    )
    scored = np.asarray(batch.weights["loss"]) > 0
    np.testing.assert_array_equal(weighted.targets_BP, batch.targets_BP)
    expected = np.where(np.asarray(batch.targets_BP) % 2 == 0, 0.25, 1.0)
    np.testing.assert_array_equal(np.asarray(weighted.weights["loss"]), expected * scored)


def test_documents_are_cut_after_full_stops():
    """With every fourth token one, a right pair's second part begins at a multiple of four."""
    objective = SentencePairs(rate=0.01, mask_fraction=0.0, random_fraction=0.0, task="sentence_order")
    tokens_BT = jnp.where(jnp.arange(24) % 4 == 3, STOP, jnp.arange(24) + 10)[None, :].repeat(16, axis=0)
    batch = jax.jit(functools.partial(objective.corrupt, vocabulary=VOCABULARY))(KEY, Rows(tokens_BT=tokens_BT))
    tokens, labels = np.asarray(batch.inputs.tokens_BT), np.asarray(batch.extras["label"])[:, 0]
    for row, label in zip(tokens, labels, strict=True):
        first_length = int(np.argmax(row == SEP)) - 1
        assert 0 < first_length < 24
        assert first_length % 4 == 0
        assert row[first_length] == STOP
        assert (row[1] == 10) == (label == 0)
    assert set(labels) == {0, 1}


def test_rows_of_one_stream_are_refused_while_tracing():
    with pytest.raises(ValueError, match="segments_BT=None.*pack several documents a row"):
        jax.eval_shape(
            lambda tokens: next_sentence_pairs(KEY, tokens, cls_id=CLS, sep_id=SEP, segments_BT=None),
            jax.ShapeDtypeStruct((2, 8), jnp.int32),
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "sentences"}, "objective.task='sentences'"),
        ({"cut_at": "words"}, "objective.cut_at='words'"),
        ({"pair_weight": -1.0}, "objective.pair_weight=-1.0"),
        ({"tokens_per_pair": 0}, "objective.tokens_per_pair=0"),
        ({"rate": 0.0}, "objective.rate=0.0"),
    ],
)
def test_impossible_hyperparameters_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        SentencePairs(**options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": dataclasses.replace(MODEL, pair_head=False)}, "model.pair_head=False"),
        ({"model": dataclasses.replace(MODEL, pair_head=False, pooler=False)}, "model.pooler=False"),
        ({"model": dataclasses.replace(MODEL, num_types=1)}, "model.num_types=1: .* set it to 2"),
        ({"vocabulary": dataclasses.replace(VOCABULARY, mask_id=None)}, "needs a 'mask' token"),
        ({"vocabulary": dataclasses.replace(VOCABULARY, cls_id=None)}, "needs a 'cls' token"),
        ({"vocabulary": dataclasses.replace(VOCABULARY, sep_id=None)}, "needs a 'sep' token"),
        ({"vocabulary": dataclasses.replace(VOCABULARY, sentence_end_V=None)}, "objective.cut_at='sentences'"),
        ({"sequence_length": 4}, "train.sequence_length=4 .* at least 5"),
    ],
)
def test_tokenizer_and_model_that_do_not_fit_are_refused(change, words):
    given = {"model": MODEL, "vocabulary": VOCABULARY, "sequence_length": 24}
    objective = dataclasses.replace(NEXT, cut_at="sentences")
    objective.check(**given)
    with pytest.raises(ValueError, match=words):
        objective.check(**(given | change))


def test_data_that_cannot_be_paired_is_refused():
    for packing in ("windows", "examples"):
        with pytest.raises(ValueError, match=f"data.packing='{packing}'.*best_fit or segments"):
            NEXT.check_data(DataConfig(packing=packing))
    NEXT.check_data(DataConfig(packing="segments"))
    with pytest.raises(ValueError, match=re.escape("data.add_eos=True")):
        ORDER.check_data(DataConfig())
    ORDER.check_data(DataConfig(add_eos=False))
