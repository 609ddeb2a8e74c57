"""Weights & Biases. The environment decides where its data go: ``WANDB_MODE=offline`` keeps them in the run folder."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

from lmjax.train.trackers.tracker import Session, Tracker, kept_id


@dataclasses.dataclass(frozen=True, kw_only=True)
class WandB(Tracker):
    """Logs to Weights & Biases (needs the extra `wandb`)."""

    entity: str | None = None
    """The user or team that the project belongs to; that of the login when unset."""

    package: ClassVar[str | None] = "wandb"

    def open(self, folder: pathlib.Path, config: Mapping[str, Any]) -> Session:
        """Begins a run, or goes on with it. Steps that were sent before are not sent again."""
        import wandb

        run = wandb.init(
            project=self.project,
            entity=self.entity,
            name=folder.resolve().name,
            dir=str(folder),
            id=kept_id(folder, "wandb"),
            resume="allow",
            config={**config},
        )
        return _Session(run)


class _Session:
    def __init__(self, run: Any):
        self._run = run
        # Weights & Biases refuses steps below this one, with a warning for each.
        self._first = run.step if isinstance(run.step, int) else 0

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        if step >= self._first:
            self._run.log({**numbers}, step=step)

    def close(self) -> None:
        self._run.finish()
