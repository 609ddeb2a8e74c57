"""The base class of trackers: it opens a session, which is given the numbers of each step.

To add a tracker, derive a frozen dataclass from :class:`Tracker` and name it as ``RunConfig.tracker``.
"""

import abc
import dataclasses
import importlib.util
import pathlib
import re
import secrets
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from lmjax.atomic_files import write_file
from lmjax.choice import Choice


class Session(Protocol):
    """A run of a tracker while it is written to."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds numbers of a step, which is not below that of the previous call."""

    def close(self) -> None:
        """Sends what is left, and ends the run of the tracker."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tracker(Choice, abc.ABC, home="lmjax.train.trackers"):
    """A service that keeps the numbers of runs. A subclass is a dataclass of its options and defines :meth:`open`."""

    project: str = "lmjax"
    """The project (MLflow: the experiment) that the run belongs to."""

    package: ClassVar[str | None] = None
    """The package that must be installed; the extra of lmjax has the same name."""

    def __post_init__(self):
        """Refuses an empty project."""
        if not self.project.strip():
            raise ValueError(f"tracker.project={self.project!r}: must have a name")

    def check(self) -> None:
        """Refuses a tracker whose package is missing.

        Raises:
          ValueError: the package is not installed.
        """
        if self.package is not None and not _is_installed(self.package):
            raise ValueError(
                f'tracker={type(self).__name__} needs the package {self.package}: pip install "lmjax[{self.package}]"'
            )

    @abc.abstractmethod
    def open(self, folder: pathlib.Path, config: Mapping[str, Any]) -> Session | None:
        """Begins a run of the tracker, or goes on with the one that this folder began.

        Args:
          folder: the run folder.
          config: the settings of the run by dotted path, as JSON values.

        Returns:
          The session; None if nothing is to be tracked.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoTracker(Tracker):
    """Nothing besides the files of the run."""

    def open(self, folder: pathlib.Path, config: Mapping[str, Any]) -> None:
        """Returns None."""
        del folder, config


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # It is blocked, as by a test.
        return False


def kept_id(folder: pathlib.Path, name: str, new: str | None = None) -> str:
    """Returns the identifier of a folder's run with a tracker, which a file in the folder keeps.

    Args:
      folder: the run folder.
      name: the name of the tracker; the file is ``NAME_run_id``.
      new: the identifier to keep if there is none that could be one; random letters when None.
    """
    known = read_id(folder, name)
    return known if known is not None else write_id(folder, name, new or secrets.token_hex(4))


def read_id(folder: pathlib.Path, name: str) -> str | None:
    """Returns the identifier that a folder keeps, see :func:`kept_id`; None if there is none that could be one."""
    path = folder / f"{name}_run_id"
    text = path.read_text(errors="replace").strip() if path.exists() else ""
    return text if re.fullmatch(r"[\w-]{1,64}", text, re.ASCII) else None


def write_id(folder: pathlib.Path, name: str, run_id: str) -> str:
    """Keeps an identifier in a folder in place of the one before, and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / f"{name}_run_id", run_id)
    return run_id
