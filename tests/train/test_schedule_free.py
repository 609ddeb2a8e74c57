"""Schedule-Free: its three sequences by hand, and that the average is what is kept, saved and evaluated."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax.models.routing import BIAS_KIND
from lmjax.schedules import ScheduleConfig
from lmjax.train.checkpoint import Checkpoints
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW, AveragingOptimizer, ScheduleFree, average_of, build_optimizer
from lmjax.train.setup import check_average


def test_its_three_points_by_hand():
    """The step of z is lr g / sqrt(v), v corrected; the share c of a step in x is lr^2 over the sum of all lr^2."""
    beta1, beta2, rate = 0.75, 0.5, 0.5
    optimizer = ScheduleFree(learning_rate=rate, beta1=beta1, beta2=beta2, epsilon=1e-12, weight_decay=0.0)
    warm_up = lambda step: jnp.minimum((step + 1) / 2, 1.0)  # noqa: E731
    kinds = {"w": "matrix", "load": BIAS_KIND}
    built = build_optimizer(optimizer, schedule=warm_up, kinds=kinds, axes={"w": ("embed",), "load": ("choices",)})
    params = {"w": jnp.full(1, 2.0), "load": jnp.zeros(2)}
    state, x, z, v, weights = built.init(params), 2.0, 2.0, 0.0, 0.0
    for step, gradient in enumerate((1.0, 3.0, -2.0)):
        grads = {"w": jnp.full(1, gradient), "load": jnp.array([1.0, -1.0])}
        updates, state = built.update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        lr = rate * min((step + 1) / 2, 1)
        v = beta2 * v + (1 - beta2) * gradient**2
        z -= lr * gradient / np.sqrt(v / (1 - beta2 ** (step + 1)))
        weights += lr**2
        x += lr**2 / weights * (z - x)
        np.testing.assert_allclose(params["w"], (1 - beta1) * z + beta1 * x, rtol=1e-5)
        average = average_of(optimizer, kinds)(state, params)
        np.testing.assert_allclose(average["w"], x, rtol=1e-5)
        np.testing.assert_array_equal(average["load"], params["load"])
    np.testing.assert_allclose(params["load"], [-3e-3, 3e-3], rtol=1e-5)


def test_the_average_is_in_the_state_and_in_its_checkpoints(tmp_path):
    built = tiny.learner(optimizer=ScheduleFree(learning_rate=1e-2))
    state = built.init(0)
    with jax.set_mesh(built.mesh):
        for seed in range(3):
            state, _ = built.train_step(state, jax.device_put(tiny.random_rows(17, seed=seed), built.row_sharding))
    expected = built.average(state.opt_state, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.ema, expected)
    apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.ema, state.params)
    assert max(jax.tree.leaves(apart)) > 1e-4
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state)
        checkpoints.wait()
        read, _ = checkpoints.restore_params(built.abstract_state.params)
    jax.tree.map(np.testing.assert_array_equal, read, state.ema)


def test_a_run_goes_on_bit_for_bit(tmp_path):
    built = tiny.learner(optimizer=ScheduleFree(learning_rate=1e-2))
    batches = [tiny.random_rows(17, seed=seed) for seed in range(3)]
    assert tiny.train_metrics(built, batches) == tiny.train_metrics(built, batches, saved_in=tmp_path)


def test_other_weights_are_where_all_its_points_begin():
    built = tiny.learner(optimizer=ScheduleFree())
    params = tiny.random_params(built.spec)
    state = built.with_params(built.init(0), params)
    for tree in (state.params, state.ema, state.opt_state.z):
        jax.tree.map(np.testing.assert_array_equal, tree, params)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "schedule.kind='cosine': ScheduleFree averages in place of"),
        (
            {"schedule": ScheduleConfig(kind="constant"), "train": TrainConfig(ema_decay=0.9)},
            r"train.ema_decay=0.9: ScheduleFree averages the parameters",
        ),
    ],
)
def test_what_does_not_go_with_it_is_refused(changes, message):
    config = RunConfig(name="x", optimizer=ScheduleFree())
    with pytest.raises(ValueError, match=message):
        check_average(dataclasses.replace(config, **changes))
    check_average(dataclasses.replace(config, schedule=ScheduleConfig(kind="constant", warmup_steps=5)))


def test_an_optimizer_that_averages_says_how():
    class Half(AveragingOptimizer):
        direction = AdamW.direction

    with pytest.raises(TypeError, match="average"):
        Half()
    assert average_of(AdamW(), {"w": "matrix"}) is None
