"""A run that loses devices and changes its mesh on the way has the losses of a run that never did."""

import dataclasses
from unittest import mock

import jax
import numpy as np
import pytest
from tiny_run import config, with_train, write_corpus

from lmjax.parallel.mesh import MeshConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.loop import train
from lmjax.train.metrics import read_metrics

pytestmark = pytest.mark.run

LEGS = (
    (2, 8, MeshConfig(data=8)),
    (4, 4, MeshConfig(data=1, fsdp=4)),
    (6, 2, MeshConfig(data=1, tensor=2)),
    (8, 1, MeshConfig(data=1)),
)
"""Until which step, on how many devices, in which mesh."""


def test_eight_devices_then_four_then_two_then_one(tmp_path):
    write_corpus(tmp_path / "text")
    base = with_train(config(tmp_path), eval_every=0, ema_decay=None)
    base = dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, valid_fraction=0.0),
        checkpoint=CheckpointConfig(every_steps=None),
    )
    devices = jax.devices()
    for folder, legs in (("elastic", LEGS), ("steady", LEGS[-1:])):
        for steps, number, mesh in legs:
            leg = dataclasses.replace(with_train(base, steps=steps), folder=str(tmp_path / folder), mesh=mesh)
            with mock.patch.object(jax, "devices", lambda *_, number=number: devices[:number]):
                train(leg)
    found, expected = (
        [[line["step"], line["train/loss"], line["grad_norm"]] for line in read_metrics(tmp_path / folder)]
        for folder in ("elastic", "steady")
    )
    assert [line[0] for line in found] == [1, 2, 3, 4, 5, 6, 7, 8]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
