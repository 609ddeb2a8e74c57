"""Decides which fields of its configuration a run may change when it goes on."""

import pathlib
from typing import Any

from lmjax.data.mixing import Weights, described, weights_until
from lmjax.models.execution import INTERCHANGEABLE
from lmjax.train.config import CHANGEABLE, RunConfig
from lmjax.train.config_file import differences

FREE_ON_RESUME = (
    "name", "folder", "local_folder", "mesh", "checkpoint", "distributed", "train.steps", "train.log_every",
    "train.eval_every", "train.eval_batches", "train.profile", "train.watchdog_minutes", "train.maintenance_notices",
    "train.recompute_every", "train.compare_replicas_every", "train.tensorboard", "train.microbatches",
    "train.gradient_noise", "train.change_on_resume", "evaluations", "tracker", "on_fault", "data.max_epochs",
    "data.read_threads", "data.cache_gigabytes",
    *(f"model.execution.{name}" for name in INTERCHANGEABLE),
)  # fmt: skip
"""Fields that may differ when a run goes on: they change no result, or the user clearly wants it (``train.steps``)."""
MIXING = ("data.weights", "data.temperature", "data.stages")
"""Fields that may differ where they decide rows that are not read yet, see :func:`check_same_mixing`."""
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
    sources = [f"data.sources.{name}" for name in before.data.sources.keys() ^ now.data.sources.keys()]
    changed = changed_fields(before, now, but=(*FREE_ON_RESUME, *MIXING, *sources, *free, *now.train.change_on_resume))
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


def check_same_mixing(before: Weights, now: Weights, *, step: int, folder: pathlib.Path) -> None:
    """Refuses other weights for the steps that a run has done; those of later steps may change.

    Args:
      before: the shares of the sources, stage by stage, that the run has had until now.
      now: those that it is to go on with.
      step: the number of steps whose rows the run has read or passed over.
      folder: the folder of the run, for the message.

    Raises:
      ValueError: rows would be read again or never.
    """
    done, wanted = weights_until(before, step), weights_until(now, step)
    if done == wanted:
        return
    had = "; ".join(f"from step {first} on: {described(shares)}" for first, shares in done)
    asked = "; ".join(f"from step {first} on: {described(shares)}" for first, shares in wanted)
    raise ValueError(
        f"{folder}: the first {step} steps have read their rows, or passed over them, with these weights: {had}; here "
        f"they are: {asked}. Rows would be repeated or skipped: keep those, and give other weights from step {step} or "
        f"later on (data.stages)"
    )
