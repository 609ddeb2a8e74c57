"""The faults of a step: a number that is not finite, or a loss or gradient that jumps up."""

import math
from collections.abc import Mapping


class StepFault(RuntimeError):  # noqa: N818 - a policy may make it harmless
    """A step went wrong.

    Attributes:
      step: the number of the step, from 1; 0 for the state before any step.
      reason: what is wrong, in a few words.
    """

    def __init__(self, message: str, *, step: int = 0, reason: str = ""):
        super().__init__(message)
        self.step = step
        self.reason = reason


class NonFiniteLoss(StepFault):
    """The loss, or another watched number, became NaN or infinite."""


class LossSpike(StepFault):
    """The loss or the norm of the gradient is many times what it was before."""


def check_finite(metrics: Mapping[str, float], *, step: int, last_checkpoint: str | int | None) -> None:
    """Raises an error if a number of a step is not finite.

    Args:
      metrics: the numbers of one step by name, as they are logged.
      step: the step that they belong to.
      last_checkpoint: step or folder of the last checkpoint saved, ``None`` if there is none.

    Raises:
      NonFiniteLoss: a number is not finite; the message names the step, the metrics and the checkpoint to go back to.
    """
    broken = {name: float(value) for name, value in metrics.items() if not math.isfinite(float(value))}
    if broken:
        reason = f"{', '.join(f'{name}={value}' for name, value in broken.items())} is not finite"
        saved = "none yet" if last_checkpoint is None else last_checkpoint
        rows = f"; `lmjax inspect RUN --step {step}` shows the rows of that step" if step else ""
        raise NonFiniteLoss(
            f"step {step}: {reason}; last good checkpoint: {saved}. A lower learning rate, a longer warm-up, gradient "
            f"clipping or a z-loss usually cures this{rows}",
            step=step,
            reason=reason,
        )


def check_no_spike(ratios: Mapping[str, float], bounds: Mapping[str, float | None], *, step: int, window: int) -> None:
    """Raises an error if a number of a step is too many times its running median.

    Args:
      ratios: the number over its median, by name; 0 where there is no median yet.
      bounds: the largest ratio allowed, by the same names; None allows every ratio.
      step: the step that they belong to.
      window: of how many steps the medians are.

    Raises:
      LossSpike: a ratio is too large.
    """
    for name, ratio in ratios.items():
        bound = bounds[name]
        if bound is not None and ratio > bound:
            reason = f"{name} is {ratio:.3g} times the median of the last {window} good steps"
            raise LossSpike(f"step {step}: {reason} (allowed: {bound:g})", step=step, reason=reason)
