"""What a report finds in the curves of a run: its best step, warnings, and the law of its loss."""

import dataclasses

import numpy as np

from lmjax.analysis.plots import column, loss_curves
from lmjax.analysis.run_files import RunFiles
from lmjax.curves.loss_curve import LossCurve, analyze_loss_curve
from lmjax.curves.power_law import PowerLawFit, fit_power_law
from lmjax.train.record import PassedOver

WARM_UP = 0.05
"""The share of the steps at the beginning that the power law is not fitted to."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Best:
    """The lowest loss of a run.

    Attributes:
      step: its step.
      loss: the loss.
      split: ``valid``, or ``train`` for a run that was never validated.
    """

    step: int
    loss: float
    split: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found in the curves of a run.

    Attributes:
      curve: the analysis of its training loss; of a mixture by turns, of its first part.
      law: the power law of that loss, or None.
      no_law: why there is no law; empty if there is one.
      level: the training loss at the end, as the median of the last lines; None if there is none.
      best: the lowest validation loss, or the lowest level of the training loss; None if there is no loss.
      warnings: one sentence for each roll-back, and for each fault of the curves.
    """

    curve: LossCurve
    law: PowerLawFit | None
    no_law: str
    level: float | None
    best: Best | None
    warnings: list[str]


def find(files: RunFiles) -> Findings:
    """Returns what is found in the curves of a run."""
    training, validation = (loss_curves(files.lines, split, split) for split in ("train", "valid"))
    warnings = [] if files.record is None else [_passed_over(one) for one in files.record.passed_over]
    analyses: list[LossCurve] = []
    for name in training:
        steps, losses = column(files.lines, name.metric)
        valid = next((one for one in validation if one.part == name.part), None)
        valid_steps, valid_losses = column(files.lines, valid.metric) if valid else (np.empty(0), np.empty(0))
        analysis = analyze_loss_curve(losses, steps=steps, valid_losses=valid_losses, valid_steps=valid_steps)
        analyses.append(analysis)
        warnings += [f"{name.part}: {text}" if name.part else text for text in analysis.warnings]
    if not training:
        return Findings(
            curve=LossCurve(), law=None, no_law="there is no loss", level=None, best=None, warnings=warnings
        )
    steps, losses = column(files.lines, training[0].metric)
    finite = losses[np.isfinite(losses)]
    law, no_law = None, ""
    try:
        law = fit_power_law(steps, losses, skip=WARM_UP)
    except ValueError as error:
        no_law = str(error)
    return Findings(
        curve=analyses[0],
        law=law,
        no_law=no_law,
        level=float(np.median(finite[-max(1, min(20, len(finite) // 10)) :])) if len(finite) else None,
        best=_best(files, [name.metric for name in validation], steps, losses),
        warnings=warnings,
    )


def _passed_over(rows: PassedOver) -> str:
    first, end = rows.rows
    return f"step {rows.step:,} was faulty ({rows.reason}): rows {first:,} to {end - 1:,} were passed over"


def _best(files: RunFiles, validations: list[str], steps: np.ndarray, losses: np.ndarray) -> Best | None:
    if validations:
        steps, losses = column(files.lines, validations[0])
    known = np.isfinite(losses)
    if not known.any():
        return None
    width = 1 if validations else max(1, int(known.sum()) // 50)
    levels = np.convolve(losses[known], np.full(width, 1 / width), mode="valid")
    lowest = int(np.argmin(levels))
    step = steps[known][lowest + width - 1]
    return Best(step=int(step), loss=float(levels[lowest]), split="valid" if validations else "train")
