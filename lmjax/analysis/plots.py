"""Draws pictures of runs: ``loss.png`` from ``metrics.jsonl``."""

import contextlib
import math
import os
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lmjax.analysis.picture import new_figure, save_picture, tidy
from lmjax.train.metrics import read_metrics

Lines = Sequence[dict[str, float]]

# This is Okabe and Ito's palette, whose colours colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def column(lines: Lines, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the steps that have one number, and its values, both float64 [n]; a value that is not finite is NaN."""
    pairs = [(line["step"], line[name]) for line in lines if isinstance(line.get(name), int | float)]
    steps_values = np.asarray(pairs, np.float64).reshape(-1, 2)
    steps, values = steps_values[:, 0], steps_values[:, 1]
    return steps, np.where(np.isfinite(values), values, math.nan)


def smooth(values: np.ndarray, span: float) -> np.ndarray:
    """Returns the exponential moving average with ``alpha = 2 / (span + 1)``, unbiased at the start, float [n].

    ``average_t = sum_i (1 - alpha)^i v_{t-i} / sum_i (1 - alpha)^i``; values that are not finite
    are left out of the sums.

    Args:
      values: float [n].
      span: about the number of values that each average uses; 1 changes nothing.
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


class LossName(NamedTuple):
    """A loss of a run: its name among the metrics, its name in the legend, and its part of the mixture."""

    metric: str
    label: str
    part: str


def loss_curves(lines: Lines, split: str, label: str) -> list[LossName]:
    """Returns the losses of a split: the one of the whole split, or one for each part of a mixture trained by turns."""
    if any(f"{split}/loss" in line for line in lines):
        return [LossName(f"{split}/loss", label, "")]
    names = {name: None for line in lines for name in line if name.startswith(f"{split}/") and name.endswith("/loss")}
    parts = [name.removeprefix(f"{split}/").removesuffix("/loss") for name in names]
    return [LossName(name, f"{label}, {part}", part) for name, part in zip(names, parts, strict=True)]


def run_names(folders: Sequence[pathlib.Path]) -> list[str]:
    """Returns the shortest ends of the folders' paths that tell them apart: ``run``, or ``a/run`` and ``b/run``."""
    parts = [folder.resolve().parts for folder in folders]
    lengths = [1] * len(parts)
    while True:
        names = ["/".join(part[-length:]) for part, length in zip(parts, lengths, strict=True)]
        alike = [
            index for index, name in enumerate(names) if names.count(name) > 1 and lengths[index] < len(parts[index])
        ]
        if not alike:
            return names
        for index in alike:
            lengths[index] += 1


def plot_loss(
    run_folders: Sequence[str | os.PathLike], output: str | os.PathLike, *, span: float | None = None
) -> pathlib.Path:
    """Draws training loss (raw and smoothed), validation loss and learning rate over steps.

    Several runs share the axes, and each has its own colour. A run that trains one part of a mixture at each step has
    a curve for each part.

    Args:
      run_folders: folders with a ``metrics.jsonl``.
      output: the image to write; the ending decides the format.
      span: number of values to average over when smoothing; a thirtieth of the run unless given.

    Returns:
      The path of the file written.

    Raises:
      ValueError: no run has a loss, matplotlib is not installed, or such a file cannot exist.
      FileNotFoundError: a folder has no ``metrics.jsonl``.
    """
    figure = new_figure(figsize=(9, 6), dpi=130)
    folders = list({path.resolve(): path for path in map(pathlib.Path, run_folders)}.values())
    runs = dict(zip(run_names(folders), map(read_metrics, folders), strict=True))
    if not any(loss_curves(lines, split, "") for lines in runs.values() for split in ("train", "valid")):
        raise ValueError(f"nothing to plot: no loss in {', '.join(map(str, folders)) or 'no run'}")
    loss_axes, rate_axes = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    drawn: list[np.ndarray] = []
    labels: list[str] = []
    for index, (name, lines) in enumerate(runs.items()):
        colour = _colour(index, len(runs))
        drawn += _draw_losses(loss_axes, lines, labels, colour=colour, name=name if len(runs) > 1 else "", span=span)
        _line(rate_axes, *column(lines, "learning_rate"), color=colour, linewidth=1.5)
    _frame(loss_axes, np.concatenate(drawn))
    _legend(figure, loss_axes, labels)
    if len(runs) == 1:
        loss_axes.set_title(shown(next(iter(runs)), 90), parse_math=False)
    rate_axes.set_ylabel("learning rate")
    rate_axes.set_xlabel("step")
    rate_axes.set_ylim(bottom=0)
    rate_axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    tidy(rate_axes)
    with _without_glyph_warnings():
        return save_picture(figure, output)


