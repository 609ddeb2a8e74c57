"""A jax profile of a few steps, for TensorBoard's profiler or xprof, and a line about where their time went."""

import pathlib
import time
from collections.abc import Callable

import jax

from lmjax.train.device_time import busy_seconds
from lmjax.train.goodput import LOST, Goodput
from lmjax.types import PyTree

COMPILE = "compile"


def check_profile(steps: tuple[int, int] | None, *, steps_left: int) -> None:
    """Refuses a profile of steps that are never done.

    Args:
      steps: first and last step to record, counted from where the run starts or goes on; None records nothing.
      steps_left: number of steps that are left to do.

    Raises:
      ValueError: the run ends before the first step to record.
    """
    if steps is not None and steps[0] > steps_left:
        raise ValueError(
            f"train.profile={steps}: only {steps_left} steps are left to do: choose earlier ones, which count from "
            f"where the run goes on, or raise train.steps"
        )


class Profiler:
    """Records a profile of some steps; steps count from 1, which is the first step of this process.

    It is a context manager. A recording that is still under way when the run ends is written as well.

    Args:
      folder: the folder that the profile is written to.
      steps: first and last step to record; None records nothing.
      steps_left: number of steps that this process is to do.
      goodput: the account of the run's time, which knows what else than steps the time went into.
      note: receives lines for a person when the profile is written.

    Raises:
      ValueError: the run ends before the first step to record.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        steps: tuple[int, int] | None,
        *,
        steps_left: int,
        goodput: Goodput,
        note: Callable[[str], object],
    ):
        check_profile(steps, steps_left=steps_left)
        self._folder, self._note, self._goodput = folder, note, goodput
        self._first, self._last = steps or (0, 0)
        self._step = 0
        self._recording = False
        self._began, self._lost_before = 0.0, dict.fromkeys(LOST, 0.0)

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_) -> None:
        if self._recording:
            self._stop()

    def before_step(self, result: PyTree) -> None:
        """Begins the recording if the next step is the first to record.

        It waits until ``result`` of the step before has been computed, so that this step is not recorded.
        """
        self._step += 1
        if self._step == self._first:
            jax.block_until_ready(result)
            jax.profiler.start_trace(str(self._folder.absolute()))
            self._recording = True
            self._began, self._lost_before = time.perf_counter(), self._goodput.seconds()

    def after_step(self, result: PyTree) -> None:
        """Ends the recording after the last step to record.

        It waits until ``result`` has been computed, because a step is still under way when its call returns.
        """
        if self._recording and self._step == self._last:
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        self._recording = False
        seconds, after = time.perf_counter() - self._began, self._goodput.seconds()
        jax.profiler.stop_trace()
        num_steps = self._step - self._first + 1
        self._note(f"profile of {num_steps} steps written to {self._folder}")
        lost = {name: after[name] - self._lost_before[name] for name in LOST}
        self._note(where_time_went(seconds, lost, self._busy_seconds(), num_steps=num_steps))

    def _busy_seconds(self) -> float | None:
        try:
            return busy_seconds(self._folder)
        except (AttributeError, OSError, RuntimeError, ValueError) as error:
            # A trace of another form is still a trace: the run goes on.
            self._note(f"the work of the devices cannot be read from the profile: {error}")
            return None


def where_time_went(seconds: float, lost: dict[str, float], busy: float | None, *, num_steps: int) -> str:
    """Returns a line about the time of profiled steps: what they stalled for, compiling, and the overhead of the host.

    The overhead of the host is the time in which the devices did not work although the run neither waited for
    anything nor compiled.

    Args:
      seconds: the time of all steps.
      lost: the seconds of it that were no steps, by the names of :data:`lmjax.train.goodput.LOST`.
      busy: the seconds in which the devices worked; None if it is not known.
      num_steps: the number of steps.
    """
    stalls = {name: value for name, value in lost.items() if name != COMPILE}
    stalled, compiling = sum(stalls.values()), lost.get(COMPILE, 0.0)
    causes = ", ".join(f"{name} {value / seconds:.1%}" for name, value in stalls.items() if value >= 0.001 * seconds)
    text = f"profile: {1e3 * seconds / num_steps:.1f} ms a step; stalled {stalled / seconds:.1%}"
    text += f" ({causes})" if causes else ""
    text += f", compiling {compiling / seconds:.1%}"
    if busy is None:
        return f"{text}, host overhead unknown"
    overhead = max(seconds - busy - stalled - compiling, 0.0)
    return f"{text}, host overhead {overhead / seconds:.1%} ({1e3 * overhead / num_steps:.1f} ms a step)"
