"""`lmjax train --supervise N`: starts the run again after a fault, until N starts in a row have saved nothing new.

The run is a child process, so that nothing that ends it (a crash of a library, the kernel when memory is full) ends its
supervisor, which is small and uses no device.
"""

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from lmjax.remote.answered import shared_with_restarts

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
LONGEST_PAUSE = 60.0
_PR_SET_PDEATHSIG = 1


@shared_with_restarts()
def supervise(
    command: Sequence[str],
    *,
    limit: int,
    saved_step: Callable[[], int | None],
    say: Callable[[str], object],
    pause: float = 1.0,
) -> int:
    """Runs a command until it ends well, is told to end, or makes no progress, and returns its exit code.

    A command that ends with 0 is done, and one that ends with 2 needs a person: neither is started again. Once a
    start has reached the run's object storage, a later one that does not reach it ends with 1.

    Args:
      command: the command and its arguments.
      limit: how many starts in a row may end without a newer checkpoint.
      saved_step: returns the step of the newest checkpoint; None if there is none.
      say: called with each line of text for a person.
      pause: seconds before the second start; each further start without progress waits twice as long.
    """
    without_progress = 0
    while True:
        before = saved_step()
        code, told = _run(command)
        if told is not None or code in (0, 2):
            return code
        after = saved_step()
        progressed = after is not None and (before is None or after > before)
        without_progress = 0 if progressed else without_progress + 1
        where = "without any checkpoint" if after is None else f"with a checkpoint of step {after}"
        how = f"the run ended by {signal.Signals(code - 128).name}" if code > 128 else f"the run ended with code {code}"
        if without_progress >= limit:
            say(
                f"supervisor: {how}, {where}. That was start {without_progress} in a row that saved nothing new "
                f"(--supervise {limit}): giving up; the reason is in the lines above"
            )
            return code
        say(f"supervisor: {how}, {where}: starting it again ({without_progress} of {limit} starts without progress)")
        time.sleep(min(pause * 2 ** max(without_progress - 1, 0), LONGEST_PAUSE))


def _run(command: Sequence[str]) -> tuple[int, int | None]:
    """Runs a command once, and returns its exit code and the first signal that was passed on to it."""
    libc = ctypes.CDLL(None)

    def end_with_the_supervisor() -> None:
        with suppress(AttributeError):  # Only Linux has it.
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    told: list[int] = []
    # A session of its own: otherwise Ctrl-C would reach it twice, from the terminal and from here.
    with _forwarding(told, []) as processes:
        process = subprocess.Popen(command, start_new_session=True, preexec_fn=end_with_the_supervisor)
        processes.append(process)
        for number in told:
            process.send_signal(number)
        code = process.wait()
    return code if code >= 0 else 128 - code, told[0] if told else None


@contextmanager
def _forwarding(told: list[int], processes: list[subprocess.Popen]) -> Iterator[list[subprocess.Popen]]:
    """Passes signals on to the processes, and notes them in ``told``."""

    def forward(number: int, _) -> None:
        told.append(number)
        for process in processes:
            process.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        yield processes
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def command_of(arguments: Sequence[str]) -> list[str]:
    """Returns the command that trains with these arguments in a new process."""
    return [sys.executable, "-m", "lmjax", "train", *arguments]
