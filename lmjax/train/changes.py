"""Decides which fields of its configuration a run may change when it goes on."""

import pathlib
from typing import Any

from lmjax.models.execution import INTERCHANGEABLE
from lmjax.train.config import CHANGEABLE, RunConfig
from lmjax.train.config_file import differences

FREE_ON_RESUME = (
    "name", "folder", "mesh", "checkpoint", "distributed", "train.steps", "train.log_every", "train.eval_every",
    "train.eval_batches", "train.profile", "train.watchdog_minutes", "train.recompute_every",
    "train.compare_replicas_every", "train.tensorboard", "train.microbatches", "train.gradient_noise",
    "train.change_on_resume", "evaluations", "tracker", "on_fault",
    *(f"model.execution.{name}" for name in INTERCHANGEABLE),
)  # fmt: skip
"""Fields that may differ when a run goes on: they change no result, or the user clearly wants it (``train.steps``)."""
FREE_IN_A_BRANCH = ("schedule", "train.init_from", "train.branch_from")
"""Fields that a run that branches off another run may change as well."""


def check_same_run(before: RunConfig, now: RunConfig, *, folder: pathlib.Path, free: tuple[str, ...] = ()) -> None:
    """Refuses a configuration with which a run cannot go on.

    Args:
      before: the configuration that the run in ``folder`` was started with.
      now: the configuration that it is to go on with; its ``train.change_on_resume`` names fields that may differ.
      folder: the folder of the run, for the message.
      free: fields that may differ besides :data:`FREE_ON_RESUME`.

    Raises:
      ValueError: another field differs; the message names the first one, with both values and the remedy.
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
    """Returns the dotted paths at which two configurations differ, with both values; not those in or below ``but``."""
    return {path: values for path, values in differences(before, now).items() if not _is_below(path, but)}


def _is_below(path: str, names: tuple[str, ...]) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in names)
