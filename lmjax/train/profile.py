"""A jax profile of a few steps, for TensorBoard's profiler or xprof."""

import pathlib
from collections.abc import Callable

import jax

from lmjax.types import PyTree


class Profiler:
    """Records a profile of some steps; steps count from 1, which is the first step of this process.

    It is a context manager. A recording that is still under way when the run ends is written as well.

    Args:
      folder: the folder that the profile is written to.
      steps: first and last step to record; None records nothing.
      steps_left: number of steps that this process is to do.
      note: receives a line for a person when the profile is written.

    Raises:
      ValueError: the run ends before the first step to record.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        steps: tuple[int, int] | None,
        *,
        steps_left: int,
        note: Callable[[str], object],
    ):
        if steps is not None and steps[0] > steps_left:
            raise ValueError(
                f"train.profile={steps}: only {steps_left} steps are left to do: choose earlier ones, which count "
                f"from where the run goes on, or raise train.steps"
            )
        self._folder, self._note = folder, note
        self._first, self._last = steps or (0, 0)
        self._step = 0
        self._recording = False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_) -> None:
        if self._recording:
            self._stop()

    def before_step(self) -> None:
        """Begins the recording if the next step is the first to record."""
        self._step += 1
        if self._step == self._first:
            jax.profiler.start_trace(str(self._folder.absolute()))
            self._recording = True

    def after_step(self, result: PyTree) -> None:
        """Ends the recording after the last step to record.

        It waits until ``result`` has been computed, because a step is still under way when its call returns.
        """
        if self._recording and self._step == self._last:
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        self._recording = False
        jax.profiler.stop_trace()
        self._note(f"profile of {self._step - self._first + 1} steps written to {self._folder}")
