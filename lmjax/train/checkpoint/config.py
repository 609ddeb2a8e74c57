"""The configuration of when a run is saved and which of its checkpoints are kept."""

import dataclasses
from collections.abc import Collection
from typing import Literal

from lmjax.field_types import check_literals


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the run is saved, and what is kept."""

    every_steps: int | None = 1000
    """Steps between saves; None saves by time only."""
    every_minutes: float | None = None
    """Also save when this many minutes have passed since the last save."""
    keep_last: int | None = 3
    """How many of the latest checkpoints stay; None keeps all."""
    keep_every: int | None = None
    """Checkpoints of steps divisible by this stay for ever, besides the latest."""
    keep_best: bool = False
    """Also save whenever the number best_by is the best so far, and keep that checkpoint however old it gets
    (`--step best` uses it)."""
    best_by: str = "valid/loss"
    """The number that decides which checkpoint is the best, as `EVALUATION/NUMBER`."""
    best_is: Literal["lowest", "highest"] = "lowest"
    """Whether the best is the lowest (losses, perplexities) or the highest (accuracies, recall)."""
    on_signal: bool = True
    """Save when a signal or a maintenance notice ends the run; without it the run goes on from the checkpoint before,
    and ends at once, which suits a grace period that is too short for a save."""
    grace_seconds: float | None = None
    """Seconds from a signal until the process is killed. A save that would take longer, by the last one, is left out,
    and the run goes on from the checkpoint before. None: what the launcher says (LMJAX_GRACE_SECONDS), or no limit."""

    def __post_init__(self):
        check_literals(self, "checkpoint.")
        if not all(self.best_by.partition("/")):
            raise ValueError(
                f"checkpoint.best_by={self.best_by!r}: name a number of an evaluation, as valid/loss or code/accuracy"
            )
        for name in ("every_steps", "every_minutes", "keep_last", "keep_every", "grace_seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"checkpoint.{name}={value}: must be above 0, or None to switch it off")

    def kept(self, steps: Collection[int], *, best: Collection[int] = ()) -> set[int]:
        """Returns which of the steps are kept when the newest of them has been written.

        Args:
          steps: all steps in the folder.
          best: the best steps: the one on disk and the one that replaces it.
        """
        ascending = sorted(steps)
        latest = ascending if self.keep_last is None else ascending[-self.keep_last :]
        landmarks = [] if self.keep_every is None else [step for step in ascending if step % self.keep_every == 0]
        return {*latest, *landmarks, *(step for step in best if step in ascending)}
