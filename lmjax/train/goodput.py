"""The share of a run's time that went into training steps, and what the rest went into.

The account belongs to the run and not to the process: a checkpoint holds the account at the time of its save, and a
start that goes on from it adds the time since then as ``restart``. That is the time between two processes, the start
itself, and the steps that have to be done again. The time after an orderly end of a process is not counted.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping

LOST = ("compile", "data", "saving", "evaluation", "restart")
"""What time goes into besides steps: compiling, waiting for rows, saving, evaluating, and starting (again)."""


class Goodput:
    """The account of a run's time.

    Args:
      saved: what :meth:`to_json` returned when the checkpoint was saved that the run goes on from; None at a beginning.
      started: when this start of the run began, in seconds since the epoch.
      clock: a function that returns the time in seconds since the epoch; tests replace it.
    """

    def __init__(self, saved: object = None, *, started: float, clock: Callable[[], float] = time.time):
        known = saved if isinstance(saved, Mapping) else {}
        self._clock, self._depth = clock, 0
        self._seconds = {name: _duration(known.get(name)) for name in ("steps", *LOST)}
        # Before the first step of this start, all time is that of starting.
        self._since = _duration(known.get("saved_at")) or started
        self._add("restart")

    @contextlib.contextmanager
    def spending(self, name: str) -> Iterator[None]:
        """Counts the time of the block as ``name``, one of :data:`LOST`; a block inside of another is not counted."""
        self._depth += 1
        if self._depth == 1:
            self._add("steps")
        try:
            yield
        finally:
            if self._depth == 1:
                self._add(name)
            self._depth -= 1

    def _add(self, name: str) -> None:
        now = self._clock()
        # The clock of a machine may be set back.
        self._seconds[name] += max(now - self._since, 0.0)
        self._since = now

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of the run so far that went into ``steps`` and into each of :data:`LOST`."""
        if not self._depth:
            self._add("steps")
        return dict(self._seconds)

    def waited(self) -> float:
        """Returns the seconds of the run so far in which it waited for rows."""
        return self._seconds["data"]

    def share(self) -> float:
        """Returns the goodput: the share of the time that went into steps, between 0 and 1."""
        seconds = self.seconds()
        return seconds["steps"] / max(sum(seconds.values()), 1e-9)

    def to_json(self, *, ends: bool) -> dict[str, float]:
        """Returns the account for a checkpoint.

        Args:
          ends: whether the process ends in order after this save, so that the time after it is not lost.
        """
        return self.seconds() | ({} if ends else {"saved_at": self._since})

    def summary(self) -> str:
        """Returns the account as a line of text for a person."""
        seconds = self.seconds()
        lost = ", ".join(f"{name} {seconds[name]:.0f} s" for name in LOST)
        return f"goodput: {self.share():.1%} of {sum(seconds.values()):.0f} s went into steps; {lost}"


def _duration(value: object) -> float:
    number = float(value) if isinstance(value, int | float) else 0.0
    return number if math.isfinite(number) and number > 0 else 0.0
