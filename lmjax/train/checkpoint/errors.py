"""What can be wrong with a checkpoint."""

from collections.abc import Sequence

SHOWN = 3


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message names the folder and the remedy."""


class NonFiniteState(CheckpointError):  # noqa: N818 - the state is what is wrong
    """A state that holds NaN or infinite values was to be saved."""


class DamagedError(Exception):
    """This step's files are not what was written; an earlier step may be."""


def some(names: Sequence[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def first_line(error: BaseException) -> str:
    """What a library's error says, without the rest of its page."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
