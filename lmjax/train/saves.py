"""Saving the state of a run, and remembering with what configuration it was made and which step is saved whole."""

import dataclasses

from lmjax.parallel.distributed import is_primary
from lmjax.train.checkpoint import Checkpoints
from lmjax.train.config import RunConfig
from lmjax.train.config_file import write_config
from lmjax.train.evaluations.round import Numbers, not_finite_losses, validation_loss
from lmjax.train.instruments import Instruments
from lmjax.train.record import Record, write_record
from lmjax.train.run_folder import CHECKPOINTS, CONFIG
from lmjax.train.state import TrainState


@dataclasses.dataclass(kw_only=True)
class Saves:
    """The saves of a run.

    Attributes:
      config: of the run.
      checkpoints: its checkpoints.
      record: what the run remembers.
      saved_step: the last step that was saved; the save may still be under way.
    """

    config: RunConfig
    checkpoints: Checkpoints
    record: Record
    saved_step: int | None

    def is_due(self, step: int, numbers: Numbers) -> bool:
        """Whether to save after ``step`` updates: by count, by time, or because the state is the best so far."""
        return self.checkpoints.should_save(step) or self.checkpoints.improves(validation_loss(numbers))

    def save(self, step: int, state: TrainState, numbers: Numbers, instruments: Instruments) -> None:
        """Begins to save a state, unless an evaluation has found a loss that is not finite.

        Args:
          step: updates the state has had.
          state: to save.
          numbers: what its evaluations have found.
          instruments: of the run.

        Raises:
          NonFiniteState, CheckpointError: see :meth:`Checkpoints.save`.
        """
        if not_finite_losses(numbers):
            return
        # It waits for the save before, and for storage.
        instruments.watchdog.expect_long()
        with instruments.throughput.paused():
            if self.checkpoints.save(step, state, {"step": step}, valid_loss=validation_loss(numbers)):
                instruments.progress.note(f"step {step}: saving to {self.config.run_folder / CHECKPOINTS / str(step)}")
                # The save before this one has been waited for.
                self.remember()
        self.saved_step = step
        instruments.watchdog.touch(step)

    def remember(self) -> None:
        """Writes the configuration and the record, with the last step that is known to have been saved whole."""
        self.record = dataclasses.replace(self.record, last_saved=self.saved_step)
        if is_primary():
            write_config(self.config, self.config.run_folder / CONFIG)
            write_record(self.config.run_folder, self.record)
