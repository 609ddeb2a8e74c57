"""What of its configuration a run may change when it goes on."""

import pathlib
from typing import Any

from lmjax.models.execution import INTERCHANGEABLE
from lmjax.train.config import CHANGEABLE, RunConfig
from lmjax.train.config_file import differences

FREE_ON_RESUME = (
    "name", "folder", "mesh", "checkpoint", "distributed", "train.steps", "train.log_every", "train.eval_every",
    "train.eval_batches", "train.profile", "train.watchdog_minutes", "train.tensorboard", "train.wandb",
    "train.microbatches", "train.change_on_resume", "evaluations",
    *(f"model.execution.{name}" for name in INTERCHANGEABLE),
)  # fmt: skip
"""Fields that may differ when a run goes on: they change no result, or (``train.steps``) the user says so."""
FREE_IN_A_BRANCH = ("schedule", "train.init_from", "train.branch_from")
"""Fields that may also differ from those of the run a branch begins at."""


def check_same_run(before: RunConfig, now: RunConfig, *, folder: pathlib.Path, free: tuple[str, ...] = ()) -> None:
    """Refuses a configuration that would not go on with what was begun.

    Args:
      before: what the run in ``folder`` was started with.
      now: what it is to go on with; ``train.change_on_resume`` says what may differ.
      folder: of the run, for the message.
      free: fields that may differ besides :data:`FREE_ON_RESUME`.

    Raises:
      ValueError: another field differs; names the first, with both values and the remedy.
    """
    changed = changed_fields(before, now, but=(*FREE_ON_RESUME, *free, *now.train.change_on_resume))
    if not changed:
        return
    path, (there, here) = next(iter(changed.items()))
    raise ValueError(
        f"{folder} holds another run: its {path} is {there!r}, here it is {here!r}"
        + (f" (and {len(changed) - 1} more fields differ)" if len(changed) > 1 else "")
        + ": choose another --folder, or delete that one to start anew"
        + (
            f"; to go on with the new value, name it: --train.change-on-resume {path}"
            if _is_below(path, CHANGEABLE)
            else ""
        )
    )


def changed_fields(before: RunConfig, now: RunConfig, *, but: tuple[str, ...] = ()) -> dict[str, tuple[Any, Any]]:
    """Dotted paths at which two configurations differ, with both values, without those of ``but`` or below them."""
    return {path: values for path, values in differences(before, now).items() if not _is_below(path, but)}


def _is_below(path: str, names: tuple[str, ...]) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in names)
