"""Loss curves of training with products of 8 bits beside bfloat16, on a small model.

    pip install -e '.[low-precision]'
    python benchmarks/low_precision.py [--steps 2000] [--folder runs/low_precision]
    lmjax plot runs/low_precision/* --output low_precision.png

A CPU computes such products as a GPU (fp8) or a TPU (int8) does, but slowly; so this tells what they do to the loss,
and nothing about speed. All runs have the same weights at first, the same text and the same order of it. Printed are
the validation losses over those of bfloat16, at the end and at worst after the first tenth; the goal is at most 1.01.
"""

import dataclasses
import json
import pathlib
from typing import get_args

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
BASE = "none"


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


def recipe(config: Config, kind: LowPrecision) -> RunConfig:
    """The run with one kind of products."""
    return RunConfig(
        name="low_precision",
        folder=str(config.folder / ("bfloat16" if kind == BASE else kind)),
        model=ModelConfig(
            width=config.width,
            num_layers=config.layers,
            num_heads=2,
            execution=ExecutionConfig(dtype="bfloat16", scan_layers=False, remat="none", low_precision=kind),
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


def curve(folder: str) -> dict[int, float]:
    """The validation losses of a run, by step."""
    return {round(line["step"]): line["valid/loss"] for line in read_metrics(folder) if "valid/loss" in line}


def main(config: Config) -> None:
    """Trains all runs, and prints their losses over those of bfloat16."""
    curves: dict[str, dict[int, float]] = {}
    for kind in get_args(LowPrecision):
        run = recipe(config, kind)
        train(run, say=lambda line: None)
        curves[kind] = curve(run.run_folder)
        ratios = {step: loss / curves[BASE][step] for step, loss in curves[kind].items()}
        worst = max(ratio for step, ratio in ratios.items() if step >= config.steps / 10)
        verdict = "" if max(worst, ratios[config.steps]) <= GOAL else f"   more than {GOAL:g}"
        print(
            f"{kind:<5} loss {curves[kind][config.steps]:.4f}, {ratios[config.steps]:.4f} of bfloat16's at the end, "
            f"{worst:.4f} at worst{verdict}",
            flush=True,
        )
    (config.folder / "curves.json").write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")
    print(f"{config.steps} steps, jax {jax.__version__}; {described()}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
