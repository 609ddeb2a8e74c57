"""Contrastive learning against vectors of texts encoded one by one, and who may be whose negative."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from lmjax.data.config import DataConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.models.parameters import module_spec
from lmjax.objectives import CausalLM, Contrastive
from lmjax.objectives.contrastive import temperature_of
from lmjax.schedules.ramp import Ramp, at_step
from lmjax.train.initial import adopted_params
from lmjax.types import Rows, make_stream

KEY = jax.random.key(0)
MODEL = dataclasses.replace(tiny.MODEL, num_layers=1, execution=ExecutionConfig(scan_layers=False, remat="none"))
GIVEN = Contrastive(pairs="given", negatives=1, temperature=0.5, symmetric=True)


@functools.cache
def spec_of(objective, model=MODEL):
    return module_spec(lambda key: objective.build(model, rngs=nnx.Rngs(params=key)))


def compiled_terms(objectives, model=MODEL):
    """(params, batch) -> the terms of each objective, which share a model, of normalised weights."""

    @jax.jit
    def terms(params, batch):
        bound = spec_of(objectives[0], model).bind(params)
        batch = dataclasses.replace(batch, weights=jax.tree.map(lambda w: w / jnp.sum(w), batch.weights))
        return [objective.terms(bound, batch, None).sums for objective in objectives]

    return terms


@functools.cache
def corrupt_of(objective):
    """Compiled: rows -> batch."""
    return jax.jit(functools.partial(objective.corrupt, KEY, vocabulary=tiny.VOCABULARY))


@functools.cache
def encode(kind):
    spec = tiny.model_spec(MODEL)
    return jax.jit(
        lambda params, rows: spec.bind(params)(make_stream(rows.tokens_BT, rows.segments_BT, kind)).states_BTD
    )


def vectors_alone(params, texts, *, length, pooling="mean", kind="bidirectional"):
    """Of each text in a row of its own, with the encoder's parameters, as unit vectors [texts, D]."""
    hidden = np.asarray(encode(kind)(params.get("model", params), tiny.one_text_a_row(texts, length)), np.float64)
    pool = {"mean": lambda states: states.mean(0), "last": lambda states: states[-1]}[pooling]
    pooled = np.stack([pool(states[: len(text)]) for states, text in zip(hidden, texts, strict=True)])
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


def texts(tokens, segments):
    """The documents of a row, in the order of their numbers."""
    segments = np.asarray(segments)
    return [tokens[segments == number] for number in np.unique(segments[segments > 0])]


def cross_entropy(scores, own):
    return np.log(np.exp(scores - scores[own]).sum())


def test_given_examples_by_hand_and_padding_is_nobodys_negative():
    rows = tiny.example_rows(3, 6, num_rows=4)
    filled = Rows(
        tokens_BT=jnp.pad(rows.tokens_BT, ((0, 2), (0, 0))),
        segments_BT=jnp.pad(rows.segments_BT, ((0, 2), (0, 0))),
        weights_BT=jnp.pad((rows.segments_BT > 0).astype(jnp.float32), ((0, 2), (0, 0))),
    )
    own_negatives = dataclasses.replace(GIVEN, share_negatives=False, symmetric=False)
    cooling = at_step(dataclasses.replace(own_negatives, temperature=Ramp(start=1.0, end=0.5, steps=4)), 4)
    params = tiny.random_params(spec_of(GIVEN))
    found, *others = compiled_terms((GIVEN, own_negatives, cooling))(params, corrupt_of(GIVEN)(filled))
    given = [
        text for row in zip(*map(np.asarray, (rows.tokens_BT, rows.segments_BT)), strict=True) for text in texts(*row)
    ]
    queries, keys, negatives = vectors_alone(params, given, length=6).reshape(4, 3, -1).swapaxes(0, 1)
    losses, right = [], []
    for i in range(4):
        scores = np.concatenate([keys, negatives]) @ queries[i] / 0.5
        losses.append((cross_entropy(scores, i) + cross_entropy(queries @ keys[i] / 0.5, i)) / 2)
        right.append(scores.argmax() == i)
    assert float(found["contrastive"]) == pytest.approx(np.mean(losses), rel=1e-5)
    assert float(found["accuracy"]) == pytest.approx(np.mean(right))
    assert GIVEN.traits.measures == {"accuracy"}
    losses = [cross_entropy(np.array([*keys, negatives[i]]) @ queries[i] / 0.5, i) for i in range(4)]
    for terms in others:
        assert float(terms["contrastive"]) == pytest.approx(np.mean(losses), rel=1e-5)


