"""SEDD's score entropy, and what time conditioning adds to a model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax.losses.diffusion import cosine_schedule, linear_schedule, score_entropy_loss
from lmjax.models.time_conditioned import run_at_level
from lmjax.objectives import MaskedDiffusion, ScoreEntropy
from lmjax.types import Rows

MASK = tiny.VOCABULARY.mask_id
ROWS = Rows(tokens_BT=jax.random.randint(jax.random.key(1), (6, 20), 0, 60))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_loss_is_the_score_entropy_of_the_papers_scores(schedule):
    objective = ScoreEntropy(schedule=schedule)
    batch = objective.corrupt(jax.random.key(0), ROWS, tiny.VOCABULARY)
    logits = jax.random.normal(jax.random.key(2), (6, 20, 64))
    loss = objective.terms(tiny.FixedLogits(logits), batch, None).sums["loss"]
    # Scores are r exp(l), and the share masked gives the time back.
    level = np.asarray(batch.extras["level"])
    times = level if schedule == "linear" else np.arccos(1 - level) / (np.pi / 2)
    log_ratio = np.log((1 - level) / level)
    per_token = score_entropy_loss(
        logits - np.log(63) + log_ratio[:, None, None],
        ROWS.tokens_BT,
        batch.extras["noise_weight"] > 0,
        times,
        mask_id=MASK,
        schedule={"linear": linear_schedule, "cosine": cosine_schedule}[schedule],
    )
    np.testing.assert_allclose(loss, np.sum(per_token), rtol=1e-4)


def test_normalised_scores_give_the_diffusion_bound_and_others_more():
    objective = ScoreEntropy()
    batch = objective.corrupt(jax.random.key(0), ROWS, tiny.VOCABULARY)
    logits = jax.random.normal(jax.random.key(2), (6, 20, 64)).at[..., MASK].set(-1e9)
    normalised = jax.nn.log_softmax(logits) + np.log(63)
    bound = MaskedDiffusion().terms(tiny.FixedLogits(logits), batch, None).sums["loss"]
    np.testing.assert_allclose(
        objective.terms(tiny.FixedLogits(normalised), batch, None).sums["loss"], bound, rtol=1e-4
    )
    for shift in (-0.5, 0.5):
        assert objective.terms(tiny.FixedLogits(normalised + shift), batch, None).sums["loss"] > bound


def test_scores_of_visible_tokens_do_not_count_and_leave_no_nan():
    objective = ScoreEntropy()
    batch = objective.corrupt(jax.random.key(0), ROWS, tiny.VOCABULARY)
    visible = (batch.extras["noise_weight"] == 0)[..., None]

    def loss(logits):
        return objective.terms(tiny.FixedLogits(logits), batch, None).sums["loss"]

    gradient = jax.grad(loss)(jnp.broadcast_to(jnp.where(visible, 500.0, 0.1), (*visible.shape[:2], 64)))
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[np.asarray(visible[..., 0])].any()


@functools.cache
def conditioned():
    objective = MaskedDiffusion(time_conditioning=True)
    return objective, tiny.learner(objective)


def test_a_conditioned_model_begins_as_an_unconditioned_one_and_then_tells_times_apart():
    objective, built = conditioned()
    params = built.init(0).params
    stream = objective.corrupt(jax.random.key(0), ROWS, tiny.VOCABULARY).inputs

    def hidden(params, level):
        return run_at_level(built.spec.bind(params), stream, jnp.full((6,), level)).states_BTD

    np.testing.assert_array_equal(hidden(params, 0.1), hidden(params, 0.9))
    time_out = jax.tree.map(lambda leaf: leaf + 0.1, params["extras"]["time_out"])
    moved = {**params, "extras": params["extras"] | {"time_out": time_out}}
    assert np.abs(hidden(moved, 0.1) - hidden(moved, 0.9)).max() > 1e-3
    plain = tiny.model_spec(tiny.MODEL)
    np.testing.assert_allclose(plain.bind(params["model"])(stream).states_BTD, hidden(params, 0.5), atol=1e-5)
