"""Ends a run before its last step: after a signal, or when a step never returns."""

import collections
import contextlib
import faulthandler
import itertools
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lmjax.parallel.roll_call import RollCall
from lmjax.parallel.signals import SHOW_CURSOR
from lmjax.train.faults.fault import StepFault

WATCHDOG_MINUTES = 30.0
"""How many minutes the watchdog waits if there are several processes, the recipe does not say, and steps have not been
measured yet."""
MEASURED_STEPS = 64
"""How many of the last steps a measured limit follows from; a quarter of them is enough for the first."""
SLOWEST_STEPS = 20
"""A measured limit is the time of so many steps, each as long as the slowest of the last ``MEASURED_STEPS``."""
SHORTEST_MINUTES = 5.0
"""The shortest measured limit: storage may keep a step waiting for a while."""
SIGN_SECONDS = 30.0
"""How often each of several processes leaves a sign of life."""
LONG_MINUTES = 60.0
"""How many minutes a compile or a save may take, even if the watchdog otherwise waits less."""


class GracefulExit:
    """Turns the first SIGTERM, SIGUSR1 (of Slurm) or Ctrl-C into a flag that the loop reads between steps.

    A second Ctrl-C ends the process at once, even if it is stuck inside a collective. Several
    processes vote, so that all of them stop after the same step. A vote is read when the next one
    is cast; it has long arrived by then, so that no process waits for it.

    Enter it in the main thread, after ``jax.distributed`` has started (which takes SIGTERM for itself). In another
    thread it leaves signals as they are. On exit it restores the previous handlers.
    """

    def __init__(self, *, vote_every: int = 4, saves: bool = True, expected: Callable[[], str] = str):
        """Makes several processes vote every ``vote_every`` steps; they stop at most twice that many steps later.

        Args:
          vote_every: the steps between votes.
          saves: whether the run is saved when it stops, for the message.
          expected: returns what to say about the time that the save will take.
        """
        if vote_every < 1:
            raise ValueError(f"vote_every={vote_every}: must be at least 1")
        self._vote_every = vote_every
        self._saves, self._expected = saves, expected
        self.asked_at: float | None = None
        """When this process was asked to stop, by ``time.monotonic()``."""
        self._previous: dict[int, object] = {}
        self._ballot: jax.Array | None = None
        self._agreed = False
        self._entered = False
        self.signal_name: str | None = None

    def __enter__(self) -> "GracefulExit":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                self._previous[number] = signal.signal(number, self._on_signal)
        if jax.process_count() > 1:
            self._prepare_vote()
        self._entered = True
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_) -> None:
        for number, handler in self._previous.items():
            # A handler that was not set from Python is None, and Python cannot put it back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]
        self._previous.clear()
        if kind is not None and issubclass(kind, StepFault):
            # The run may roll back now and go on; the signal must not be forgotten.
            asked = signal.Signals.__members__.get(self.signal_name or "")
            if asked is not None:
                os.kill(os.getpid(), asked)

    def should_stop(self, step: int) -> bool:
        """Returns whether to save and stop after ``step``; every process must call this, with the same steps."""
        if not self._entered:
            return False
        if jax.process_count() == 1:
            return self.signal_name is not None
        if not self._agreed and step % self._vote_every == 0:
            self._agreed = self._ballot is not None and bool(jax.device_get(self._ballot))
            self._ballot = self._cast(self.signal_name is not None)
        return self._agreed

    def ask(self, reason: str) -> None:
        """Asks the run to stop, as a signal does; another thread may call it.

        Args:
          reason: what is said in place of the name of a signal.
        """
        if self.signal_name is None:
            self.signal_name, self.asked_at = reason, time.monotonic()
            with contextlib.suppress(OSError):
                os.write(2, f"\n{reason}: {self._then()}\n".encode())

    def _then(self) -> str:
        """Returns what happens after a signal."""
        if not self._saves:
            return "stopping after this step, without a save"
        known = self._expected()
        return "saving after this step, then stopping" + (f" ({known})" if known else "")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        text = f"\n{name}: {self._then()}"
        if self.signal_name is None:
            self.signal_name, self.asked_at = name, time.monotonic()
        if number == signal.SIGINT:
            # From now on the system handles Ctrl-C, because a Python handler never runs while the main thread
            # waits inside a collective. The system cannot bring back a cursor that a progress bar hides.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            text += " (Ctrl-C again to abort at once)" + (SHOW_CURSOR if sys.stderr.isatty() else "")
        with contextlib.suppress(OSError):
            # The signal may have interrupted a print(), which is not re-entrant.
            os.write(2, f"{text}\n".encode())

    def _prepare_vote(self) -> None:
        # The order of the devices may interleave processes, but each process must own one contiguous piece.
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
        mesh = Mesh(np.asarray(devices), ("all",), axis_types=(AxisType.Auto,))
        self._by_device = NamedSharding(mesh, PartitionSpec("all"))
        self._any = jax.jit(jnp.any, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def _cast(self, stop: bool) -> jax.Array:
        local = np.full(jax.local_device_count(), stop)
        return self._any(jax.make_array_from_process_local_data(self._by_device, local))


class Watchdog:
    """Ends a process that has shown no sign of life for ``timeout_minutes``.

    If one process of a run is stuck, or has ended without an error, the others wait for it in a collective
    for ever. The watchdog writes the stack of every thread to stderr and exits with 1, so that the
    launcher sees a failure and can start again from the last checkpoint.
    """

    def __init__(self, timeout_minutes: float | None, *, signs: pathlib.Path | None = None):
        """Sets the limit. 0 switches the watchdog off, and None is 0 for a single process.

        For several processes, None means ``WATCHDOG_MINUTES`` at first and during evaluations. Between two steps it
        means the time of ``SLOWEST_STEPS`` steps as soon as steps have been measured, at least ``SHORTEST_MINUTES``.

        Args:
          timeout_minutes: the limit.
          signs: a folder that all processes see, in which each leaves signs of life; without it, the message does not
            say which processes are absent.
        """
        self._step_seconds: collections.deque[float] | None = None
        if timeout_minutes is None:
            self._step_seconds = collections.deque(maxlen=MEASURED_STEPS)
            timeout_minutes = WATCHDOG_MINUTES if jax.process_count() > 1 else 0.0
        if timeout_minutes < 0:
            raise ValueError(f"watchdog timeout_minutes={timeout_minutes}: must be 0 (off) or more")
        self._timeout_seconds = 60.0 * timeout_minutes
        self._is_long = False
        self._between_steps = False
        self._last_touch = time.monotonic()
        self._step: int | None = None
        self._roll_call: RollCall | None = None
        if signs is not None and timeout_minutes and jax.process_count() > 1:
            self._roll_call = RollCall(
                signs,
                process=jax.process_index(),
                num_processes=jax.process_count(),
                seconds=min(SIGN_SECONDS, self._timeout_seconds / 10),
            )
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Watchdog":
        self._last_touch = time.monotonic()
        if self._timeout_seconds > 0:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        if self._roll_call is not None:
            self._roll_call.leave()

    def touch(self, step: int | None = None) -> None:
        """Tells the watchdog that the run is alive. It is called after each step, validation batch and save.

        Args:
          step: the number of steps done; None within an evaluation.
        """
        now = time.monotonic()
        if self._step_seconds is not None and self._between_steps and self._step is not None and step == self._step + 1:
            self._step_seconds.append(now - self._last_touch)
        self._between_steps = step is not None
        self._last_touch = now
        self._is_long = False
        self._step = self._step if step is None else step

    def expect_long(self) -> None:
        """Allows at least ``LONG_MINUTES`` until the next sign of life. Call it when a compile or a save begins."""
        self._last_touch = time.monotonic()
        self._is_long, self._between_steps = True, False

    def _watch(self) -> None:
        # It waits no longer than the usual limit, because work that was expected to be long may end early.
        longest = self._timeout_seconds if self._roll_call is None else self._roll_call.seconds
        while not self._done.wait(min(max(self._seconds_left(), 0), longest)):
            if self._roll_call is not None:
                self._roll_call.sign(self._step)
            if self._seconds_left() <= 0:
                self._bark()

    def _seconds_left(self) -> float:
        return self._last_touch + self._limit_seconds() - time.monotonic()

    def _limit_seconds(self) -> float:
        if self._is_long:
            return max(self._timeout_seconds, 60.0 * LONG_MINUTES)
        if self._between_steps and self._step_seconds and len(self._step_seconds) >= MEASURED_STEPS // 4:
            measured = SLOWEST_STEPS * max(self._step_seconds)
            return min(max(measured, 60.0 * SHORTEST_MINUTES), self._timeout_seconds)
        return self._timeout_seconds

    def _bark(self) -> None:
        minutes = f"{self._limit_seconds() / 60:.3g}"
        last = "no step has finished" if self._step is None else f"step {self._step} was the last to finish"
        print(
            f"error: process {jax.process_index()}: no sign of life for {minutes} minutes; {last}. "
            f"{self._suspects()} Threads:",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr, all_threads=True)
        os._exit(1)

    def _suspects(self) -> str:
        absent = [] if self._roll_call is None else self._roll_call.absent()
        if absent:
            return f"{'; '.join(absent)}."
        return "A peer is stuck or gone, or train.watchdog_minutes is too short for a step."


class StoppedError(Exception):
    """A signal came during long work between two steps."""


def signs_of_life(watchdog: Watchdog, graceful: GracefulExit) -> Callable[[], None]:
    """Returns a function to call after each part of long work between two steps.

    The function tells the watchdog that the process is alive. If a signal has come, it stops the work, so that the
    trained state is saved in time.

    Raises:
      StoppedError: a signal has come. It is raised here, and also by the returned function when it is called.
    """
    parts = itertools.count()

    def check() -> None:
        if graceful.should_stop(next(parts)):
            raise StoppedError

    def after_part() -> None:
        watchdog.touch()
        check()

    check()
    return after_part
