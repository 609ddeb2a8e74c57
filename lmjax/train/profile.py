"""A jax profile of a few steps, for TensorBoard's profiler or xprof."""

import pathlib
from collections.abc import Callable

import jax

from lmjax.types import PyTree


class Profiler:
    """Records the steps asked for, counted from 1 at the first step this process does.

    A context manager: a recording under way when the run ends is written all the same.

    Args:
      folder: where the profile goes.
      steps: first and last step to record; None records nothing.
      steps_left: steps this process is to do.
      note: receives a line for a person when the profile is written.

    Raises:
      ValueError: the run ends before the first of them.
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
        """Begins the recording when the next step is the first to record."""
        self._step += 1
        if self._step == self._first:
            jax.profiler.start_trace(str(self._folder.absolute()))
            self._recording = True

    def after_step(self, result: PyTree) -> None:
        """Ends it after the last one, once ``result`` is there: a step is only under way when it returns."""
        if self._recording and self._step == self._last:
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        self._recording = False
        jax.profiler.stop_trace()
        self._note(f"profile of {self._step - self._first + 1} steps written to {self._folder}")
