"""Loss curves of training with products of 8 bits beside bfloat16, on a small model.

    pip install -e '.[low-precision]'
    python benchmarks/low_precision.py [--steps 2000] [--folder runs/low_precision]
    lmjax plot runs/low_precision/* --output low_precision.png

A CPU computes such products as a GPU (fp8) or a TPU (int8) does, but slowly; so this tells what they do to the loss,
and nothing about speed. All runs have the same weights at first, the same text and the same order of it. float32 is
there to tell how far any other rounding leads away.

Printed are losses over those of bfloat16: of training, the mean over each tenth of the steps, which are the same rows
in all runs; and of the validation at the end, on 10,000 tokens. The goal is at most 1.01 in each tenth but the first.
"""

import dataclasses
import json
import pathlib
import statistics
from typing import Literal

import jax
import tyro
from machine import described

from lmjax.data.config import DataConfig
from lmjax.kernels.low_precision import LowPrecision
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.loop import train
from lmjax.train.metrics import read_metrics
from lmjax.train.optimizers import AdamW

GOAL = 1.01
BASE = "bfloat16"
KINDS: dict[str, tuple[Literal["float32", "bfloat16"], LowPrecision]] = {
    BASE: ("bfloat16", "none"),
    "float32": ("float32", "none"),
    "fp8": ("bfloat16", "fp8"),
    "int8": ("bfloat16", "int8"),
}
"""Of each run, `model.execution.dtype` and `low_precision`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What to train."""

    steps: int = 2000
    """Steps of each run."""
    width: int = 64
    """Width of the model."""
    layers: int = 2
    """Its layers."""
    batch_size: int = 8
    """Rows of a step."""
    sequence_length: int = 64
    """Tokens of a row, which are bytes."""
    folder: pathlib.Path = pathlib.Path("runs/low_precision")
    """Where the runs are left."""


def recipe(config: Config, kind: str) -> RunConfig:
    """The run with one kind of products."""
    dtype, low_precision = KINDS[kind]
    return RunConfig(
        name="low_precision",
        folder=str(config.folder / kind),
        model=ModelConfig(
            width=config.width,
            num_layers=config.layers,
            num_heads=2,
            execution=ExecutionConfig(dtype=dtype, scan_layers=False, remat="none", low_precision=low_precision),
        ),
        tokenizer=TokenizerConfig(kind="bytes"),
        data=DataConfig(path="stdlib", packing="windows"),
        optimizer=AdamW(learning_rate=3e-3),
        schedule=ScheduleConfig(kind="cosine", warmup_steps=min(100, config.steps // 10)),
        train=TrainConfig(
            steps=config.steps,
            batch_size=config.batch_size,
            sequence_length=config.sequence_length,
            eval_every=max(config.steps // 20, 1),
            eval_batches=20,
            tensorboard=False,
        ),
        checkpoint=CheckpointConfig(every_steps=config.steps),
    )


def curve(folder: str | pathlib.Path, name: str) -> dict[int, float]:
    """A loss of a run, by step."""
    return {round(line["step"]): line[name] for line in read_metrics(folder) if name in line}


def tenths(losses: dict[int, float], steps: int) -> list[float]:
    """The mean loss of each tenth of the steps."""
    parts: list[list[float]] = [[] for _ in range(10)]
    for step, loss in losses.items():
        parts[(step - 1) * 10 // steps].append(loss)
    return [statistics.mean(part) for part in parts]


def main(config: Config) -> None:
    """Trains all runs, and prints their losses over those of bfloat16."""
    curves: dict[str, dict[int, float]] = {}
    base: list[float] = []
    valid: float | None = None
    for kind in KINDS:
        run = recipe(config, kind)
        train(run, say=lambda line: None)
        curves[kind] = curve(run.run_folder, "train/loss")
        losses, last_valid = tenths(curves[kind], config.steps), curve(run.run_folder, "valid/loss")[config.steps]
        base, valid = base or losses, valid or last_valid
        ratios = [loss / reference for loss, reference in zip(losses, base, strict=True)]
        verdict = "" if max(ratios[1:]) <= GOAL else f"   more than {GOAL:g}"
        print(
            f"{kind:<9} training loss {losses[-1]:.4f} in the last tenth, {ratios[-1]:.4f} of bfloat16's "
            f"(at worst {max(ratios[1:]):.4f}); validation {last_valid:.4f}, {last_valid / valid:.4f}{verdict}",
            flush=True,
        )
    (config.folder / "curves.json").write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")
    print(f"{config.steps} steps, jax {jax.__version__}; {described()}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
