import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax.objectives import MaskedDiffusion
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Rows

KEY = jax.random.key(0)
MASK = tiny.VOCABULARY.mask_id


def elbo(model, batch) -> float:
    """Nats a token, as validation has it."""
    sums = jax.jit(lambda logits: MaskedDiffusion().terms(tiny.FixedLogits(logits), batch, None).sums)(model.logits_BTV)
    return float(sums["loss"] / jnp.sum(batch.weights["loss"]))


def hidden_share(schedule: str, times):
    return {
        "linear": times,
        "log_linear": 0.999 * times,
        "cosine": 1 - np.cos(np.pi / 2 * times),
    }[schedule]


def slope(schedule: str, times):
    return {
        "linear": np.ones_like(times),
        "log_linear": np.full_like(times, 0.999),
        "cosine": np.pi / 2 * np.sin(np.pi / 2 * times),
    }[schedule]


@functools.cache
def large_batch(schedule: str):
    tokens_BT = jax.random.randint(jax.random.key(1), (256, 400), 0, 60)
    return MaskedDiffusion(schedule=schedule).corrupt(KEY, Rows(tokens_BT=tokens_BT), tiny.VOCABULARY)


@pytest.mark.parametrize("schedule", ["linear", "log_linear", "cosine"])
def test_rows_are_masked_to_evenly_spread_degrees_with_the_weight_of_the_bound(schedule):
    batch = large_batch(schedule)
    weight_BT = np.asarray(batch.extras["noise_weight"], np.float64)
    is_masked_BT = np.asarray(batch.inputs.tokens_BT) == MASK
    np.testing.assert_array_equal(weight_BT > 0, is_masked_BT)
    row_weights = weight_BT.max(axis=1)
    grid = np.linspace(1e-3, 1, 200_001)[:-1]
    of_grid = slope(schedule, grid) / hidden_share(schedule, grid)
    seen = row_weights > 0
    times = np.interp(-row_weights[seen], -of_grid, grid)
    # One time in each of the 256 parts of [0.001, 1): that is what low discrepancy means.
    parts = np.floor((np.sort(times) - 1e-3) / 0.999 * 256 + 1e-3 - ((np.sort(times)[-1] - 1e-3) / 0.999 * 256) % 1)
    assert len(set(parts)) == seen.sum() >= 230
    expected = hidden_share(schedule, times)
    usual = expected > 0.05
    errors = np.sqrt(expected * (1 - expected) / 400)[usual]
    deviations = (is_masked_BT[seen].mean(axis=1) - expected)[usual] / errors
    assert abs(deviations.mean()) < 3 / math.sqrt(usual.sum())
    assert np.abs(deviations).max() < 5


def test_independent_times_leave_gaps():
    objective = MaskedDiffusion(low_discrepancy=False)
    batch = objective.corrupt(KEY, Rows(tokens_BT=jnp.zeros((256, 400), jnp.int32)), tiny.VOCABULARY)
    times = 1 / np.asarray(batch.extras["noise_weight"]).max(axis=1)
    assert np.diff(np.sort(times)).max() > 2 / 256


@pytest.mark.parametrize("schedule", ["linear", "log_linear", "cosine"])
def test_bound_of_a_uniform_predictor_is_the_log_of_the_vocabulary_without_the_mask(schedule):
    batch = large_batch(schedule)
    bound = elbo(tiny.FixedLogits(jnp.zeros((256, 400, 64))), batch)
    weights = np.asarray(batch.extras["noise_weight"], np.float64)
    assert bound == pytest.approx(math.log(63) * weights.mean(), rel=1e-5)
    # The weights average 1; rows are independent given their times, so their spread tells the error.
    standard_error = np.mean([row.std() / math.sqrt(400) for row in weights]) / math.sqrt(256) * 4
    assert bound == pytest.approx(math.log(63), abs=3 * math.log(63) * standard_error)


def test_bound_of_a_perfect_predictor_is_zero_even_if_it_would_rather_say_mask():
    batch = large_batch("linear")
    logits = 40 * jax.nn.one_hot(batch.targets_BP, 64)
    assert elbo(tiny.FixedLogits(logits), batch) == pytest.approx(0, abs=1e-5)
    assert elbo(tiny.FixedLogits(logits.at[:, :, MASK].set(1000.0)), batch) == pytest.approx(0, abs=1e-5)


def test_loss_of_two_tokens_by_hand():
    """A row at time t, one of three tokens masked: -1/t log p, over the three."""
    batch = MaskedDiffusion().corrupt(KEY, Rows(tokens_BT=jnp.array([[3, 4, 5]])), tiny.VOCABULARY)
    batch = dataclasses.replace(batch, extras={**batch.extras, "noise_weight": jnp.array([[0.0, 1 / 0.4, 0.0]])})
    logits = jnp.zeros((1, 3, 64)).at[0, 1, 4].set(2.0)
    expected = -(2 - math.log(62 + math.exp(2))) / 0.4 / 3
    assert elbo(tiny.FixedLogits(logits), batch) == pytest.approx(expected, rel=1e-5)
    plain = MaskedDiffusion().terms(tiny.FixedLogits(logits), batch, None).sums["loss"]
    assert float(plain) / 3 == pytest.approx(expected, rel=1e-5)


def test_padding_and_unlearned_prompts_stay_and_do_not_count():
    rows = tiny.random_rows(64)
    weights_BT = jnp.ones((8, 64)).at[:, :5].set(0.0)
    rows = Rows(tokens_BT=rows.tokens_BT, segments_BT=rows.segments_BT, weights_BT=weights_BT)
    batch = MaskedDiffusion().corrupt(KEY, rows, tiny.VOCABULARY)
    changed = np.asarray(batch.inputs.tokens_BT != rows.tokens_BT)
    learned = np.asarray((rows.segments_BT > 0) & (weights_BT > 0))
    assert changed[learned].any()
    assert not changed[~learned].any()
    np.testing.assert_array_equal(batch.weights["loss"], learned)


def test_a_masked_token_leaves_no_trace_in_the_input():
    rows = tiny.random_rows(32)
    corrupt = functools.partial(MaskedDiffusion().corrupt, KEY, vocabulary=tiny.VOCABULARY)
    before = corrupt(rows)
    hidden = before.extras["noise_weight"] > 0
    others = Rows(tokens_BT=jnp.where(hidden, 59 - rows.tokens_BT, rows.tokens_BT), segments_BT=rows.segments_BT)
    jax.tree.map(np.testing.assert_array_equal, before.inputs, corrupt(others).inputs)
    visible = (before.inputs.tokens_BT != MASK) & (before.weights["loss"] > 0)
    assert not np.asarray(before.extras["noise_weight"])[np.asarray(visible)].any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schedule": "square"}, "objective.schedule='square': use one of linear"),
        ({"least_time": 0.0}, "objective.least_time=0.0"),
    ],
)
def test_impossible_hyperparameters_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        MaskedDiffusion(**options)


def test_tokenizer_without_mask_and_capped_logits_are_refused():
    check = functools.partial(MaskedDiffusion().check, sequence_length=16)
    bare = Vocabulary(size=64, byte_length_V=np.ones(64, np.int32))
    with pytest.raises(ValueError, match="MaskedDiffusion needs a 'mask' token"):
        check(model=tiny.MODEL, vocabulary=bare)
    with pytest.raises(ValueError, match=r"model.logit_softcap=30.0: .*set it to None"):
        check(model=dataclasses.replace(tiny.MODEL, logit_softcap=30.0), vocabulary=tiny.VOCABULARY)
