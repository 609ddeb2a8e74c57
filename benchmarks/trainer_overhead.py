"""What the trainer costs: the time of a step in the training loop over that of the bare jitted step.

    python benchmarks/trainer_overhead.py [--blocks 7] [--steps 100]

One run is trained without checkpoints, and one with an asynchronous checkpoint in the middle of each block. Both are
whole runs of `lmjax.train.loop.train`: data, metrics, TensorBoard, watchdog. Between two blocks of steps the loop is
held up, and the same compiled step runs as often on rows that lie on the device, with a state of its own; so whatever
else the machine does falls on both alike. A ratio is the median over the blocks of the ratio within a block. Goals: at
most 1.02, and 1.03 with checkpoints.

With checkpoints both the loop and, should a save last longer than half a block, the bare steps compete with its
threads; `--steps` has to be so large that it does not.
"""

import contextlib
import dataclasses
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np
import tyro
from machine import described

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train import loop
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW
from lmjax.train.plan import Plan, make_plan
from lmjax.types import Rows

GOALS = {"no checkpoints": 1.02, "checkpoints": 1.03}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    blocks: int = 7
    """Blocks of steps in the loop, and as many of bare steps."""
    steps: int = 100
    """Steps of a block."""
    width: int = 256
    """Width of the model."""
    layers: int = 4
    """Its layers."""
    batch_size: int = 16
    """Rows of a step."""
    sequence_length: int = 256
    """Tokens of a row."""


def recipe(config: Config, folder: pathlib.Path, *, checkpoints: bool) -> RunConfig:
    """The run: one block more than is measured, in which everything is compiled."""
    # A save falls in the middle of each block; without checkpoints there is only the one at the end.
    steps = (config.blocks + 1) * config.steps + config.steps // 2
    return RunConfig(
        name="trainer_overhead",
        folder=str(folder / ("checkpoints" if checkpoints else "plain")),
        model=ModelConfig(
            width=config.width,
            num_layers=config.layers,
            num_heads=4,
            execution=ExecutionConfig(scan_layers=False, remat="none"),
        ),
        tokenizer=TokenizerConfig(kind="bytes"),
        data=DataConfig(path=str(folder / "text.txt"), prepared=str(folder / "data"), valid_fraction=0.0),
        optimizer=AdamW(learning_rate=1e-3),
        schedule=ScheduleConfig(kind="constant"),
        train=TrainConfig(steps=steps, batch_size=config.batch_size, sequence_length=config.sequence_length),
        checkpoint=CheckpointConfig(every_steps=config.steps if checkpoints else steps),
    )


class Blocks:
    """Stands between the loop and its rows: at the end of each block it measures the bare steps.

    Args:
      plan: the plan of the run, whose learner is made to keep what its last step returned.
      steps: steps of a block.

    Attributes:
      of_loop, of_bare: seconds of each block of the loop, and of the bare steps after it.
    """

    def __init__(self, plan: Plan, steps: int):
        self.of_loop: list[float] = []
        self.of_bare: list[float] = []
        self._plan, self._steps = plan, steps
        self._step: Callable = plan.learner.train_step
        self._last: Any = None
        # The step is compiled once and kept by the learner; it is the same for both.
        plan.learner.__dict__["train_step"] = self._remembered

    def _remembered(self, state: Any, rows: Rows) -> Any:
        result = self._step(state, rows)
        self._last = result[1]
        return result

    def between(self, batches: Generator[Rows]) -> Generator[Rows]:
        """Yields the batches; blocks end in the middle between two saves."""
        began, count, state = None, 0, None
        first = self._steps // 2
        for number, rows in enumerate(batches):
            if number % self._steps == first:
                jax.block_until_ready(self._last)
                if began is not None:
                    self.of_loop.append(time.perf_counter() - began)
                state, seconds = self._bare(state, rows)
                self.of_bare += [seconds] if began is not None else []
                count += 1
                began = time.perf_counter()
            yield rows

    def _bare(self, state: Any, rows: Rows) -> tuple[Any, float]:
        """Runs a block of bare steps; the first block compiles nothing, as the loop has."""
        state = self._plan.learner.init(0) if state is None else state
        rows = jax.device_put(jax.tree.map(np.asarray, rows), self._plan.learner.row_sharding)
        state, metrics = self._step(state, rows)
        jax.block_until_ready(metrics)
        begin = time.perf_counter()
        for _ in range(self._steps):
            state, metrics = self._step(state, rows)
        jax.block_until_ready((jax.tree.leaves(state)[0], metrics))
        return state, time.perf_counter() - begin


def measure(config: Config, folder: pathlib.Path, *, checkpoints: bool) -> Blocks:
    """Trains a run and returns what its blocks took."""
    found: list[Blocks] = []

    def plan_with_blocks(run: RunConfig, **options: Any) -> Plan:
        plan = make_plan(run, **options)
        blocks = Blocks(plan, config.steps)
        found.append(blocks)
        original = plan.batches
        object.__setattr__(plan, "batches", lambda *args, **kwargs: blocks.between(original(*args, **kwargs)))
        return plan

    loop.make_plan = plan_with_blocks
    try:
        # To the run, the bare steps are a long wait for its rows, of which it would warn.
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            loop.train(recipe(config, folder, checkpoints=checkpoints), say=lambda line: None)
    finally:
        loop.make_plan = make_plan
    return found[0]


def main(config: Config) -> None:
    """Measures both runs and prints the ratios."""
    print(described())
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        letters = np.random.default_rng(0).choice(list("abcdefghij klmnop\n"), 400_000)
        (folder / "text.txt").write_text("".join(letters), encoding="utf-8")
        for name, checkpoints in (("no checkpoints", False), ("checkpoints", True)):
            blocks = measure(config, folder, checkpoints=checkpoints)
            of_loop, of_bare = (statistics.median(values) / config.steps for values in (blocks.of_loop, blocks.of_bare))
            ratio = statistics.median(a / b for a, b in zip(blocks.of_loop, blocks.of_bare, strict=True))
            verdict = "" if ratio <= GOALS[name] else f"   more than {GOALS[name]:g}"
            print(
                f"{name:<16} {1e3 * of_loop:8.2f} ms a step in the loop, {1e3 * of_bare:8.2f} ms bare, "
                f"ratio {ratio:.3f}{verdict}"
            )
    print(
        f"{len(blocks.of_loop)} blocks of {config.steps} steps, jax {jax.__version__} on {jax.devices()[0].device_kind}"
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
