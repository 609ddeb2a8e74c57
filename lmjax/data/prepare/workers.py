"""The units of a preparation are encoded in this process, or in several processes at the same time."""

import concurrent.futures
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from lmjax.data.mixing import TOKENIZER
from lmjax.data.prepare.encode import Job, Tokenizer, encode_unit, read_entry
from lmjax.data.prepare.sources import Piece

Progress = Callable[[int, int], None]
TokenizerLoader = Callable[[pathlib.Path], Tokenizer]


def do_units(
    job: Job,
    units: Sequence[Sequence[Piece]],
    tokenizer: Tokenizer,
    *,
    num_workers: int | None,
    progress: Progress | None,
    load_tokenizer: TokenizerLoader,
) -> None:
    """Encodes the units that are not done yet.

    Args:
      job: the settings of the preparation.
      units: all units; their entries in the folder of the job tell which are done.
      tokenizer: makes the ids.
      num_workers: processes; by default one for each core, and never more than there are units to do.
      progress: called with the bytes of input that are done, and the bytes in all.
      load_tokenizer: how a worker loads the saved copy of the tokenizer.

    Raises:
      ValueError: bad input.
      RuntimeError: a worker died.
    """
    total = sum(piece.end - piece.begin for unit in units for piece in unit)
    missing = [n for n in range(len(units)) if read_entry(job.folder, n) is None]
    to_do = sum(piece.end - piece.begin for n in missing for piece in units[n])
    before = total - to_do
    report = progress or (lambda done, total: None)
    report(before, total)
    num_workers = min(len(missing), num_workers or os.cpu_count() or 1)
    if num_workers <= 1:
        done = before

        def advance(count: int) -> None:
            nonlocal done
            done += count
            report(done, total)

        for number in missing:
            encode_unit(job, tokenizer, number, units[number], advance)
        return
    spawn = multiprocessing.get_context("spawn")
    counter = spawn.Value("q", before)
    pool = concurrent.futures.ProcessPoolExecutor(
        num_workers, mp_context=spawn, initializer=_start_worker, initargs=(job, load_tokenizer, counter)
    )
    try:
        # A terminal sends Ctrl-C to the workers as well. They ignore it: the parent handles it and ends them.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        waiting = {pool.submit(_do_unit_in_worker, number, units[number]) for number in missing}
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        while waiting:
            finished, waiting = concurrent.futures.wait(waiting, timeout=0.2, return_when="FIRST_EXCEPTION")
            for future in finished:
                future.result()
            report(counter.value, total)
    except BrokenProcessPool:
        raise RuntimeError(
            "a preparing process died (out of memory?): use fewer workers; what is done stays done"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_worker: dict[str, Any] = {}


def _start_worker(job: Job, load_tokenizer: TokenizerLoader, counter: Any) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    # Without this, the workers would survive a killed parent and go on writing beside the next preparation.
    threading.Thread(target=end_with_parent, daemon=True).start()
    tokenizer = load_tokenizer(job.folder / TOKENIZER)
    found, wanted = tokenizer.vocabulary.fingerprint, job.vocabulary.fingerprint
    assert found == wanted, f"the tokenizer saved in {job.folder} loads as another ({found} for {wanted})"
    _worker.update(job=dataclasses.replace(job, num_threads=1), tokenizer=tokenizer, counter=counter)


def _do_unit_in_worker(number: int, unit: Sequence[Piece]) -> None:
    counter = _worker["counter"]

    def advance(count: int) -> None:
        with counter.get_lock():
            counter.value += count

    encode_unit(_worker["job"], _worker["tokenizer"], number, unit, advance)
