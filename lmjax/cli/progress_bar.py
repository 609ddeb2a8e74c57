"""A rich bar for work measured in bytes; silent where the output is not a terminal."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn


@contextlib.contextmanager
def bytes_bar(description: str, *, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """Gives a callback ``(bytes done, bytes in all)``. The bar appears with the first call and ends when all is done.

    Args:
      description: the name of the work, shown beside the bar.
      console: where to draw; by default standard error, since standard output is for results.
    """
    console = console or Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(description)

    def advance(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)
        # The bar is stopped when all is done, because later work may draw a bar of its own.
        (bar.start if done < total else bar.stop)()

    try:
        yield advance
    finally:
        bar.stop()
