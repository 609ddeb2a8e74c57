"""The errors of reading and writing checkpoints, and parts of their messages."""

from collections.abc import Sequence

from lmjax.train.faults.fault import StepFault

SHOWN = 3


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message names the folder and the remedy."""


class NonFiniteState(StepFault, CheckpointError):  # noqa: N818 - the state is what is wrong
    """A state that holds NaN or infinite values was to be saved."""


class DamagedError(Exception):
    """The files of this step are not as they were written; those of an earlier step may be."""


def some(names: Sequence[str]) -> str:
    """Returns the first few of many names, as text."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def remedy(error: BaseException) -> str:
    """Returns a sentence about what to do if a step could not be written."""
    text = f"{type(error).__name__} {error}"
    if "FileNotFoundError" in text or "No such file" in text or "NOT_FOUND" in text:
        return "something else deletes files there: let it leave this folder alone, and run the same command again"
    if "PermissionError" in text or "Permission denied" in text or "Read-only" in text:
        return "make it a folder this user can write to, or choose another run folder"
    return "free space there or choose another run folder"


def first_line(error: BaseException) -> str:
    """Returns the first line of a library's error message, which may fill a page."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
