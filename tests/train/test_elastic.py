"""Training that loses devices and changes its mesh on the way has the losses of training that never did."""

import jax
import numpy as np
import tiny

from lmjax.parallel.mesh import MeshConfig
from lmjax.train.checkpoint import Checkpoints

STEPS = 2
LEGS = {8: MeshConfig(data=8), 4: MeshConfig(data=1, fsdp=4), 2: MeshConfig(data=1, tensor=2), 1: MeshConfig()}
"""The mesh of each number of devices; each trains for two steps."""


def trained(learner, state, first):
    """Does two steps and returns the state with the losses and gradient norms."""
    numbers = []
    with jax.set_mesh(learner.mesh):
        for step in range(first, first + STEPS):
            rows = jax.device_put(tiny.random_rows(17, seed=step), learner.row_sharding)
            state, metrics = learner.train_step(state, rows)
            numbers.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    return state, numbers


def test_eight_devices_then_four_then_two_then_one(tmp_path):
    learners = {number: tiny.learner(mesh=mesh, num_devices=number) for number, mesh in LEGS.items()}
    found, expected = [], []
    with Checkpoints(tmp_path) as checkpoints:
        state = learners[8].init(0)
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
    np.testing.assert_allclose(found, expected, rtol=1e-5)
