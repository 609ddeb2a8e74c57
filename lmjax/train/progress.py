"""Shows the progress of a training run to a person: as a bar on a terminal, as plain lines elsewhere."""

import os
import time
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lmjax.parallel import distributed


def summary(metrics: Mapping[str, float]) -> str:
    """Returns the numbers of a step as a short text: ``loss 3.214 · 51.2k tok/s · MFU 38%``.

    Args:
      metrics: any of ``train/loss`` (or ``loss``), ``tokens_per_second``, ``mfu`` and ``waiting_for_rows`` (which is
        shown from 2% on); other numbers are not shown.
    """
    loss = metrics.get("train/loss", metrics.get("loss"))
    rate, utilisation = metrics.get("tokens_per_second"), metrics.get("mfu")
    waiting = metrics.get("waiting_for_rows", 0.0)
    parts = [
        f"loss {loss:.4f}" if loss is not None else "",
        f"{short_number(rate)} tok/s" if rate is not None else "",
        f"MFU {utilisation:.0%}" if utilisation is not None else "",
        f"{waiting:.0%} waiting for rows" if waiting >= 0.02 else "",
    ]
    return " · ".join(part for part in parts if part)


def short_number(value: float) -> str:
    """Returns a number as three digits and a unit: 51.2k, 1.30M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Returns a time as hours, minutes and seconds, 1:02:03; below an hour as 2:03."""
    minutes, seconds_left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds_left:02}" if hours else f"{minutes}:{seconds_left:02}"


class ProgressReport:
    """Shows how far a run has come, in the primary process only.

    On a terminal, it shows one bar, which stays at the bottom. If the output is a file, a pipe or a
    CI log, it prints at most one line every few seconds, and always one for the first and the last step.

    Args:
      total_steps: the step at which the run is done.
      first_step: the step that the run starts at, above 0 after a resume.
      min_seconds: the shortest time between two plain lines.
      console: where to write; standard output by default.
      clock: a function that returns the time in seconds; tests replace it.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        first_step: int = 0,
        min_seconds: float = 5.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._console = console or Console(highlight=False)
        self._active = distributed.is_primary()
        self._total, self._step, self._reported = total_steps, first_step, first_step
        self._min_seconds, self._clock = min_seconds, clock
        self._next_line = -float("inf")
        self._origin: tuple[float, int] | None = None
        self._text = ""
        self._bar: Progress | None = None
        if self._active and self._console.is_terminal and not os.environ.get("CI"):
            self._bar = _bar(self._console)
            self._task = self._bar.add_task("train", total=total_steps, completed=first_step, text="compiling")

    def __enter__(self) -> "ProgressReport":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._active and self._step > self._reported:
            self._print_line()

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows that ``step`` steps are done.

        Args:
          step: number of steps done so far.
          metrics: see :func:`summary`.
        """
        if not self._active:
            return
        now = self._clock()
        # The time left is estimated from the first report on, so that the compile does not count.
        self._origin = self._origin or (now, step)
        self._step, self._text = step, summary(metrics)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=self._text)
        elif now >= self._next_line:
            self._print_line()

    def note(self, text: str) -> None:
        """Prints a line, such as a validation result or a saved checkpoint. It stays above the bar."""
        if self._active:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _print_line(self) -> None:
        now = self._clock()
        self._next_line = now + self._min_seconds
        self._reported = self._step
        assert self._origin is not None
        begin_time, begin_step = self._origin
        left = ""
        if self._step > begin_step:
            seconds = (now - begin_time) / (self._step - begin_step) * (self._total - self._step)
            left = f" · {duration(seconds)} left"
        self.note(f"step {self._step}/{self._total} · {self._text}{left}")


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
        console=console,
        refresh_per_second=5,
    )
