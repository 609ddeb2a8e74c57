"""Tasks that processes divide among themselves: those of this machine, of an engine, and others that share the folder.

Each task ends with a file that says it is done. A process that begins a task locks it first, so no two do the same, and
the lock ends with its process: what a killed process had begun is done by another.
"""

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

from lmjax.parallel.folder_lock import FolderInUseError, folder_lock, is_locked

Progress = Callable[[int, int], None]
MEMBERS = "members"
_POLL_SECONDS = 1.0
"""How often to look whether a task that another process does is done."""
_REPORT_SECONDS = 0.2
_ANSWER_SECONDS = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Where:
    """Where tasks are done: by processes of this machine, by default one for each core, or by a Dask cluster."""

    workers: int | None = None
    engine: str | None = None


class WorkerDiedError(RuntimeError):
    """A process that did a task has died."""


class Work(Protocol):
    """Tasks of one kind, each with a number and an item that says what to do; it is sent to other processes."""

    def is_done(self, number: int) -> bool:
        """Returns whether a task is done."""

    def claim(self, number: int) -> pathlib.Path:
        """Returns the folder that is locked while a task is being done."""

    def __call__(self, number: int, item: Any, advance: Callable[[int], None]) -> None:
        """Does a task; ``advance`` is called with the number of bytes that were read since the last call."""


def do_all(
    work: Work,
    items: Mapping[int, Any],
    sizes: Mapping[int, int],
    *,
    num_workers: int | None,
    engine: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Does the tasks that are not done yet, and returns when all are, whoever has done them.

    Args:
      work: does a task.
      items: what each task is given, by its number.
      sizes: bytes that each task reads.
      num_workers: processes of this machine; by default one for each core, and never more than there are tasks.
      engine: the address of a Dask scheduler, whose workers do the tasks in place of processes of this machine.
      progress: called with the bytes that are done, and the bytes in all.

    Raises:
      ValueError: a task refuses its input; or Dask is not installed, or does not answer at the address.
      WorkerDiedError: a worker died; with an engine, several have died of the same task.
    """
    total = sum(sizes.values())
    left = {number for number in items if not work.is_done(number)}
    before = total - sum(sizes[number] for number in left)
    report = progress or (lambda done, total: None)
    report(before, total)
    num_workers = min(len(left), num_workers or os.cpu_count() or 1)
    if not left:
        return
    with _runner(num_workers, engine, lambda count: report(min(before + count, total), total)) as (submit, counted):
        while left:
            waiting = {submit(work, number, items[number], sizes[number]): number for number in sorted(left)}
            unfinished = set(waiting)
            while unfinished:
                finished, unfinished = concurrent.futures.wait(
                    unfinished, timeout=_REPORT_SECONDS, return_when="FIRST_EXCEPTION"
                )
                left -= {waiting[future] for future in finished if future.result()}
                report(min(before + counted(), total), total)
            if left:
                time.sleep(_POLL_SECONDS)


def attempt(work: Work, number: int, item: Any, size: int, advance: Callable[[int], None]) -> bool:
    """Does a task unless it is done; returns whether it is done now, False if another process is doing it."""
    if not work.is_done(number):
        try:
            with folder_lock(work.claim(number), "is being worked on"):
                # Another process may have finished it before the lock was free.
                if not work.is_done(number):
                    work(number, item, advance)
                    return True
        except FolderInUseError:
            return False
    advance(size)
    return True


@contextlib.contextmanager
def membership(folder: pathlib.Path, doing: str) -> Iterator[None]:
    """Shows other processes, until the block ends, that this one works on the tasks of ``folder``."""
    with folder_lock(folder / MEMBERS / f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}", doing):
        yield


def has_members(folder: pathlib.Path) -> bool:
    """Returns whether any process works on the tasks of ``folder`` now."""
    members = folder / MEMBERS
    return members.is_dir() and any(is_locked(member) for member in members.iterdir())


Submit = Callable[[Work, int, Any, int], concurrent.futures.Future]


@contextlib.contextmanager
def _runner(
    num_workers: int, engine: str | None, counted_here: Callable[[int], None]
) -> Iterator[tuple[Submit, Callable[[], int]]]:
    """Gives a function that starts a task somewhere, and one that returns the number of bytes read so far."""
    if engine is not None:
        with _on_engine(engine) as runner:
            yield runner
    elif num_workers > 1:
        with _in_processes(num_workers) as runner:
            yield runner
    else:
        yield _here(counted_here)


def _here(counted_here: Callable[[int], None]) -> tuple[Submit, Callable[[], int]]:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        counted_here(done)

    def submit(work: Work, number: int, item: Any, size: int) -> concurrent.futures.Future:
        future: concurrent.futures.Future = concurrent.futures.Future()
        future.set_result(attempt(work, number, item, size, advance))
        return future

    return submit, lambda: done


@contextlib.contextmanager
def _in_processes(num_workers: int) -> Iterator[tuple[Submit, Callable[[], int]]]:
    spawn = multiprocessing.get_context("spawn")
    counter = spawn.Value("q", 0)
    pool = concurrent.futures.ProcessPoolExecutor(
        num_workers, mp_context=spawn, initializer=_start_worker, initargs=(counter,)
    )

    def submit(work: Work, number: int, item: Any, size: int) -> concurrent.futures.Future:
        # A terminal sends Ctrl-C to the workers as well. They ignore it: the parent handles it and ends them.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return pool.submit(_attempt_in_worker, work, number, item, size)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)

    try:
        yield submit, lambda: counter.value
    except BrokenProcessPool:
        raise WorkerDiedError(
            "a working process died (out of memory?): use fewer workers; what is done stays done"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_counter: Any = None


def _start_worker(counter: Any) -> None:
    global _counter
    _counter = counter
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    # Without this, the workers would survive a killed parent and go on writing beside the next preparation.
    threading.Thread(target=end_with_parent, daemon=True).start()


def _attempt_in_worker(work: Work, number: int, item: Any, size: int) -> bool:
    def advance(count: int) -> None:
        with _counter.get_lock():
            _counter.value += count

    return attempt(work, number, item, size, advance)


@contextlib.contextmanager
def _on_engine(address: str) -> Iterator[tuple[Submit, Callable[[], int]]]:
    """Runs tasks on the workers of a Dask cluster, which begins a task again elsewhere when a worker dies."""
    try:
        import distributed
    except ImportError:
        raise ValueError(f"engine {address} needs Dask: pip install 'lmjax[dask]'") from None
    try:
        client = distributed.Client(address, timeout=_ANSWER_SECONDS)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"engine {address}: no Dask scheduler answers there ({error}): start one, or correct it"
        ) from None
    done = 0

    def count(future: concurrent.futures.Future, size: int) -> None:
        nonlocal done
        if not future.cancelled() and future.exception() is None and future.result():
            done += size

    with client, client.get_executor(pure=False) as executor:

        def submit(work: Work, number: int, item: Any, size: int) -> concurrent.futures.Future:
            future = executor.submit(_attempt_silently, work, number, item, size)
            future.add_done_callback(lambda future: count(future, size))
            return future

        try:
            yield submit, lambda: done
        except distributed.KilledWorker as error:
            raise WorkerDiedError(
                f"a task has ended several workers (out of memory?); what is done stays done: {error}"
            ) from None


def _attempt_silently(work: Work, number: int, item: Any, size: int) -> bool:
    return attempt(work, number, item, size, lambda count: None)
