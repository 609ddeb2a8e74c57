"""What the trainer costs: the time of a step in the training loop over that of the bare jitted step.

    python benchmarks/trainer_overhead.py [--blocks 40] [--steps 10] [--save-every 200]

One run is trained without checkpoints, and one with an asynchronous checkpoint in the middle of each block. Both are
whole runs of `lmjax.train.loop.train`: data, metrics, TensorBoard, watchdog. Between two blocks of steps the loop is
held up, and the same compiled step runs as often on rows that lie on the device, with a state of its own. The time of a
block of the loop is divided by the mean of the bare blocks before and after it, so that a machine that becomes slower
or faster changes both alike; printed are the median of these ratios and their quartiles. Goals: at most 1.02, and 1.03
with checkpoints. As `lmjax train` does, it runs with glibc's settings for large blocks on a CPU.

A block without checkpoints is short, since the speed of a shared machine changes within seconds. A block with one has
`--save-every` steps, as many as between two saves of most recipes: the share of a save depends on how often there is
one. They have to be so many that the save ends within the block, or the bare steps compete with its threads.
"""

import contextlib
import dataclasses
import itertools
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

from lmjax.cli.allocator import begin_again_with_large_blocks
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    blocks: int = 40
    """Blocks of steps in the loop without checkpoints; as many of bare steps are between them."""
    steps: int = 10
    """Steps of such a block."""
    save_every: int = 200
    """Steps of a block with a checkpoint in its middle."""
    saves: int = 4
    """Blocks with checkpoints; 0 leaves out that part."""
    width: int = 256
    """Width of the model."""
    layers: int = 4
    """Its layers."""
    batch_size: int = 16
    """Rows of a step."""
    sequence_length: int = 256
    """Tokens of a row."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A run to measure.

    Attributes:
      name: what the line of its figures begins with.
      blocks: blocks of the loop that are measured.
      steps: steps of a block.
      checkpoints: whether each block has a checkpoint in its middle.
      goal: the highest ratio that is meant to be.
    """

    name: str
    blocks: int
    steps: int
    checkpoints: bool
    goal: float


def recipe(config: Config, part: Part, folder: pathlib.Path) -> RunConfig:
    """The run: one block more than is measured, in which everything is compiled."""
    # A save falls in the middle of each block; without checkpoints there is only the one at the end.
    steps = (part.blocks + 1) * part.steps + part.steps // 2
    return RunConfig(
        name="trainer_overhead",
        folder=str(folder / ("checkpoints" if part.checkpoints else "plain")),
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
        checkpoint=CheckpointConfig(every_steps=part.steps if part.checkpoints else steps),
    )


class Blocks:
    """Stands between the loop and its rows: at the end of each block it measures the bare steps.

    Args:
      plan: the plan of the run, whose learner is made to keep what its last step returned.
      steps: steps of a block.

    Attributes:
      of_loop: seconds of each block of the loop.
      of_bare: seconds of the bare steps before the first of these blocks and after each of them.
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
        """Yields the batches; a block begins and ends in the middle between two saves."""
        began, state = None, None
        for number, rows in enumerate(batches):
            if number % self._steps == self._steps // 2:
                jax.block_until_ready(self._last)
                if began is not None:
                    self.of_loop.append(time.perf_counter() - began)
                state, seconds = self._bare(state, rows)
                self.of_bare.append(seconds)
                began = time.perf_counter()
            yield rows

    def ratios(self) -> list[float]:
        """Returns for each block of the loop its time over that of the bare steps before and after it."""
        neighbours = map(statistics.mean, itertools.pairwise(self.of_bare))
        return [seconds / bare for seconds, bare in zip(self.of_loop, neighbours, strict=True)]

    def _bare(self, state: Any, rows: Rows) -> tuple[Any, float]:
        """Runs a block of bare steps, of a program that the loop has compiled, and returns its seconds."""
        state = self._plan.learner.init(0) if state is None else state
        rows = jax.device_put(jax.tree.map(np.asarray, rows), self._plan.learner.row_sharding)
        state, metrics = self._step(state, rows)
        jax.block_until_ready(metrics)
        begin = time.perf_counter()
        for _ in range(self._steps):
            state, metrics = self._step(state, rows)
        jax.block_until_ready((jax.tree.leaves(state)[0], metrics))
        return state, time.perf_counter() - begin


def measure(config: Config, part: Part, folder: pathlib.Path) -> Blocks:
    """Trains a run and returns what its blocks took."""
    found: list[Blocks] = []

    def plan_with_blocks(run: RunConfig, **options: Any) -> Plan:
        plan = make_plan(run, **options)
        blocks = Blocks(plan, part.steps)
        found.append(blocks)
        original = plan.batches
        object.__setattr__(plan, "batches", lambda *args, **kwargs: blocks.between(original(*args, **kwargs)))
        return plan

    loop.make_plan = plan_with_blocks
    try:
        # To the run, the bare steps are a long wait for its rows, of which it would warn.
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            loop.train(recipe(config, part, folder), say=lambda line: None)
    finally:
        loop.make_plan = make_plan
    return found[0]


def report(part: Part, blocks: Blocks) -> str:
    """Returns the line of a part's figures."""
    of_loop, of_bare = (1e3 * statistics.median(times) / part.steps for times in (blocks.of_loop, blocks.of_bare))
    low, ratio, high = statistics.quantiles(blocks.ratios(), n=4)
    verdict = "" if ratio <= part.goal else f"   more than {part.goal:g}"
    return (
        f"{part.name:<16} {of_loop:8.2f} ms a step in the loop, {of_bare:8.2f} ms bare; {part.blocks} blocks of "
        f"{part.steps} steps, ratio {ratio:.3f} (quartiles {low:.3f} to {high:.3f}){verdict}"
    )


def main(config: Config) -> None:
    """Measures both runs and prints the ratios."""
    begin_again_with_large_blocks()
    print(described())
    parts = [Part(name="no checkpoints", blocks=config.blocks, steps=config.steps, checkpoints=False, goal=1.02)]
    if config.saves:
        parts.append(
            Part(name="checkpoints", blocks=config.saves, steps=config.save_every, checkpoints=True, goal=1.03)
        )
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        letters = np.random.default_rng(0).choice(list("abcdefghij klmnop\n"), 400_000)
        (folder / "text.txt").write_text("".join(letters), encoding="utf-8")
        for part in parts:
            print(report(part, measure(config, part, folder)), flush=True)
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