def _colour(index: int, number: int) -> Any:
    """Returns a run's colour: one of the palette, or, if it has too few, one from red through green to blue."""
    from matplotlib import colormaps

    return COLOURS[index] if number <= len(COLOURS) else colormaps["turbo"](0.05 + 0.9 * index / (number - 1))


def _draw_losses(
    axes: Any, lines: Lines, labels: list[str], *, colour: Any, name: str, span: float | None
) -> list[np.ndarray]:
    """Draws a run's losses, adds their labels to ``labels``, and returns them."""
    training, validation = loss_curves(lines, "train", "training"), loss_curves(lines, "valid", "validation")
    prefix = f"{shown(name, 48)}: " if name else ""
    # With one run, colours tell its parts apart. With several runs, colours tell the runs apart, and dashes the parts.
    parts = list(dict.fromkeys(curve.part for curve in training))
    styles = ("-", (0, (6, 1.5)), (0, (3, 1.5, 1, 1.5)), (0, (1, 1)))
    losses = []
    for curve in training:
        steps, values = column(lines, curve.metric)
        number = parts.index(curve.part)
        own = colour if name else COLOURS[number % len(COLOURS)]
        width = max(1.0, len(steps) / 30) if span is None else span
        _line(axes, steps, values, color=own, alpha=0.25, linewidth=0.8)
        style = styles[number % len(styles)] if name else "-"
        _line(axes, steps, smooth(values, width), color=own, linewidth=1.8, linestyle=style, label="drawn")
        labels.append(f"{prefix}{curve.label}")
        losses.append(values)
    for number, curve in enumerate(validation):
        steps, values = column(lines, curve.metric)
        own = parts.index(curve.part) if curve.part in parts and curve.part else len(parts) + number
        axes.plot(
            steps,
            values,
            color=colour if name else COLOURS[own % len(COLOURS)],
            linestyle="--",
            linewidth=1,
            marker="o",
            markersize=4.5,
            markeredgecolor="white",
            markeredgewidth=0.8,
            label="drawn",
        )
        last = values[np.isfinite(values)]
        labels.append(f"{prefix}{curve.label} (last {last[-1]:.3f})" if len(last) else f"{prefix}{curve.label}")
        losses.append(values)
    return losses


def _line(axes: Any, steps: np.ndarray, values: np.ndarray, **style: Any) -> None:
    """Draws a line, and a mark at each value without neighbours, for which no line would be drawn."""
    finite = np.pad(np.isfinite(values), 1)
    alone = np.flatnonzero(finite[1:-1] & ~finite[:-2] & ~finite[2:])
    marked = {"marker": "o", "markersize": 4, "markevery": alone.tolist()} if len(alone) else {}
    axes.plot(steps, values, **marked, **style)


def _frame(axes: Any, losses: np.ndarray) -> None:
    """Sets the limits so that the first steep fall and outliers leave the axes at the top, if they flatten the rest."""
    losses = losses[np.isfinite(losses)]
    if len(losses) > 50:
        low, high = losses.min(), np.quantile(losses, 0.985)
        margin = 0.05 * (high - low) or 0.1
        axes.set_ylim(low - margin, high + margin)
    axes.set_ylabel("loss (nats per token)")
    tidy(axes)


def _legend(figure: Any, axes: Any, labels: list[str]) -> None:
    """Draws a legend within the axes, or beside them when it would hide the curves."""
    handles = [line for line in axes.get_lines() if line.get_label() == "drawn"]
    # The labels are set afterwards, because matplotlib leaves out labels that begin with _.
    standing = ["drawn"] * len(labels)
    if len(labels) <= 8:
        legend = axes.legend(handles, standing, frameon=False)
    else:
        columns = math.ceil(len(labels) / 40)
        figure.set_figwidth(figure.get_figwidth() + 3 * columns)
        legend = figure.legend(handles, standing, frameon=False, fontsize=7, ncols=columns, loc="outside right upper")
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_parse_math(False)  # $ is a letter of a name
        text.set_text(label)


def printable(text: str, *, kept: str = "") -> str:
    """Returns a text with boxes for its control characters, except for those to be kept."""
    return "".join(sign if sign.isprintable() or sign in kept else "\N{REPLACEMENT CHARACTER}" for sign in text)


def shown(name: str, length: int) -> str:
    """Returns a name on one line and no longer than ``length``; its middle is left out if necessary."""
    name = printable(name)
    half = (length - 1) // 2
    return name if len(name) <= length else f"{name[:half]}…{name[-half:]}"


@contextlib.contextmanager
def _without_glyph_warnings() -> Iterator[None]:
    """Hides the warning that the font lacks the characters of a name, which are then drawn as boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
