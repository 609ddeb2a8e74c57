"""trackio: a dashboard that keeps its data in a local folder (``TRACKIO_DIR``), or in a Hugging Face Space."""

import dataclasses
import pathlib
import secrets
from collections.abc import Mapping
from typing import Any, ClassVar

from lmjax.train.trackers.tracker import Session, Tracker, kept_id


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trackio(Tracker):
    """Logs to trackio (needs the extra `trackio`); `trackio show` opens its dashboard."""

    space: str | None = None
    """The Hugging Face Space that keeps the data, as in `USER/SPACE`; this machine when unset."""

    package: ClassVar[str | None] = "trackio"

    def open(self, folder: pathlib.Path, config: Mapping[str, Any]) -> Session:
        """Begins a run, or goes on with it. Steps that are there already are not added again."""
        import trackio

        # trackio knows a run by its name, so the name must be unlike that of other folders.
        name = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in folder.resolve().name)[:48]
        run = trackio.init(
            project=self.project,
            name=kept_id(folder, "trackio", new=f"{name}-{secrets.token_hex(2)}"),
            space_id=self.space,
            config={**config},
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        return _Session(run, self._last_step(run.name))

    def _last_step(self, name: str) -> int:
        """Returns the last step that this machine has of a run; -1 if it has none."""
        from trackio.sqlite_storage import SQLiteStorage

        try:
            return max((int(line["step"]) for line in SQLiteStorage.get_logs(self.project, name)), default=-1)
        except (AttributeError, KeyError, TypeError, ValueError):
            return -1  # It is not a public function: another version may not have it, and repeats a few steps.


class _Session:
    def __init__(self, run: Any, last_step: int):
        self._run, self._last_step = run, last_step

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        if step > self._last_step:
            self._run.log({**numbers}, step=step)

    def close(self) -> None:
        self._run.finish()
