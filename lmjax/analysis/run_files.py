"""What the files of a run folder say about the run. Damaged files are passed over: any folder can be looked at."""

import dataclasses
import functools
import json
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from lmjax.parallel.folder_lock import is_locked
from lmjax.remote.lease import LEASE, looks_alive
from lmjax.train.checkpoint.folder import steps_there
from lmjax.train.config_file import flatten
from lmjax.train.metrics import METRICS_FILE, read_metrics
from lmjax.train.metrics_file import parsed
from lmjax.train.record import Record, read_record
from lmjax.train.run_folder import CHECKPOINTS, CONFIG, LEASE_FILE
from lmjax.train.samples_file import Sample, read_samples

State = Literal["running", "finished", "stopped", "failed"]
"""``stopped``: it ended early with all of its steps saved. ``failed``: it ended otherwise, as by a fault or a kill."""
TAIL_BYTES = 1 << 20
"""How much of the end of a long ``metrics.jsonl`` is read for one line of a list."""
DEEPEST = 4
"""How many folders deep runs are looked for."""


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """A run folder.

    Attributes:
      folder: the folder.
      config: its ``config.json`` as JSON values; empty if it is missing or damaged.
    """

    folder: pathlib.Path
    config: dict[str, Any]

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """The settings of the run by dotted path."""
        return flatten(self.config)

    @functools.cached_property
    def lines(self) -> list[dict[str, float]]:
        """All lines of ``metrics.jsonl``; of two lines of one step, the later number counts."""
        try:
            return one_line_a_step(read_metrics(self.folder))
        except OSError:
            return []

    @functools.cached_property
    def last_lines(self) -> list[dict[str, float]]:
        """The lines at the end of ``metrics.jsonl``, which are all lines of a short file."""
        try:
            with open(self.folder / METRICS_FILE, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(size - TAIL_BYTES, 0))
                texts = file.read().split(b"\n")
        except OSError:
            return []
        lines = [line for line in map(parsed, texts[1:] if size > TAIL_BYTES else texts) if line is not None]
        return one_line_a_step(
            [{name: math.nan if value is None else value for name, value in line.items()} for line in lines]
        )

    @functools.cached_property
    def samples(self) -> list[Sample]:
        """The texts that the run's evaluations wrote."""
        try:
            return read_samples(self.folder)
        except OSError:
            return []

    @property
    def name(self) -> str:
        """The name of the recipe."""
        return str(self.config.get("name", self.folder.resolve().name))

    @property
    def objective(self) -> str:
        """The class of the objective; empty if it is not known."""
        kind = self.settings.get("objective.type")
        return kind.rpartition(":")[2] if isinstance(kind, str) else ""

    @property
    def total_steps(self) -> int | None:
        """The number of steps that the run is to do."""
        steps = self.settings.get("train.steps")
        return steps if isinstance(steps, int) else None

    @functools.cached_property
    def record(self) -> Record | None:
        """Its ``record.json``; None if it is missing or damaged."""
        try:
            return read_record(self.folder)
        except (OSError, ValueError):
            return None

    @functools.cached_property
    def last_saved(self) -> int | None:
        """The last step that is known to have been saved."""
        saved = None if self.record is None else self.record.last_saved
        return max([*steps_there(self.folder / CHECKPOINTS), *([] if saved is None else [saved])], default=None)

    @property
    def last_step(self) -> int:
        """The last step that is known of."""
        return int(max([line["step"] for line in self.last_lines[-1:]] + [self.last_saved or 0]))

    @property
    def state(self) -> State:
        """How the run is, as far as the files tell."""
        if is_locked(self.folder) or self._is_leased:
            return "running"
        saved = -1 if self.last_saved is None else self.last_saved
        if self.total_steps is not None and saved >= self.total_steps:
            return "finished"
        return "stopped" if saved >= max(self.last_step, 1) else "failed"

    @property
    def _is_leased(self) -> bool:
        """Whether another machine trains it, as a lease in the folder or in object storage tells."""
        for name in (LEASE, LEASE_FILE):
            try:
                if looks_alive((self.folder / name).read_bytes()):
                    return True
            except OSError:
                continue
        return False

    @property
    def changed_at(self) -> float:
        """When ``metrics.jsonl`` was last written to, in seconds since 1970; 0 if it does not exist."""
        try:
            return (self.folder / METRICS_FILE).stat().st_mtime
        except OSError:
            return 0.0

    def last(self, name: str) -> float | None:
        """Returns the last finite value of a number."""
        for line in reversed(self.last_lines):
            value = line.get(name)
            if value is not None and math.isfinite(value):
                return value
        return None


def one_line_a_step(lines: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Returns lines in the order of their steps, with the lines of one step joined; the later number counts."""
    joined: dict[float, dict[str, float]] = {}
    for line in lines:
        joined[line["step"]] = joined.get(line["step"], {}) | line
    return [joined[step] for step in sorted(joined)]


def read_run(folder: str | os.PathLike) -> RunFiles:
    """Returns the files of a run folder.

    Raises:
      ValueError: it is not the folder of a run that has begun.
    """
    folder = pathlib.Path(folder)
    config = _config(folder)
    if config is None and not (folder / METRICS_FILE).is_file():
        raise ValueError(f"{folder} is not the folder of a run that has begun: it has no {METRICS_FILE}")
    return RunFiles(folder, config or {})


def find_runs(folder: str | os.PathLike) -> list[RunFiles]:
    """Returns the runs in a folder and in the folders below it.

    Raises:
      ValueError: there is no such folder.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: name the folder that your runs are in")
    return [RunFiles(path, config) for path, config in _below(folder, DEEPEST)]


def _below(folder: pathlib.Path, depth: int) -> Iterator[tuple[pathlib.Path, dict[str, Any]]]:
    config = _config(folder)
    if config is not None:
        yield folder, config
    elif depth > 0:
        try:
            inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
        except OSError:
            return
        for path in inner:
            yield from _below(path, depth - 1)


def _config(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns the configuration of a run folder; None if it is none, and an empty one if it is damaged."""
    try:
        content = json.loads((folder / CONFIG).read_bytes())
    except OSError:
        return None
    except (ValueError, RecursionError):
        return {} if (folder / METRICS_FILE).exists() or (folder / CHECKPOINTS).exists() else None
    is_ours = isinstance(content, dict) and "train" in content and "model" in content
    return content if is_ours else None
