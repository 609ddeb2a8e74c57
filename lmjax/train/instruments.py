"""The instruments that watch a run: its metric files, progress bar, clock, watchdog and signals."""

import contextlib
import dataclasses
from collections.abc import Iterator

from lmjax.train.checkpoint.grace import Grace
from lmjax.train.config import RunConfig
from lmjax.train.config_file import flatten, to_json
from lmjax.train.goodput import Goodput
from lmjax.train.guard import GracefulExit, Watchdog
from lmjax.train.maintenance import Notices
from lmjax.train.metrics import MetricWriters, Throughput
from lmjax.train.progress import ProgressReport

SIGNS = ".alive"
"""The folder in the run folder in which several processes leave signs of life."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instruments:
    """The instruments of a run.

    Attributes:
      writers: write the numbers of steps and evaluations to files.
      progress: shows these numbers to a person.
      throughput: counts tokens per second; it is paused during work that is not a step.
      watchdog: ends a process that is stuck; it must be told of long work and of each sign of life.
      graceful: tells whether a signal has asked the run to stop; it is entered once there is something to save.
      goodput: the account of the run's time.
    """

    writers: MetricWriters
    progress: ProgressReport
    throughput: Throughput
    watchdog: Watchdog
    graceful: GracefulExit
    goodput: Goodput
    _compiled: set[object] = dataclasses.field(default_factory=set)

    @contextlib.contextmanager
    def running(self, program: object) -> Iterator[None]:
        """Counts the time of the block as that of compiling if it is the first that runs this program."""
        if program in self._compiled:
            yield
            return
        self._compiled.add(program)
        self.watchdog.expect_long()
        with self.goodput.spending("compile"):
            yield


@contextlib.contextmanager
def open_instruments(config: RunConfig, *, first_step: int, goodput: Goodput, grace: Grace) -> Iterator[Instruments]:
    """Opens the instruments of a run until the block ends.

    Args:
      config: the configuration of the run, which says what is written and when the watchdog ends the process.
      first_step: number of steps done before this start; lines of metrics for later steps are dropped.
      goodput: the account of the run's time until now.
      grace: how long a save takes.

    Raises:
      ValueError, OSError: metrics cannot be written as the configuration asks.
    """
    train = config.train
    with contextlib.ExitStack() as stack:
        writers = MetricWriters(
            config.run_folder,
            first_step=first_step + 1 if first_step else 0,
            tensorboard=train.tensorboard,
            tracker=config.tracker,
            settings=flatten(to_json(config)),
        )
        graceful = GracefulExit(saves=config.checkpoint.on_signal, expected=grace.expected)
        if train.maintenance_notices:
            stack.enter_context(Notices(graceful.ask))
        yield Instruments(
            writers=stack.enter_context(writers),
            graceful=graceful,
            watchdog=stack.enter_context(Watchdog(train.watchdog_minutes, signs=config.run_folder / SIGNS)),
            progress=stack.enter_context(ProgressReport(train.steps, first_step=first_step)),
            throughput=Throughput(goodput.waited),
            goodput=goodput,
        )
