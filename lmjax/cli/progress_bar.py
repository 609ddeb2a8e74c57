"""A rich bar for work measured in bytes; silent where the output is not a terminal."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn


@contextlib.contextmanager
def bytes_bar(description: str, *, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """A callback ``(bytes done, bytes in all)``: the bar appears with the first call, and goes when all is done.

    Args:
      description: what is being done.
      console: where to draw; standard error by default, which leaves standard output to results.
    """
    console = console or Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(description)

    def advance(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)
        # Whatever follows may draw a bar of its own.
        (bar.start if done < total else bar.stop)()

    try:
        yield advance
    finally:
        bar.stop()
