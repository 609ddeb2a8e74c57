"""Pictures of runs: ``loss.png`` from ``metrics.jsonl``."""

import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmjax.train.metrics import read_metrics

Lines = Sequence[dict[str, float]]

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def column(lines: Lines, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one number, float64 [n] both, without the steps that lack it."""
    pairs = [(line["step"], line[name]) for line in lines if name in line]
    steps_values = np.asarray(pairs, np.float64).reshape(-1, 2)
    return steps_values[:, 0], steps_values[:, 1]


def smooth(values: np.ndarray, span: float) -> np.ndarray:
    """Exponential moving average with ``alpha = 2 / (span + 1)``, unbiased at the start.

    ``average_t = sum_i (1 - alpha)^i v_{t-i} / sum_i (1 - alpha)^i``; values that are not finite
    are left out of the sums.

    Args:
      values: float [n].
      span: about how many values count; 1 changes nothing.
    """
    keep = 1 - 2 / (span + 1)
    total = weight = 0.0
    averages = np.full(len(values), math.nan)
    for index, value in enumerate(values):
        finite = math.isfinite(value)
        total = keep * total + (value if finite else 0.0)
        weight = keep * weight + (1.0 if finite else 0.0)
        averages[index] = total / weight if weight > 0 else math.nan
    return averages


def plot_loss(
    run_folders: Sequence[str | os.PathLike], output: str | os.PathLike, *, span: float | None = None
) -> pathlib.Path:
    """Draws training loss (raw and smoothed), validation loss and learning rate over steps.

    Several runs share the axes, a colour each.

    Args:
      run_folders: folders with a ``metrics.jsonl``.
      output: the image to write; the ending decides the format.
      span: values the smoothing averages over; a thirtieth of the run unless given.

    Returns:
      The path written.

    Raises:
      ValueError: no run has a ``train/loss`` or ``valid/loss``, or matplotlib is not installed.
      FileNotFoundError: a folder has no ``metrics.jsonl``.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError('plots need matplotlib: pip install "lmjax[plot]"') from error
    runs = {pathlib.Path(folder): read_metrics(folder) for folder in run_folders}
    every_line = [line for lines in runs.values() for line in lines]
    if not any("train/loss" in line or "valid/loss" in line for line in every_line):
        raise ValueError(f"nothing to plot: no loss in {', '.join(map(str, runs)) or 'no run'}")

    figure = Figure(figsize=(9, 6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    loss_axes, rate_axes = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    for index, (folder, lines) in enumerate(runs.items()):
        colour = COLOURS[index % len(COLOURS)]
        name = folder.resolve().name if len(runs) > 1 else ""
        _draw_losses(loss_axes, lines, colour=colour, name=name, span=span)
        rate_axes.plot(*column(lines, "learning_rate"), color=colour, linewidth=1.5)
    _frame(loss_axes, every_line)
    if len(runs) == 1:
        loss_axes.set_title(next(iter(runs)).resolve().name)
    rate_axes.set_ylabel("learning rate")
    rate_axes.set_xlabel("step")
    rate_axes.set_ylim(bottom=0)
    rate_axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    _style(rate_axes)
    output = pathlib.Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    # Under another name first: whoever looks meanwhile, or after a kill, finds a whole picture.
    unfinished = output.with_name(f".{output.stem}.unfinished{output.suffix}")
    try:
        figure.savefig(unfinished, format=output.suffix.removeprefix(".") or "png")
        unfinished.replace(output)
    finally:
        unfinished.unlink(missing_ok=True)
    return output


def _draw_losses(axes: Any, lines: Lines, *, colour: str, name: str, span: float | None) -> None:
    steps, losses = column(lines, "train/loss")
    prefix = f"{name}: " if name else ""
    if len(steps):
        span = max(1.0, len(steps) / 30) if span is None else span
        axes.plot(steps, losses, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(steps, smooth(losses, span), color=colour, linewidth=1.8, label=f"{prefix}training")
    steps, losses = column(lines, "valid/loss")
    if len(steps):
        last = losses[-1]
        axes.plot(
            steps,
            losses,
            color=colour if name else COLOURS[1],
            linestyle="--",
            linewidth=1,
            marker="o",
            markersize=4.5,
            markeredgecolor="white",
            markeredgewidth=0.8,
            label=f"{prefix}validation (last {last:.3f})",
        )


def _frame(axes: Any, lines: Lines) -> None:
    """Leaves the first steep fall, and outliers, to run off the top where they would flatten the rest."""
    losses = np.concatenate([column(lines, "train/loss")[1], column(lines, "valid/loss")[1]])
    losses = losses[np.isfinite(losses)]
    if len(losses) > 50:
        low, high = losses.min(), np.quantile(losses, 0.985)
        margin = 0.05 * (high - low) or 0.1
        axes.set_ylim(low - margin, high + margin)
    axes.set_ylabel("loss (nats per token)")
    axes.legend(frameon=False)
    _style(axes)


def _style(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
