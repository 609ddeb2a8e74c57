"""Everything in a folder of checkpoints but the arrays: its steps, the steps set aside, and which step is best."""

import dataclasses
import json
import math
import pathlib
import re
import shutil
from collections.abc import Iterable

from lmjax.atomic_files import write_json

BEST = "best.json"
DELETED = ".deleted"
"""The ending of a step's name while the step is being deleted."""
FETCHED = ".fetched"
"""The ending of a step's name while its files arrive from object storage."""
SET_ASIDE = re.compile(r"\d+\.corrupt(\.\d+)?")


@dataclasses.dataclass(frozen=True)
class Best:
    """The best step so far.

    Attributes:
      step: the number of updates.
      value: the number that decided it.
      number: the name of that number (``checkpoint.best_by``).
      which: whether the lowest or the highest is the best.
    """

    step: int
    value: float
    number: str = "valid/loss"
    which: str = "lowest"


def steps_there(folder: pathlib.Path) -> list[int]:
    """Returns the steps that can be restored, in ascending order."""
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal() and p.is_dir())


def steps_set_aside(folder: pathlib.Path) -> list[str]:
    """Returns the names of the steps that :func:`set_aside` has renamed."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if SET_ASIDE.fullmatch(p.name))


def set_aside(folder: pathlib.Path, step: int) -> str:
    """Renames a damaged step, so that it is not read again, and returns its new name. Nothing is deleted."""
    aside, taken = folder / f"{step}.corrupt", 1
    while aside.exists():
        taken += 1
        aside = folder / f"{step}.corrupt.{taken}"
    (folder / str(step)).rename(aside)
    return aside.name


def delete_steps(folder: pathlib.Path, steps: Iterable[int]) -> list[str]:
    """Deletes steps and returns a message for each step that could not be deleted.

    Each step is renamed first, so that a kill does not leave a part of it under its own name.
    """
    problems = []
    for step in steps:
        doomed = folder / f"{step}{DELETED}"
        try:
            (folder / str(step)).rename(doomed)
            shutil.rmtree(doomed)
        except FileNotFoundError:
            # Another process may delete it at the same time.
            shutil.rmtree(doomed, ignore_errors=True)
        except OSError as error:
            problems.append(f"the old checkpoint of step {step} could not be deleted whole: {error}")
    return problems


def read_best(folder: pathlib.Path) -> Best | None:
    """Returns the best step; ``None`` if none was kept or if it is no longer there."""
    try:
        content = json.loads((folder / BEST).read_text(encoding="utf-8"))
        # Before other numbers could decide, the validation loss did, and was called loss.
        value = content["value"] if "value" in content else content["loss"]
        rules = {name: str(content[name]) for name in ("number", "which") if name in content}
        best = Best(int(content["step"]), float(value), **rules)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return best if math.isfinite(best.value) and best.step in steps_there(folder) else None


def write_best(folder: pathlib.Path, best: Best) -> None:
    """Writes down which step is best, in one write."""
    write_json(folder / BEST, dataclasses.asdict(best), indent=None)
