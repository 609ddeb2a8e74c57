"""The charts of a report as JSON values: which curves, which marks."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmjax.analysis.plots import column, loss_curves, shown, smooth
from lmjax.analysis.report.findings import Findings
from lmjax.analysis.report.thinning import thinned
from lmjax.analysis.run_files import RunFiles

SPIKES_NAMED = 3
"""How many spikes of a run have a label in the chart."""
LONG = 100
"""The number of values above which a curve is smoothed; what was logged is drawn behind it."""
_NUMBERS = (
    ("learning_rate", "learning rate", ""),
    ("grad_norm", "gradient norm", ""),
    ("tokens_per_second", "throughput", "tokens a second"),
    ("mfu", "model FLOPs utilisation", ""),
    ("critical_batch_size", "critical batch size", "rows, from the gradient noise"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """A run as a report shows it.

    Attributes:
      files: the files of the run.
      name: its name in the report.
      findings: what was found in its curves.
    """

    files: RunFiles
    name: str
    findings: Findings


def charts(runs: Sequence[Shown]) -> list[dict[str, Any]]:
    """Returns the charts of a report, the loss first; a chart without a curve is left out."""
    others = [_numbers_chart(runs, name, title, unit) for name, title, unit in _NUMBERS]
    in_loss_chart = {curve.metric for run in runs for curve in loss_curves(run.files.lines, "valid", "")}
    names = [name for name in evaluated_numbers(runs) if name not in in_loss_chart]
    others += [_numbers_chart(runs, name, name, "", kind="points") for name in names]
    return [chart for chart in (_loss_chart(runs), *others) if chart["curves"]]


def evaluated_numbers(runs: Sequence[Shown]) -> list[str]:
    """Returns the names of the numbers that evaluations of the runs have found, each once."""
    names = dict.fromkeys(name for run in runs for line in run.files.lines for name in line if "/" in name)
    return [name for name in names if not name.startswith(("train/", "gradient_noise/"))]


def _curve(run: int, colour: int, kind: str, label: str, steps: np.ndarray, values: np.ndarray) -> dict[str, Any]:
    at, numbers = thinned(steps, values)
    return {
        "run": run,
        "colour": colour,
        "kind": kind,
        "label": label,
        "x": [int(step) for step in at],
        "y": [float(f"{value:.6g}") if math.isfinite(value) else None for value in numbers],
    }


def _loss_chart(runs: Sequence[Shown]) -> dict[str, Any]:
    curves: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    for number, run in enumerate(runs):
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        parts: list[str] = []
        for split, label in (("train", "training"), ("valid", "validation")):
            for name in loss_curves(run.files.lines, split, label):
                if name.part not in parts:
                    parts.append(name.part)
                colour = number if len(runs) > 1 else 2 * parts.index(name.part) + (split == "valid")
                steps, values = column(run.files.lines, name.metric)
                if split == "train":
                    smoothed = smooth(values, max(1.0, len(values) / 50))
                    curves.append(_curve(number, colour, "raw", "", steps, values))
                    curves.append(_curve(number, colour, "line", f"{prefix}{name.label}", steps, smoothed))
                else:
                    curves.append(_curve(number, colour, "points", f"{prefix}{name.label}", steps, values))
        law = run.findings.law
        if law is not None:
            at = np.unique(np.geomspace(max(law.last_step / 20, 1), law.last_step, 80).round())
            colour = number if len(runs) > 1 else 4
            curves.append(_curve(number, colour, "law", f"{prefix}power law", at, law.law(at)))
        marks += _marks(number, run, f"{shown(run.name, 12)}: " if prefix else "", named=len(runs) <= 3)
    return {"title": "loss", "unit": "nats", "main": True, "curves": curves, "marks": marks}


def _marks(number: int, run: Shown, prefix: str, *, named: bool) -> list[dict[str, Any]]:
    marks = []
    highest = sorted(run.findings.curve.spikes, key=lambda spike: -spike.ratio)[:SPIKES_NAMED]
    for spike in run.findings.curve.spikes:
        text = f"{prefix}spike {spike.loss:.3g} at {spike.step:,}" if spike in highest and named else ""
        marks.append({"run": number, "kind": "spike", "x": spike.step, "y": spike.loss, "text": text})
    if run.findings.best is not None:
        best = run.findings.best
        text = f"{prefix}best {best.loss:.4g} at step {best.step:,}" if named else ""
        marks.append({"run": number, "kind": "best", "x": best.step, "y": best.loss, "text": text})
    divergence = run.findings.curve.divergence
    if divergence is not None and math.isfinite(divergence.best):
        text = f"{prefix}diverges from {divergence.step:,}" if named else ""
        marks.append({"run": number, "kind": "spike", "x": divergence.step, "y": divergence.best, "text": text})
    return marks


def _numbers_chart(runs: Sequence[Shown], name: str, title: str, unit: str, *, kind: str = "line") -> dict[str, Any]:
    curves = []
    for number, run in enumerate(runs):
        steps, values = column(run.files.lines, name)
        label = run.name if len(runs) > 1 else title
        if len(steps) > LONG and kind == "line" and name != "learning_rate":
            curves.append(_curve(number, number, "raw", "", steps, values))
            values = smooth(values, len(values) / 50)
        if len(steps):
            curves.append(_curve(number, number, kind, label, steps, values))
    return {"title": title, "unit": unit, "main": False, "curves": curves, "marks": []}