def test_packed_documents_are_examples_and_see_nothing_of_each_other():
    segments = tiny.segments([[9, 1, 12], [24], [4, 4, 4, 4]], 24)
    tokens = np.random.default_rng(0).integers(0, 60, (3, 24)).astype(np.int32)
    rows = Rows(tokens_BT=jnp.asarray(tokens), segments_BT=jnp.asarray(segments))
    objective = Contrastive(pooling="last", causal=True, max_documents=3, temperature=1.0)
    batch = corrupt_of(objective)(rows)
    # A document of one token has no crops, and the fourth of a row no slot.
    np.testing.assert_array_equal(batch.weights["contrastive"], [[1, 0, 1], [1, 0, 0], [1, 1, 1]])
    params = tiny.random_params(spec_of(objective))
    halves = [np.asarray(a).reshape(3, 2, 12) for a in (batch.inputs.tokens_BT, batch.extras["example"])]
    crops = [
        halves[0][row, side][halves[1][row, side] == number]
        for side in range(2)
        for row, number in ((0, 1), (0, 3), (1, 1), (2, 1), (2, 2), (2, 3))
    ]
    sides = vectors_alone(params, crops, length=12, pooling="last", kind="causal").reshape(2, 6, -1)
    losses = [cross_entropy(sides[1] @ query, i) for i, query in enumerate(sides[0])]
    (found,) = compiled_terms((objective,))(params, batch)
    assert float(found["contrastive"]) == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_text_meets_itself_under_another_dropout():
    objective, model = Contrastive(pairs="dropout", temperature=1.0), dataclasses.replace(MODEL, dropout=0.3)
    rows = tiny.random_rows(12)
    batch = corrupt_of(objective)(rows)
    np.testing.assert_array_equal(batch.inputs.tokens_BT, np.tile(rows.tokens_BT, 2))
    bound = spec_of(objective, model).bind(tiny.random_params(spec_of(objective, model)))
    dropped, whole = jax.jit(lambda batch: [objective.vectors(bound, batch, key)[0] for key in (KEY, None)])(batch)
    there = np.asarray(batch.weights["contrastive"]).ravel() > 0
    assert (np.sum(dropped[0] * dropped[1], axis=1)[there] < 0.999).all()
    np.testing.assert_allclose(*whole, atol=1e-6)
    with pytest.raises(ValueError, match=r"model.dropout=0.0: with objective.pairs='dropout' .* set it to 0.1"):
        objective.check(model=MODEL, vocabulary=tiny.VOCABULARY, sequence_length=12)
    objective.check(model=model, vocabulary=tiny.VOCABULARY, sequence_length=12)


def test_pooling_by_hand():
    rows = Rows(tokens_BT=jnp.ones((1, 6), jnp.int32), segments_BT=jnp.asarray([[1, 1, 1, 2, 0, 0]]))
    for pooling, shares in (
        ("mean", [1 / 3, 1 / 3, 1 / 3, 1, 0, 0]),
        ("cls", [1, 0, 0, 1, 0, 0]),
        ("last", [0, 0, 1, 1, 0, 0]),
    ):
        batch = corrupt_of(Contrastive(pairs="dropout", pooling=pooling))(rows)
        np.testing.assert_allclose(batch.extras["share"], [shares * 2], rtol=1e-6)


