import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax.losses import cross_entropy
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import CausalLM, ScheduledSampling
from lmjax.schedules.ramp import Ramp, at_step

KEY = jax.random.key(0)
MODEL = dataclasses.replace(tiny.MODEL, num_layers=1, execution=ExecutionConfig(scan_layers=False, remat="none"))
SPEC = tiny.model_spec(MODEL)
PARAMS = tiny.random_params(SPEC, scale=0.5)
OBJECTIVE = ScheduledSampling(teacher_rate=0.4, temperature=0.0)
ROWS = tiny.random_rows(17, num_rows=4)


@functools.cache
def compiled():
    """What is read, the loss, and both passes' logits."""

    def run(params, batch):
        model = SPEC.bind(params)
        mixed = OBJECTIVE.mixed(model, batch)
        stream = dataclasses.replace(batch.inputs, tokens_BT=mixed)
        logits = model.logits(jnp.stack([model(batch.inputs).states_BTD, model(stream).states_BTD]))
        return mixed, OBJECTIVE.terms(model, batch, None).sums["loss"], *logits

    return jax.jit(run)


def test_predictions_of_the_first_pass_are_read_and_the_truth_is_scored():
    batch = OBJECTIVE.corrupt(KEY, ROWS, tiny.VOCABULARY)
    mixed, loss, first, second = compiled()(PARAMS, batch)
    tokens, predicted = np.asarray(batch.inputs.tokens_BT), np.asarray(batch.extras["predicted"])
    said = np.asarray(jnp.argmax(first, axis=-1))
    expected = tokens.copy()
    for b, t in zip(*np.nonzero(predicted), strict=True):
        expected[b, t] = said[b, t - 1]
    np.testing.assert_array_equal(mixed, expected)
    assert (mixed != tokens).sum() > 10
    # A document's first token is never a prediction made in another one.
    assert not predicted[np.asarray(batch.inputs.positions_BT) == 0].any()
    np.testing.assert_array_equal(batch.targets_BP, CausalLM().corrupt(KEY, ROWS, tiny.VOCABULARY).targets_BP)
    np.testing.assert_allclose(
        loss, jnp.sum(batch.weights["loss"] * cross_entropy(second, batch.targets_BP)), rtol=1e-5
    )


def test_neither_pass_sees_what_is_to_be_named_nor_another_document():
    batch = OBJECTIVE.corrupt(KEY, ROWS, tiny.VOCABULARY)
    _, _, _, before = compiled()(PARAMS, batch)
    changed = dataclasses.replace(
        batch, inputs=dataclasses.replace(batch.inputs, tokens_BT=batch.inputs.tokens_BT.at[:, 3].set(59))
    )
    _, _, _, after = compiled()(PARAMS, changed)
    same = np.asarray((before == after).all(axis=-1))
    documents = np.asarray(ROWS.segments_BT)[:, :-1]
    assert same[:, :3].all()
    assert same[documents != documents[:, 3:4]].all()
    # A token that is not read for a prediction's sake has no influence of its own.
    np.testing.assert_array_equal(same[:, 3], batch.extras["predicted"][:, 3])
    assert not same[:, 3].all()


def test_true_tokens_alone_are_a_causal_model():
    truthful = dataclasses.replace(OBJECTIVE, teacher_rate=1.0).corrupt(KEY, ROWS, tiny.VOCABULARY)
    mixed, loss, first, _ = compiled()(PARAMS, truthful)
    np.testing.assert_array_equal(mixed, truthful.inputs.tokens_BT)
    np.testing.assert_allclose(
        loss, jnp.sum(truthful.weights["loss"] * cross_entropy(first, truthful.targets_BP)), rtol=1e-5
    )
    assert OBJECTIVE.for_evaluation() == CausalLM()


def test_the_temperature_follows_its_schedule():
    batch = OBJECTIVE.corrupt(KEY, ROWS, tiny.VOCABULARY)
    falling = dataclasses.replace(OBJECTIVE, temperature=Ramp(start=3.0, end=1.0, steps=4))

    @jax.jit
    def mixed(step):
        model = SPEC.bind(PARAMS)
        fixed = [dataclasses.replace(OBJECTIVE, temperature=t).mixed(model, batch) for t in (2.0, 1.0)]
        return at_step(falling, step).mixed(model, batch), *fixed

    middle, at_two, at_one = mixed(2)
    np.testing.assert_array_equal(middle, at_two)
    np.testing.assert_array_equal(mixed(4)[0], at_one)
    assert (at_two != at_one).any()


@pytest.mark.parametrize("shape", ["linear", "exponential", "inverse_sigmoid"])
def test_the_share_of_true_tokens_follows_its_schedule(shape):
    ramp = Ramp(start=1.0, end=0.2, steps=100, shape=shape)
    objective = ScheduledSampling(teacher_rate=ramp)
    rows = tiny.random_rows(257, num_rows=64, packed=False)

    @jax.jit
    def share(step):
        return jnp.mean(at_step(objective, step).corrupt(KEY, rows, tiny.VOCABULARY).extras["predicted"][:, 1:])

    for step in (0, 50, 100, 1000):
        expected = 1 - float(ramp.value(step))
        assert float(share(step)) == pytest.approx(expected, abs=3.5 * np.sqrt(expected * (1 - expected) / 64 / 255))
    assert share(0) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"teacher_rate": 1.5}, "objective.teacher_rate=1.5: is a share"),
        ({"teacher_rate": Ramp(start=1.0, end=-0.1, steps=5)}, "objective.teacher_rate=1.0:-0.1:5:linear"),
        ({"temperature": -1.0}, "objective.temperature=-1.0"),
        ({"temperature": Ramp(start=1.0, end=0.0, steps=5)}, "objective.temperature=1.0:0.0:5:linear: a schedule must"),
    ],
)
def test_impossible_hyperparameters_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        ScheduledSampling(**options)
