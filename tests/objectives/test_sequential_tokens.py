import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from lmjax.losses import cross_entropy
from lmjax.models.execution import ExecutionConfig
from lmjax.models.parameters import module_spec
from lmjax.objectives import SequentialMultiTokenLM
from lmjax.objectives.sequential_tokens import run_module, run_without_norm
from lmjax.schedules.ramp import Ramp, at_step
from lmjax.types import Rows

KEY = jax.random.key(0)
MODEL = dataclasses.replace(tiny.MODEL, num_layers=1, execution=ExecutionConfig(scan_layers=False, remat="none"))
OBJECTIVE = SequentialMultiTokenLM(num_heads=3)
SPEC = module_spec(lambda key: OBJECTIVE.build(MODEL, rngs=nnx.Rngs(params=key)))
PARAMS = tiny.random_params(SPEC, scale=0.5)
ROWS = Rows(
    tokens_BT=tiny.random_rows(14, num_rows=4).tokens_BT,
    segments_BT=jnp.asarray(tiny.segments([[6, 7], [5, 8], [9, 4], [6, 8]], 14)),
)


@functools.cache
def compiled():
    """For the three heads: the states, and the losses at each position."""

    def run(params, tokens_BS):
        both = SPEC.bind(params)
        model, modules = both.model, both.extras["prediction_modules"]
        batch = OBJECTIVE.corrupt(KEY, dataclasses.replace(ROWS, tokens_BT=tokens_BS), tiny.VOCABULARY)
        states = run_without_norm(model, batch.inputs).states_BTD
        hidden = [model.normalised(states)]
        for index in range(2):
            tokens_BT = batch.extras["targets_BTK"][:, :, index]
            states, out, _ = run_module(modules[index], model, states, batch.inputs, tokens_BT)
            hidden.append(out)
        losses = [cross_entropy(model.logits(h), batch.extras["targets_BTK"][:, :, k]) for k, h in enumerate(hidden)]
        return jnp.stack(hidden), jnp.stack(losses), OBJECTIVE.terms(both, batch, None).sums

    return jax.jit(run)


def test_terms_are_the_weighted_cross_entropies_of_model_and_modules():
    _, losses, terms = compiled()(PARAMS, ROWS.tokens_BT)
    weights = OBJECTIVE.corrupt(KEY, ROWS, tiny.VOCABULARY).weights
    assert list(terms) == list(weights) == ["loss", "token_2", "token_3"]
    expected = [jnp.sum(losses[k] * w) for k, w in enumerate(weights.values())]
    np.testing.assert_allclose(list(terms.values()), expected, rtol=1e-5)
    assert len({round(float(value), 3) for value in expected}) == 3


def test_module_by_hand():
    """``h1_i`` from ``h0`` and the embedding of the next token, in NumPy up to the block."""
    both = SPEC.bind(PARAMS)
    model, bound = both.model, both.extras["prediction_modules"][0]
    batch = OBJECTIVE.corrupt(KEY, ROWS, tiny.VOCABULARY)
    states = run_without_norm(model, batch.inputs).states_BTD
    module = jax.tree.map(np.asarray, PARAMS["extras"]["prediction_modules"]["000"])

    def rms(x, scale):
        return x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + 1e-5) * scale

    embedded = np.asarray(PARAMS["model"]["embedding"]["table_VD"])[np.asarray(batch.targets_BP)]
    joined = [rms(np.asarray(states), module["state_norm"]["scale"]), rms(embedded, module["embedding_norm"]["scale"])]
    x = np.concatenate(joined, axis=-1) @ module["projection"]["weight"]
    out, *_ = bound.block(jnp.asarray(x), batch.inputs.positions_BT, batch.inputs.mask)
    found, hidden, _ = run_module(bound, model, states, batch.inputs, batch.targets_BP)
    np.testing.assert_allclose(found, out, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(hidden, rms(np.asarray(out), module["head_norm"]["scale"]), rtol=1e-4, atol=1e-4)


def test_module_k_depends_on_tokens_up_to_k_ahead_and_on_no_later_one():
    place = 10
    before, *_ = compiled()(PARAMS, ROWS.tokens_BT)
    after, *_ = compiled()(PARAMS, ROWS.tokens_BT.at[:, place].set(59))
    row = 3
    assert len(set(np.asarray(ROWS.segments_BT)[row, place - 3 : place + 1])) == 1
    for module in range(3):
        same = np.asarray((before[module] == after[module]).all(axis=-1))
        assert same[:, : place - module].all()
        assert not same[row, place - module]


def test_no_scored_position_depends_on_another_document():
    documents = np.asarray(ROWS.segments_BT)
    tokens = jnp.where(documents == 2, 59 - ROWS.tokens_BT, ROWS.tokens_BT)
    _, before, _ = compiled()(PARAMS, ROWS.tokens_BT)
    _, after, _ = compiled()(PARAMS, tokens)
    weights = np.stack(list(OBJECTIVE.corrupt(KEY, ROWS, tiny.VOCABULARY).weights.values()))
    first = (weights > 0) & (documents[None, :, :11] == 1)
    assert first[2].any()
    np.testing.assert_array_equal(before[first], after[first])
    assert (before[(weights > 0) & ~first] != after[(weights > 0) & ~first]).all()


def test_without_its_modules_it_is_the_model_it_was():
    plain = tiny.model_spec(MODEL)
    assert jax.tree.structure(plain.shapes) == jax.tree.structure(PARAMS["model"])
    stream = OBJECTIVE.corrupt(KEY, ROWS, tiny.VOCABULARY).inputs
    whole, alone = SPEC.bind(PARAMS).model, plain.bind(PARAMS["model"])
    np.testing.assert_array_equal(whole(stream).states_BTD, alone(stream).states_BTD)


def test_logits_of_two_heads_never_exist_together():
    batch = OBJECTIVE.corrupt(KEY, ROWS, tiny.VOCABULARY)

    def total(params):
        return sum(OBJECTIVE.terms(SPEC.bind(params), batch, None).sums.values())

    program = str(jax.make_jaxpr(jax.grad(total))(PARAMS))
    shapes = [tuple(map(int, shape.split(","))) for shape in re.findall(r"\d\[([\d,]+)\]", program)]
    assert max(math.prod(shape) for shape in shapes if 64 in shape) == 4 * 11 * 64


def test_lambda_is_shared_among_the_modules_and_may_follow_a_schedule():
    assert OBJECTIVE.coefficients() == {"token_2": 0.15, "token_3": 0.15}
    ramp = SequentialMultiTokenLM(weight=Ramp(start=0.3, end=0.1, steps=10))
    for step, expected in ((0, 0.3), (5, 0.2), (10, 0.1)):
        assert float(at_step(ramp, step).coefficients()["token_2"]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_heads": 1}, "objective.num_heads=1: must be at least 2, or use CausalLM"),
        ({"weight": -1.0}, "objective.weight=-1.0"),
        ({"weight": Ramp(start=0.3, end=-0.1, steps=5)}, "objective.weight=0.3:-0.1:5:linear"),
    ],
)
def test_impossible_hyperparameters_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        SequentialMultiTokenLM(**options)


def test_rows_shorter_than_the_look_ahead_are_refused():
    with pytest.raises(ValueError, match=r"objective.num_heads=3 is more than train.sequence_length=2"):
        OBJECTIVE.check(model=MODEL, vocabulary=tiny.VOCABULARY, sequence_length=2)
