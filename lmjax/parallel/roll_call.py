"""Which processes of a run are alive, told by a small file of each in a folder that all of them see."""

import contextlib
import os
import pathlib

MISSED = 3
"""How many signs a process may have missed before it is called absent."""


class RollCall:
    """The signs of life of all processes of a run.

    The times of the files are compared with each other and not with this machine's clock, because a shared file system
    has a clock of its own.
    """

    def __init__(self, folder: pathlib.Path, *, process: int, num_processes: int, seconds: float):
        """Makes the folder.

        Args:
          folder: a folder that all processes see.
          process: the number of this process.
          num_processes: the number of all processes.
          seconds: how often each process gives a sign.
        """
        self._folder, self._process, self._num_processes = folder, process, num_processes
        self.seconds = seconds
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)

    def sign(self, step: int | None) -> None:
        """Gives a sign of life. A full disk or another failure of the storage is not reported here.

        Args:
          step: the last step that this process has begun; None before the first.
        """
        with contextlib.suppress(OSError):
            (self._folder / str(self._process)).write_text("" if step is None else str(step))

    def leave(self) -> None:
        """Removes the sign of this process, which has ended in order."""
        with contextlib.suppress(OSError):
            os.unlink(self._folder / str(self._process))
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def absent(self) -> list[str]:
        """Returns a few words on each other process that is gone, stopped or behind the rest."""
        self.sign(None if (own := self._signs().get(self._process)) is None else own[1])
        signs = self._signs()
        now = max((time for time, _ in signs.values()), default=0.0)
        steps = [step for _, step in signs.values() if step is not None]
        words = []
        for process in range(self._num_processes):
            time, step = signs.get(process, (None, None))
            if time is None:
                words.append(f"process {process} has given no sign of life")
            elif now - time > MISSED * self.seconds:
                words.append(f"process {process} is gone or stopped (last sign {now - time:.0f} s ago)")
            elif steps and (step is None or step < max(steps)):
                at = "before its first step" if step is None else f"at step {step}"
                words.append(f"process {process} is {at} while others are at step {max(steps)}")
        return words

    def _signs(self) -> dict[int, tuple[float, int | None]]:
        """Returns the time of each process's last sign and the step that it names."""
        signs: dict[int, tuple[float, int | None]] = {}
        for process in range(self._num_processes):
            path = self._folder / str(process)
            with contextlib.suppress(OSError, ValueError):
                text = path.read_text()
                signs[process] = path.stat().st_mtime, int(text) if text else None
        return signs
