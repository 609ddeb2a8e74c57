"""How long a save takes, and whether one more fits between a signal and the kill that follows it."""

import os
import time
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

GRACE_VARIABLE = "LMJAX_GRACE_SECONDS"
"""Where a launcher says how long the grace period is, for runs whose configuration does not."""


class Grace:
    """What is known of the last save, compared with the grace period after a signal."""

    def __init__(self, seconds: float | None, *, notify: Callable[[str], object]):
        """Takes the length of the grace period.

        Args:
          seconds: the grace period; None takes it from the environment variable ``LMJAX_GRACE_SECONDS``, if there is
            one, and otherwise it is not known.
          notify: called with one line, once, if a save takes longer.

        Raises:
          ValueError: the environment variable is not a number above 0.
        """
        self.seconds = _of_the_launcher() if seconds is None else seconds
        self.save_seconds: float | None = None
        """How long the last save took until it was complete, with its copy in object storage; None before the first."""
        self.begun_at: float | None = None
        """When the save under way began, by ``time.monotonic()``; None if there is none."""
        self._notify, self._warned = notify, False

    def saved(self, seconds: float) -> None:
        """Notes how long a save took; another thread may call it."""
        self.save_seconds, self.begun_at = seconds, None
        if self.seconds is not None and seconds > self.seconds and not self._warned:
            self._warned = True
            self._notify(
                f"warning: a save takes {seconds:.1f} s, and a signal leaves {self.seconds:g} s "
                f"(checkpoint.grace_seconds): the run will stop without a save then, and go on from the last "
                f"checkpoint; give it more time, or save more often"
            )

    def expected(self) -> str:
        """Returns what to say when a signal has come about the save that follows; empty if nothing is known."""
        took = "" if self.save_seconds is None else f"the last save took {self.save_seconds:.1f} s"
        left = "" if self.seconds is None else f"there are {self.seconds:g} s"
        return ", ".join(part for part in (took, left) if part)

    def fits(self, asked_at: float | None) -> bool:
        """Returns whether another save would be done in time, in every process; all of them must call this.

        It begins when the one under way is done. It counts as one that fits if nothing is known of saves or of the
        grace period.

        Args:
          asked_at: when the signal came to this process, by ``time.monotonic()``; None if it came to another one.
        """
        share = 0.0
        if self.seconds is not None and self.save_seconds is not None:
            now, begun_at = time.monotonic(), self.begun_at
            passed = 0.0 if asked_at is None else now - asked_at
            waiting = 0.0 if begun_at is None else max(self.save_seconds - (now - begun_at), 0.0)
            share = (passed + waiting + self.save_seconds) / self.seconds
        if jax.process_count() > 1:
            share = float(np.max(multihost_utils.process_allgather(np.float32(share))))
        return share <= 1


def _of_the_launcher() -> float | None:
    text = os.environ.get(GRACE_VARIABLE)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"environment variable {GRACE_VARIABLE}={text!r}: must be a number of seconds above 0")
    return seconds
