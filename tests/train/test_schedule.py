"""Schedules at every corner, against values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.schedules.learning_rate import ScheduleConfig, build_schedule

# warm-up 4: (s + 1) / 5 up to step 3, 1 at step 4
WARM = {0: 0.2, 1: 0.4, 3: 0.8, 4: 1.0}
CORNERS = {
    "constant": ({"kind": "constant", "warmup_steps": 4}, WARM | {5: 1.0, 20: 1.0, 99: 1.0}),
    # from 4 to 20: halfway at 12
    "linear": (
        {"kind": "linear", "warmup_steps": 4, "final_fraction": 0.2},
        WARM | {8: 0.8, 12: 0.6, 20: 0.2, 99: 0.2},
    ),
    "linear to 0": ({"kind": "linear"}, {0: 1.0, 5: 0.75, 10: 0.5, 20: 0.0, 21: 0.0}),
    "cosine": (
        {"kind": "cosine", "warmup_steps": 4},
        WARM | {8: 0.1 + 0.9 * (1 + 2**-0.5) / 2, 12: 0.55, 20: 0.1, 99: 0.1},
    ),
    "cosine ending early": (
        {"kind": "cosine", "warmup_steps": 4, "end_step": 12, "final_fraction": 0.0},
        WARM | {8: 0.5, 12: 0.0, 19: 0.0},
    ),
    # the last 40% of 20 steps: from 12 to 20
    "wsd": (
        {"kind": "wsd", "warmup_steps": 4, "decay_fraction": 0.4},
        WARM | {11: 1.0, 12: 1.0, 14: 0.75, 16: 0.5, 20: 0.0, 99: 0.0},
    ),
    "wsd sqrt": (
        {
            "kind": "wsd",
            "warmup_steps": 4,
            "decay_fraction": 0.4,
            "decay_shape": "sqrt",
            "final_fraction": 0.5,
        },
        WARM | {12: 1.0, 14: 0.75, 16: 1 - 0.5**1.5, 20: 0.5, 99: 0.5},
    ),
    "wsd by default": ({"kind": "wsd"}, {0: 1.0, 18: 1.0, 19: 0.5, 20: 0.0}),
    "wsd all decay": ({"kind": "wsd", "decay_fraction": 1.0}, {0: 1.0, 10: 0.5, 20: 0.0}),
    # sqrt(5 / (s + 1)) after the warm-up
    "inverse_sqrt": ({"kind": "inverse_sqrt", "warmup_steps": 4}, WARM | {19: 0.5, 44: 1 / 3}),
    "inverse_sqrt without warm-up": ({"kind": "inverse_sqrt"}, {0: 1.0, 3: 0.5, 99: 0.1}),
}


@pytest.mark.parametrize("name", CORNERS)
def test_hand_values(name):
    options, expected = CORNERS[name]
    schedule = build_schedule(ScheduleConfig(**options), total_steps=20)
    steps = jnp.array(list(expected), jnp.int32)
    np.testing.assert_allclose(schedule(steps), list(expected.values()), atol=1e-6)
    np.testing.assert_allclose(jax.jit(schedule)(steps), list(expected.values()), atol=1e-6)
    assert schedule(steps).dtype == jnp.float32
    assert schedule(0).shape == ()


def test_nanogpt_learning_rate():
    """NanoGPT's get_lr: warm-up 100, decay to min_lr = lr / 10 at lr_decay_iters = 2000."""
    schedule = build_schedule(ScheduleConfig(kind="cosine", warmup_steps=100), total_steps=2000)
    steps = np.array([0, 50, 99, 100, 575, 1050, 1999, 2000, 2001])
    cosine = 1e-4 + 0.5 * (1 + np.cos(np.pi * (steps - 100) / 1900)) * (1e-3 - 1e-4)
    expected = np.where(steps < 100, 1e-3 * (steps + 1) / 101, np.where(steps > 2000, 1e-4, cosine))
    np.testing.assert_allclose(1e-3 * schedule(jnp.asarray(steps)), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "cosine", "wsd", "inverse_sqrt"])
def test_never_rises_after_the_warm_up(kind):
    values = build_schedule(ScheduleConfig(kind=kind, warmup_steps=7), total_steps=50)(jnp.arange(80))
    assert np.all(np.diff(values[:8]) > 0)
    assert np.all(np.diff(values[7:]) <= 1e-6)
    assert values.max() == 1


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"kind": "step"}, "kind='step'"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"final_fraction": 1.5}, "final_fraction=1.5"),
        ({"kind": "wsd", "decay_fraction": 0.0}, "decay_fraction=0.0"),
        ({"kind": "wsd", "decay_shape": "cubic"}, "decay_shape='cubic'"),
        ({"kind": "cosine", "decay_fraction": 0.2}, "decay_fraction=0.2"),
        ({"kind": "linear", "decay_shape": "sqrt"}, "decay_shape=sqrt"),
        ({"kind": "constant", "final_fraction": 0.1}, "final_fraction=0.1"),
        ({"kind": "inverse_sqrt", "end_step": 10}, "end_step=10"),
    ],
)
def test_bad_options_are_named(options, field):
    with pytest.raises(ValueError, match=f"schedule.{field}"):
        ScheduleConfig(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "cosine", "warmup_steps": 20},
        {"kind": "linear", "warmup_steps": 10, "end_step": 10},
        {"kind": "wsd", "warmup_steps": 15, "decay_fraction": 0.5},
    ],
)
def test_a_warm_up_that_leaves_no_room_is_refused(options):
    with pytest.raises(ValueError, match=r"schedule.warmup_steps=\d+: the decay ends at step"):
        build_schedule(ScheduleConfig(**options), total_steps=20)
