"""Tokens to a fixed loss, with AdamW and with other optimizers, on a model of ten million parameters.

    python benchmarks/optimizers.py [--optimizers AdamW Muon --seeds 3 --steps 1000 --output curves.json]

Every optimizer first trains with the first seed at each of ``--learning-rates`` and keeps the best of them; then it
trains with the other seeds. The rate of Muon that is searched is that of hidden matrices; its other parameters are
AdamW's, at the rate that was the best for AdamW. The learning rate is constant after a warm-up, so that a loss does not
depend on where the run was to end.

The loss to reach is the highest of the last validation losses of AdamW's seeds, so that each of them reaches it.
Printed are the tokens that each run needed for it, read from its curve (linear between two validations), and the mean
of them over AdamW's. The text is the standard library's source code: nothing is downloaded, and data is prepared on
first use.
"""

import contextlib
import dataclasses
import json
import pathlib
import platform
import statistics
import tempfile

import jax
import tyro
from rich.console import Console
from rich.table import Table

from lmjax.analysis.picture import new_figure, save_picture, tidy
from lmjax.analysis.plots import COLOURS
from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.loop import train
from lmjax.train.metrics import read_metrics
from lmjax.train.optimizers import SOAP, AdamW, Lion, Muon, Optimizer, ScheduleFree

BASELINE = "AdamW"
OPTIMIZERS: dict[str, Optimizer] = {
    "AdamW": AdamW(),
    "Muon": Muon(),
    "NorMuon": Muon(normalize_neurons=True),
    "Muon, cautious decay": Muon(cautious_decay=True),
    "Lion": Lion(),
    "SOAP": SOAP(),
    "ScheduleFree": ScheduleFree(),
}
"""By the name that the table shows."""

Curve = list[tuple[int, float]]
"""Tokens and validation loss of each validation, in order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What to train, and for how long."""

    optimizers: tuple[str, ...] = ("AdamW", "Muon")
    """Names of the optimizers to compare; AdamW has to be among them."""
    learning_rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3, 8e-3)
    """Learning rates to choose from, for each optimizer by itself."""
    seeds: int = 3
    """Seeds of each optimizer at its best learning rate."""
    steps: int = 1000
    """Steps of each run."""
    batch_size: int = 16
    """Rows of a step."""
    sequence_length: int = 256
    """Tokens of a row."""
    eval_every: int = 25
    """Steps from one validation to the next."""
    eval_batches: int = 20
    """Batches of a validation."""
    width: int = 320
    """Width of the model."""
    layers: int = 6
    """Its layers."""
    vocabulary: int = 8192
    """Its vocabulary: with the defaults it has ten million parameters."""
    output: pathlib.Path | None = None
    """Where to write all curves as JSON."""
    picture: pathlib.Path | None = None
    """Where to draw them."""
    folder: pathlib.Path | None = None
    """Where to keep the runs: with the same folder, finished runs are read, and unfinished ones go on."""

    def __post_init__(self):
        unknown = [name for name in self.optimizers if name not in OPTIMIZERS]
        if unknown or BASELINE not in self.optimizers:
            raise SystemExit(f"--optimizers: {BASELINE} and any of {', '.join(OPTIMIZERS)}, not {unknown}")


