"""A whole run on a tiny corpus, which several files of tests start, stop, change and go on with."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator
from unittest import mock

import jax
import numpy as np
import tiny

from lmjax.data.config import DataConfig
from lmjax.objectives import CausalLM, MaskedLM
from lmjax.parallel.mesh import MeshConfig
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.metrics import read_metrics
from lmjax.train.optimizers import AdamW


def write_corpus(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    words = np.array(["alpha", "beta", "gamma", "delta", "epsilon", "zeta"])
    for number in range(12):
        (folder / f"{number:02d}.txt").write_text(" ".join(rng.choice(words, 60)))
    return folder


def config(folder: pathlib.Path, *, objective_name: str = "MaskedLM", **changes) -> RunConfig:
    """A run with everything that is random: corruption, dropout, packing, a moving average."""
    objective = MaskedLM() if objective_name == "MaskedLM" else CausalLM()
    options = {
        "name": "tiny",
        "folder": str(folder / "run"),
        "objective": objective,
        "model": dataclasses.replace(tiny.MODEL, vocab_size=0, pad_vocab_to=1, dropout=0.1),
        "tokenizer": TokenizerConfig(kind="bytes"),
        "data": DataConfig(
            path=str(folder / "text"),
            prepared=str(folder / "data"),
            packing="best_fit",
            valid_fraction=0.2,
        ),
        "optimizer": AdamW(learning_rate=1e-2),
        "schedule": ScheduleConfig(kind="constant"),
        "train": TrainConfig(
            steps=24, batch_size=8, sequence_length=32, log_every=1, eval_every=8, eval_batches=2, ema_decay=0.9,
            tensorboard=False,
        ),
        "mesh": MeshConfig(data=1),
        "checkpoint": CheckpointConfig(every_steps=5),
    }  # fmt: skip
    return RunConfig(**{**options, **changes})


def with_train(base: RunConfig, **changes) -> RunConfig:
    return dataclasses.replace(base, train=dataclasses.replace(base.train, **changes))


def numbers(folder: pathlib.Path) -> list[tuple]:
    """What must repeat to the last bit: step, losses, gradient norm of every line."""
    names = ("step", "train/loss", "grad_norm", "valid/loss")
    return [tuple(line.get(name) for name in names) for line in read_metrics(folder)]


@contextlib.contextmanager
def on_one_device() -> Iterator[None]:
    """Lets runs see one device: eight would only cost time."""
    devices = jax.devices()[:1]
    with mock.patch.object(jax, "devices", lambda *_: devices):
        yield
