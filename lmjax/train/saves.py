"""Saves the state of a run, and records the configuration it was made with and the last step that was saved."""

import dataclasses
import math
from collections.abc import Callable

from lmjax.parallel.distributed import is_primary
from lmjax.train.checkpoint import Checkpoints
from lmjax.train.config import RunConfig
from lmjax.train.config_file import config_text, write_config
from lmjax.train.evaluations.round import Numbers, deciding_value, not_finite_losses
from lmjax.train.faults.watch import to_json
from lmjax.train.guard import GracefulExit
from lmjax.train.instruments import Instruments
from lmjax.train.record import RECORD, Record, record_text, write_record
from lmjax.train.run_folder import CHECKPOINTS, CONFIG
from lmjax.train.state import TrainState


@dataclasses.dataclass(kw_only=True)
class Saves:
    """The saves of a run.

    Attributes:
      config: the configuration of the run.
      checkpoints: the checkpoints of the run.
      record: the record of the run.
      saved_step: the last step whose save has begun; the save may still be under way.
    """

    config: RunConfig
    checkpoints: Checkpoints
    record: Record
    saved_step: int | None
    _described: bool = dataclasses.field(default=False, init=False)

    def is_due(self, step: int, numbers: Numbers) -> bool:
        """Returns whether to save after ``step`` updates: by count, by time, or because it is the best state so far."""
        return self.checkpoints.should_save(step) or self.checkpoints.improves(self._deciding(numbers))

    def save(
        self, step: int, state: TrainState, numbers: Numbers, instruments: Instruments, *, ends: bool = False
    ) -> None:
        """Begins to save a state, unless an evaluation has found a loss that is not finite.

        Args:
          step: the number of steps that the state has had, skipped ones included.
          state: the state to save.
          numbers: the numbers that its evaluations have found.
          instruments: the instruments of the run.
          ends: whether the process ends in order after this save.

        Raises:
          NonFiniteState, CheckpointError: see :meth:`Checkpoints.save`.
        """
        if not_finite_losses(numbers):
            return
        # Saving waits for the save before this one, and for the storage.
        instruments.watchdog.expect_long()
        with instruments.throughput.paused(), instruments.goodput.spending("saving"):
            # The watch is not among the arrays, so that a run may go on with another policy.
            data = {"step": step, "watch": to_json(state.watch), "seconds": instruments.goodput.to_json(ends=ends)}
            state = dataclasses.replace(state, watch=None)
            if self.checkpoints.mirror is not None:
                record = dataclasses.replace(self.record, last_saved=step)
                self.checkpoints.mirror.describe(step, texts_of(self.config, record))
            if self.checkpoints.save(step, state, data, value=self._deciding(numbers)):
                instruments.progress.note(f"step {step}: saving to {self.config.run_folder / CHECKPOINTS / str(step)}")
                # The save before this one is complete now.
                self.remember()
        self.saved_step = step
        instruments.watchdog.touch(step)

    def fits(self, step: int, graceful: GracefulExit, say: Callable[[str], object]) -> bool:
        """Returns whether a save after a signal would be done in time; if not, says so. All processes must call it."""
        grace = self.checkpoints.grace
        if grace.fits(graceful.asked_at) or step == self.saved_step:
            return True
        say(
            f"step {step} is not saved: {grace.expected()} after a signal (checkpoint.grace_seconds), of which this "
            f"step took a part"
        )
        return False

    def _deciding(self, numbers: Numbers) -> float:
        config = self.checkpoints.config
        return deciding_value(numbers, config.best_by) if config.keep_best else math.nan

    def remember(self) -> None:
        """Writes the configuration, and the record with the last step that is known to have been saved completely."""
        self.record = dataclasses.replace(self.record, last_saved=self.saved_step)
        if is_primary():
            if not self._described:
                write_config(self.config, self.config.run_folder / CONFIG)
                self._described = True
            write_record(self.config.run_folder, self.record)


def texts_of(config: RunConfig, record: Record) -> dict[str, str]:
    """Returns the files that describe a save in object storage."""
    return {CONFIG: config_text(config), RECORD: record_text(record)}