def recipe(config: Config, optimizer: Optimizer, *, seed: int, folder: str) -> RunConfig:
    """The run of one optimizer and seed."""
    return RunConfig(
        name="optimizers",
        folder=folder,
        model=ModelConfig(
            width=config.width,
            num_layers=config.layers,
            num_heads=max(1, config.width // 64),
            execution=ExecutionConfig(scan_layers=False, remat="none"),
        ),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=config.vocabulary, max_train_bytes=8_000_000),
        data=DataConfig(path="stdlib", packing="windows"),
        optimizer=optimizer,
        schedule=ScheduleConfig(kind="constant", warmup_steps=min(100, config.steps // 10)),
        train=TrainConfig(
            steps=config.steps,
            batch_size=config.batch_size,
            sequence_length=config.sequence_length,
            eval_every=config.eval_every,
            eval_batches=config.eval_batches,
            seed=seed,
            tensorboard=False,
        ),
        checkpoint=CheckpointConfig(every_steps=config.steps),
    )


def curve(config: Config, optimizer: Optimizer, *, seed: int, folder: pathlib.Path) -> Curve:
    """The validation losses of a run from its beginning to its end."""
    train(recipe(config, optimizer, seed=seed, folder=str(folder)), say=lambda line: None)
    lines = read_metrics(folder)
    if lines[-1]["step"] < config.steps:
        raise SystemExit(f"stopped at step {lines[-1]['step']:g} of {folder}")
    tokens = config.batch_size * config.sequence_length
    return [(round(line["step"]) * tokens, line["valid/loss"]) for line in lines if "valid/loss" in line]


def tokens_to(curve: Curve, target: float) -> float | None:
    """Tokens at which a curve first reaches a loss, linear between two validations; None if it never does."""
    before: tuple[float, float] | None = None
    for tokens, loss in curve:
        if loss <= target:
            if before is None:
                return float(tokens)
            share = (before[1] - target) / (before[1] - loss)
            return before[0] + share * (tokens - before[0])
        before = tokens, loss
    return None


def curves_of(
    config: Config, name: str, folder: pathlib.Path, console: Console, *, adamw_rate: float | None
) -> tuple[float, list[Curve]]:
    """The learning rate that ends lowest with the first seed, and the curves of all seeds at that rate.

    Args:
      config: what to train.
      name: the optimizer.
      folder: where to keep its runs.
      console: where to print how each run ends.
      adamw_rate: the learning rate of the parameters that Muon leaves to AdamW; None for the searched one.
    """

    def of_run(rate: float, seed: int) -> Curve:
        optimizer = dataclasses.replace(OPTIMIZERS[name], learning_rate=rate)
        if isinstance(optimizer, Muon):
            optimizer = dataclasses.replace(optimizer, adamw_learning_rate=adamw_rate)
        found = curve(config, optimizer, seed=seed, folder=folder / f"{name}-{rate:g}-{seed}")
        console.print(f"{name}, learning rate {rate:g}, seed {seed}: {found[-1][1]:.4f} at the end")
        return found

    first = {rate: of_run(rate, 0) for rate in config.learning_rates}
    best = min(first, key=lambda rate: first[rate][-1][1])
    return best, [first[best], *(of_run(best, seed) for seed in range(1, config.seeds))]


def main(config: Config) -> None:
    """Trains all of them and prints the table."""
    console = Console(width=120)
    with contextlib.ExitStack() as stack:
        folder = config.folder or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = {BASELINE: curves_of(config, BASELINE, folder, console, adamw_rate=None)}
        for name in config.optimizers:
            if name != BASELINE:
                found[name] = curves_of(config, name, folder, console, adamw_rate=found[BASELINE][0])
    target = max(curve[-1][1] for curve in found[BASELINE][1])
    needed = {name: [tokens_to(curve, target) for curve in curves] for name, (_, curves) in found.items()}
    base = _mean(needed[BASELINE])
    console.print(f"tokens to a validation loss of {target:.4f}")
    table = Table("optimizer", "learning rate", "last losses", "tokens", "of AdamW's")
    for name, (rate, curves) in found.items():
        tokens = _mean(needed[name])
        table.add_row(
            name,
            f"{rate:g}",
            " ".join(f"{curve[-1][1]:.4f}" for curve in curves),
            " ".join("never" if value is None else f"{value:,.0f}" for value in needed[name]),
            "-" if tokens is None or base is None else f"{tokens / base:.2f}",
        )
    console.print(table)
    device = jax.devices()[0].device_kind
    console.print(f"jax {jax.__version__} on {device}, {platform.processor() or platform.machine()}")
    if config.output is not None:
        content = {name: {"learning_rate": rate, "curves": curves} for name, (rate, curves) in found.items()}
        config.output.write_text(json.dumps({"target": target, "optimizers": content}, indent=1) + "\n")
    if config.picture is not None:
        draw(found, target, config.picture)


def draw(found: dict[str, tuple[float, list[Curve]]], target: float, output: pathlib.Path) -> None:
    """Draws the validation losses of all seeds, a colour for each optimizer, and the loss to reach."""
    figure = new_figure(figsize=(7, 4), dpi=110)
    axes = figure.add_subplot()
    for colour, (name, (rate, curves)) in zip(COLOURS, found.items(), strict=False):
        for seed, one in enumerate(curves):
            tokens, losses = zip(*one, strict=True)
            label = f"{name}, learning rate {rate:g}" if seed == 0 else None
            axes.plot([count / 1000 for count in tokens], losses, color=colour, linewidth=1.3, label=label)
    axes.axhline(target, color="black", linewidth=0.8, linestyle=":", label=f"the loss to reach, {target:.3f}")
    axes.set(xlabel="thousand tokens", ylabel="validation loss (nats per token)")
    axes.legend(frameon=False)
    tidy(axes)
    save_picture(figure, output)


def _mean(values: list[float | None]) -> float | None:
    """The mean over the seeds; None where one of them never reached the loss."""
    reached = [value for value in values if value is not None]
    return statistics.mean(reached) if len(reached) == len(values) else None


if __name__ == "__main__":
    main(tyro.cli(Config))
