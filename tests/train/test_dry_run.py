"""The dry run says what the start of the training would say, for devices that are here and for others."""

import dataclasses
import importlib.util
import types

import jax
import pytest
import tiny

from lmjax.data.config import DataConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import Contrastive, MaskedLM
from lmjax.parallel.mesh import MeshConfig
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.dry_run import describe_run
from lmjax.train.optimizers import Muon, ScheduleFree
from lmjax.train.trackers import WandB

MODEL = dataclasses.replace(tiny.MODEL, vocab_size=0)
CONFIG = RunConfig(
    name="tried",
    model=MODEL,
    tokenizer=TokenizerConfig(kind="bytes"),
    data=DataConfig(path="nowhere"),
    schedule=ScheduleConfig(kind="constant"),
    train=TrainConfig(steps=4, batch_size=4, sequence_length=16),
    mesh=MeshConfig(data=1),
)
RING = dataclasses.replace(MODEL, execution=ExecutionConfig(context="ring"))
FP8 = dataclasses.replace(MODEL, execution=ExecutionConfig(low_precision="fp8"))


def train(**changes) -> TrainConfig:
    return dataclasses.replace(CONFIG.train, **changes)


def changed(**changes) -> RunConfig:
    return dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": FP8}, "model.execution.low_precision='fp8' needs the package qwix"),
        ({"train": train(profile=(9, 12))}, r"train.profile=\(9, 12\): only 4 steps are left"),
        ({"tracker": WandB()}, "tracker=WandB needs the package wandb"),
        ({"objective": Contrastive(), "train": train(microbatches=2)}, "train.microbatches=2: Contrastive compares"),
        (
            {"objective": MaskedLM(), "model": dataclasses.replace(MODEL, positions="learned", max_length=8)},
            "train.sequence_length=16 is longer than the model's learned positions",
        ),
        ({"folder": "x" * 300}, "a run folder cannot be called"),
        ({"train": train(batch_size=3), "mesh": MeshConfig(fsdp=2)}, "train.batch_size=3 cannot be split over 2"),
        ({"mesh": MeshConfig(context=3)}, "train.sequence_length=16 cannot be split over mesh.context=3"),
        ({"model": RING}, "model.execution.context='ring' with mesh.context=1: no row is split"),
        (
            {"model": RING, "mesh": MeshConfig(context=16)},
            "train.sequence_length: rows of 16 tokens cannot be divided evenly .* mesh.context=16: .* multiple of 32",
        ),
        (
            {"model": RING, "mesh": MeshConfig(context=2), "train": train(sequence_warmup=((2, 2),))},
            "train.sequence_warmup: rows of 2 tokens cannot be divided",
        ),
        ({"mesh": MeshConfig(tensor=64)}, "model.num_heads="),
        ({"train": train(sequence_warmup=((2, 7),))}, r"train.sequence_warmup=\(\(2, 7\),\)"),
        ({"optimizer": ScheduleFree(), "schedule": ScheduleConfig()}, "schedule.kind='cosine': ScheduleFree averages"),
        ({"schedule": ScheduleConfig(kind="cosine", warmup_steps=9)}, "schedule.warmup_steps=9: the decay ends"),
        ({"optimizer": Muon(), "model": dataclasses.replace(MODEL, width_base=8)}, "optimizer=Muon: model.width"),
    ],
)
def test_it_refuses_what_no_data_can_mend(changes, message, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message):
        describe_run(changed(**changes))


def test_products_of_8_bits_are_refused_by_the_devices_that_would_train(monkeypatch):
    """A mesh that the devices here do not make is that of another machine, about which nothing is known."""
    a100 = types.SimpleNamespace(platform="gpu", device_kind="NVIDIA A100", compute_capability="8.0")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(jax, "devices", lambda: [a100] * 2)
    with pytest.raises(ValueError, match="low_precision='fp8': NVIDIA A100 has no such products"):
        describe_run(changed(model=FP8, mesh=MeshConfig(data=-1, fsdp=2)))
    assert "embedding" in describe_run(changed(model=FP8, mesh=MeshConfig(data=4)))


def test_no_device_is_opened_unless_the_answer_depends_on_it(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: pytest.fail("a device was opened"))
    assert "embedding" in describe_run(changed(mesh=MeshConfig(data=4)))
