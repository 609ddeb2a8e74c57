"""Writes the numbers of a run (``metrics.jsonl``, TensorBoard, a tracker), and computes its speed and MFU.

``metrics.jsonl`` has one line for each step, which is a flat JSON object::

    {"step": 100, "train/loss": 3.21, "learning_rate": 0.0006, "grad_norm": 0.8, "tokens_per_second": 51234.0}
"""

import collections
import contextlib
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from lmjax.parallel import distributed
from lmjax.train.metrics_file import JsonLines, read_lines
from lmjax.train.samples_file import Written, append_samples, drop_samples_from
from lmjax.train.trackers import Session, Tracker

METRICS_FILE = "metrics.jsonl"


def read_metrics(path: str | os.PathLike) -> list[dict[str, float]]:
    """Returns the lines of a ``metrics.jsonl`` (or of the one in a run folder), in order.

    A number that was not finite is written as ``null`` and read as NaN. A line that does not hold a step and numbers,
    such as one that a killed run left half written, is skipped.

    Raises:
      OSError: the file does not exist or cannot be read.
    """
    path = pathlib.Path(path)
    lines, _ = read_lines(path / METRICS_FILE if path.is_dir() else path)
    return [{name: math.nan if value is None else value for name, value in line.items()} for line in lines]


class MetricWriters:
    """Writes the numbers of each step to all places that the configuration asks for, in the primary process only.

    Args:
      folder: the run folder.
      first_step: the first step that this process will write. Lines from this step on are dropped (atomically): a run
        that was killed after its last checkpoint has left them.
      tensorboard: whether to write TensorBoard event files as well, into ``folder/tensorboard``.
      tracker: another place to log to; after a resume, to the same run there.
      settings: the configuration of the run by dotted path, for the tracker.

    Attributes:
      earlier: the lines of ``metrics.jsonl`` that are kept from earlier starts; empty in other processes.

    Raises:
      ValueError: the package of the tracker is not installed.
      OSError: the folder cannot be written to.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        first_step: int = 0,
        tensorboard: bool = True,
        tracker: Tracker | None = None,
        settings: Mapping[str, Any] | None = None,
    ):
        self._folder = folder = pathlib.Path(folder)
        self._file: JsonLines | None = None
        self.earlier: list[dict[str, float]] = []
        self._tensorboard: EventFile | None = None
        self._session: Session | None = None
        if not distributed.is_primary():
            return
        # This comes before anything is written, so that a missing package leaves no files.
        if tracker is not None:
            tracker.check()
            self._session = tracker.open(folder, settings or {})
        folder.mkdir(parents=True, exist_ok=True)
        self._file = JsonLines(folder / METRICS_FILE, first_step=first_step)
        drop_samples_from(folder, first_step)
        self.earlier = read_metrics(folder)
        if tensorboard:
            self._tensorboard = EventFile(folder / "tensorboard", first_step=first_step)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Adds the numbers of a step; a second call for the same step adds to its line.

        Args:
          step: the step, which must not be below that of the previous call.
          metrics: the numbers by name, as Python, numpy or jax scalars.
        """
        numbers = {name: value if isinstance(value, int) else float(value) for name, value in metrics.items()}
        if self._file is not None:
            self._file.write(step, numbers)
        if self._tensorboard is not None:
            self._tensorboard.write(step, numbers)
        if self._session is not None:
            self._session.write(step, numbers)

    def write_texts(self, step: int, evaluation: str, texts: Sequence[Written]) -> None:
        """Keeps the texts that an evaluation has written, in ``samples.jsonl``."""
        if self._file is not None:
            append_samples(self._folder, step, evaluation, texts)

    def close(self) -> None:
        """Flushes and closes all files and connections."""
        if self._file is not None:
            self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._session is not None:
            self._session.close()

    def __enter__(self) -> "MetricWriters":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class EventFile:
    """A new TensorBoard event file. It hides the events that older files hold from ``first_step`` on.

    It is written in the caller's thread. TensorBoard's own writer uses another thread, which ends without an
    error when the disk is full; its caller then waits for ever.
    """

    def __init__(self, folder: pathlib.Path, *, first_step: int, flush_seconds: float = 10.0):
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard takes the text before a colon for a kind of storage, unless the path begins with a slash.
        self._writer = EventsWriter(str(folder.absolute() / "events"), filename_suffix=f".{os.getpid()}")
        self._flush_seconds = flush_seconds
        self._flushed_at = time.monotonic()
        if first_step:
            self._writer.write_event(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds the numbers of a step. They are on disk after ``flush_seconds`` and one more step at the latest."""
        values = [Summary.Value(tag=name, simple_value=number) for name, number in numbers.items()]
        self._writer.write_event(Event(step=step, wall_time=time.time(), summary=Summary(value=values)))
        if time.monotonic() - self._flushed_at >= self._flush_seconds:
            self._writer.flush()
            self._flushed_at = time.monotonic()

    def close(self) -> None:
        """Flushes and closes the file."""
        self._writer.close()


class Throughput:
    """Measures tokens per second, and the time spent waiting for rows, over the last ``window`` steps.

    The first step is left out, because it compiles.

    Args:
      waited: returns the seconds that the run has waited for rows until now.
      window: the number of steps to average over.
      clock: a function that returns the time in seconds; tests replace it.
    """

    def __init__(
        self, waited: Callable[[], float], *, window: int = 50, clock: Callable[[], float] = time.perf_counter
    ):
        if window < 1:
            raise ValueError(f"window={window}: must be at least 1")
        self._waited, self._clock = waited, clock
        self._paused = 0.0
        self._tokens = 0
        self._marks: collections.deque[tuple[float, int, float]] = collections.deque(maxlen=window + 1)

    def step(self, num_tokens: int) -> float | None:
        """Counts a step that has just finished, and returns tokens per second so far; ``None`` at the first step."""
        self._tokens += num_tokens
        self._marks.append((self._clock() - self._paused, self._tokens, self._waited()))
        (first_time, first_tokens, _), (last_time, last_tokens, _) = self._marks[0], self._marks[-1]
        return (last_tokens - first_tokens) / (last_time - first_time) if last_time > first_time else None

    @property
    def num_steps(self) -> int:
        """The number of steps that are averaged over."""
        return max(len(self._marks) - 1, 0)

    @property
    def waiting_share(self) -> float:
        """The share of the time of these steps in which the step could not begin because its rows were not there."""
        if self.num_steps == 0:
            return 0.0
        (first_time, _, first_waited), (last_time, _, last_waited) = self._marks[0], self._marks[-1]
        return (last_waited - first_waited) / (last_time - first_time) if last_time > first_time else 0.0

    @property
    def waiting_seconds(self) -> float:
        """The mean time, in seconds, that one of these steps has waited for its rows."""
        return (self._marks[-1][2] - self._marks[0][2]) / self.num_steps if self.num_steps else 0.0

    def restart(self) -> None:
        """Forgets all steps so far. It is called when the next step compiles or has another size."""
        self._tokens = 0
        self._marks.clear()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of the block, such as a validation or a save, out of the count."""
        begin = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - begin


PEAK_BF16_FLOPS: dict[str, float] = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "GB200": 2500e12,
    "B200": 2250e12,
    "A100": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "TPU7x": 1155e12,
}
"""Peak FLOPs per second of one jax device, for dense bfloat16.

The first entry whose name is part of the ``device_kind`` holds.

The numbers are from the vendors' data sheets. A device is a chip, except for TPU 7x, where a chip is two devices.
"""


def peak_flops(device_kind: str) -> float | None:
    """Returns the peak FLOPs per second of a device in bfloat16; ``None`` if it is not known (as for a CPU)."""
    return next((peak for part, peak in PEAK_BF16_FLOPS.items() if part.lower() in device_kind.lower()), None)


def mfu(flops_per_token: float, tokens_per_second: float, devices: Iterable[Any]) -> float | None:
    """Returns the model FLOPs utilisation (PaLM, appendix B): FLOPs the model needs over those the devices could do.

    Args:
      flops_per_token: FLOPs of the forward and backward pass for one token, without recomputation.
      tokens_per_second: the tokens per second of all devices together.
      devices: the jax devices of the run.

    Returns:
      A fraction of 1, or ``None`` if the peak of a device is not known.
    """
    peaks = [peak_flops(device.device_kind) for device in devices]
    known = [peak for peak in peaks if peak is not None]
    return flops_per_token * tokens_per_second / sum(known) if known and len(known) == len(peaks) else None
