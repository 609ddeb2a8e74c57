"""Training that loses devices and changes its mesh on the way has the losses of training that never did."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from lmjax.parallel.mesh import MeshConfig
from lmjax.train.checkpoint import Checkpoints

STEPS = 2
MODEL = dataclasses.replace(tiny.MODEL, num_kv_heads=2, num_heads=4, head_width=8)
LEGS = {8: MeshConfig(data=8), 4: MeshConfig(data=1, fsdp=2, tensor=2), 1: MeshConfig()}
"""The mesh of each number of devices; each trains for two steps.

Model and first mesh are those of test_step.py, whose compiled steps are used again.
"""


def trained(learner, state, first):
    """Does two steps and returns the state with the losses and gradient norms."""
    numbers = []
    with jax.set_mesh(learner.mesh):
        for step in range(first, first + STEPS):
            rows = jax.device_put(tiny.random_rows(17, seed=step), learner.row_sharding)
            state, metrics = learner.train_step(state, rows)
            numbers.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    return state, numbers


@pytest.mark.long
def test_eight_devices_with_whole_parameters_then_four_with_parts_then_one(tmp_path):
    learners = {number: tiny.learner(model=MODEL, mesh=mesh, num_devices=number) for number, mesh in LEGS.items()}
    found, expected = [], []
    with Checkpoints(tmp_path) as checkpoints:
        # The same on every mesh (test_step.py), and compiled sooner for one device.
        state = jax.device_put(learners[1].init(0), learners[8].state_shardings)
        for place, learner in enumerate(learners.values()):
            if place:
                state, data = checkpoints.restore(learner.abstract_state)
                assert data == {"step": STEPS * place} and state.step.sharding.mesh == learner.mesh
            state, numbers = trained(learner, state, STEPS * place)
            found += numbers
            checkpoints.save(STEPS * (place + 1), state, {"step": STEPS * (place + 1)})
            checkpoints.wait()
    state = learners[1].init(0)
    for place in range(len(LEGS)):
        state, numbers = trained(learners[1], state, STEPS * place)
        expected += numbers
    assert len(found) == STEPS * len(LEGS)
    np.testing.assert_allclose(np.array(found)[:, 0], np.array(expected)[:, 0], rtol=1e-5)
    np.testing.assert_allclose(np.array(found)[:, 1], np.array(expected)[:, 1], rtol=1e-4)