def test_windows_without_documents_are_texts_and_those_that_fill_a_batch_are_none():
    rows = Rows(tokens_BT=jnp.ones((3, 8), jnp.int32), weights_BT=jnp.ones((3, 8)).at[2].set(0))
    batch = corrupt_of(Contrastive(max_documents=2))(rows)
    np.testing.assert_array_equal(batch.weights["contrastive"], [[1, 0], [1, 0], [0, 0]])


def test_separate_encoders_read_queries_and_keys():
    objective = dataclasses.replace(GIVEN, separate_encoders=True, learn_temperature=True)
    params = tiny.random_params(spec_of(objective))
    batch = corrupt_of(objective)(tiny.example_rows(3, 6))

    read = jax.jit(lambda params: objective.vectors(spec_of(objective).bind(params), batch, None)[0])
    before = read(params)
    for changed, moved in (("extras", [False, True, True]), ("model", [True, False, False])):
        after = read(params | {changed: jax.tree.map(lambda leaf: leaf + 1, params[changed])})
        assert [not np.array_equal(*pair) for pair in zip(before, after, strict=True)] == moved


def test_a_learned_temperature_begins_where_it_is_set_and_stays_above_its_bound():
    spec = spec_of(Contrastive(learn_temperature=True, temperature=0.07))

    def temperature(log_scale):
        return temperature_of(jnp.asarray(log_scale))

    start = jax.jit(lambda: spec.init(KEY)["extras"]["log_scale"])()
    assert spec.kinds["extras"]["log_scale"] == "scale"
    assert float(temperature(start)) == pytest.approx(0.07, rel=1e-5)
    assert float(temperature(9.0)) == pytest.approx(0.01, rel=1e-5)
    # The gradient is that of the bound itself, so that the parameter can come back.
    assert float(jax.grad(temperature)(9.0)) == pytest.approx(-0.01, rel=1e-5)


def test_another_runs_model_becomes_both_encoders():
    objective = dataclasses.replace(GIVEN, separate_encoders=True, learn_temperature=True)
    saved, fresh = tiny.random_params(tiny.model_spec(MODEL)), tiny.random_params(spec_of(objective), seed=1)
    given = {"model": saved}
    params = adopted_params(objective, fresh, given, source=CausalLM())
    assert params == {"model": saved, "extras": {"key_encoder": saved, "log_scale": fresh["extras"]["log_scale"]}}
    trained = {"model": saved, "extras": {"key_encoder": 2, "log_scale": 3}}
    assert adopted_params(objective, fresh, trained, source=objective) == trained
    assert adopted_params(CausalLM(), given, params, source=objective) == given


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pairs": "none"}, "objective.pairs='none': use one of crops, dropout, given"),
        ({"pooling": "max"}, "objective.pooling='max'"),
        ({"temperature": 0.0}, "objective.temperature=0.0: must be above 0"),
        ({"temperature": 0.001, "learn_temperature": True}, "a learned one begins with a number of at least 0.01"),
        ({"max_crop": 0.7}, "up to one half"),
        ({"max_documents": 0}, "objective.max_documents=0 at least 1"),
        ({"negatives": 1}, "objective.negatives=1 with objective.pairs='crops': only given"),
        ({"separate_encoders": True, "pairs": "dropout"}, "objective.separate_encoders=True with"),
        ({"pooling": "cls"}, "the first token of a crop is any token"),
    ],
)
def test_impossible_hyperparameters_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Contrastive(**options)


def test_data_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"compares the 3 texts of an example: name their 3 fields in data.members"):
        GIVEN.check_data(DataConfig())
    GIVEN.check_data(DataConfig(members=("q", "k", "n"), packing="examples"))
    cls = Contrastive(pairs="dropout", pooling="cls")
    with pytest.raises(ValueError, match=r"set data.add_bos to True \(here False\) and data.packing to examples or"):
        cls.check_data(DataConfig())
    cls.check_data(DataConfig(add_bos=True, packing="examples"))
