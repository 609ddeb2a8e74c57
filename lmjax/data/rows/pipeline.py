"""Batches of rows, read on the host and sent to the devices; the only state is the number of the next step."""

import collections
import concurrent.futures
import dataclasses
import itertools
from collections.abc import Callable, Generator, Iterator
from typing import Any

import grain
import jax
import numpy as np

from lmjax.data.rows.source import RowSource
from lmjax.types import Rows


class _HostBatches:
    """The rows of this process in each global batch, by step, as a random-access source for Grain."""

    def __init__(self, rows: RowSource, *, local_batch_size: int, stride: int, first_row: int, end_row: int | None):
        self._rows = rows
        self._local_batch_size = local_batch_size
        self._stride = stride
        self._first_row = first_row
        self._end_row = end_row

    def __len__(self) -> int:
        return 1 << 62

    def __getitem__(self, step: int) -> Rows:
        first = self._first_row + step * self._stride
        indices = range(first, first + self._local_batch_size)
        if self._end_row is None:
            return self._rows.rows(indices)
        num_real = min(max(self._end_row - first, 0), self._local_batch_size)
        return _pad_batch(self._rows.rows(indices[:num_real]), self._local_batch_size)


def _pad_batch(rows: Rows, size: int) -> Rows:
    """Adds rows of weight 0. All batches have weights, so that they have the same structure."""
    missing = size - len(rows.tokens_BT)
    weights_BT: Any = rows.weights_BT
    if weights_BT is None:
        real_BT = np.ones(rows.tokens_BT.shape) if rows.segments_BT is None else rows.segments_BT != 0
        weights_BT = np.asarray(real_BT, np.float32)
    whole = dataclasses.replace(rows, weights_BT=weights_BT)
    return jax.tree.map(lambda array_BT: np.pad(array_BT, ((0, missing), (0, 0))), whole)


def batches(
    rows: RowSource,
    *,
    global_batch_size: int,
    start_step: int = 0,
    first_row: int = 0,
    num_rows: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 0,
    prefetch: int = 4,
) -> Iterator[Rows]:
    """Yields this process's part of the global batches ``start_step``, ``start_step + 1``, ...

    Global batch ``k`` is rows ``first_row + k·B`` to ``first_row + (k + 1)·B``; process ``h`` of ``H`` has part ``h``
    of ``H`` equal parts. The data therefore do not depend on the number of processes, and a run that starts at step
    ``k`` reads the same rows as an uninterrupted one.

    Args:
      rows: the source of the rows.
      global_batch_size: B.
      start_step: the first step.
      first_row: the row step 0 begins with.
      num_rows: stop after so many rows; a last batch that is not full gets rows of weight 0, and all batches have
        weights. ``None`` never stops.
      process_index: h; with ``process_count``, see :func:`process_share`.
      process_count: H.
      num_threads: Grain's reading threads; 0 reads in the calling thread, which is best for local files.
      prefetch: number of batches that the threads may read ahead; at least one each.

    Raises:
      ValueError: the processes do not divide the batch.
    """
    if global_batch_size < 1 or global_batch_size % process_count:
        raise ValueError(f"global_batch_size={global_batch_size}: not divisible by {process_count} processes")
    local_batch_size = global_batch_size // process_count
    source = _HostBatches(
        rows,
        local_batch_size=local_batch_size,
        stride=global_batch_size,
        first_row=first_row + process_index * local_batch_size,
        end_row=None if num_rows is None else first_row + num_rows,
    )
    num_steps = len(source) if num_rows is None else -(-num_rows // global_batch_size)
    steps = grain.MapDataset.source(source)[start_step:num_steps]
    return iter(
        steps.to_iter_dataset(
            grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=max(prefetch, num_threads))
        )
    )


def process_share(sharding: jax.sharding.Sharding, global_batch_size: int) -> tuple[int, int]:
    """Returns (process_index, process_count) for :func:`batches`, so that each process reads the rows of its devices.

    Processes whose devices hold the same rows (tensor parallelism across hosts) read the same part.

    Raises:
      ValueError: this process's devices hold no contiguous, equal part of the batch.
    """
    slices = sharding.addressable_devices_indices_map((global_batch_size, 1)).values()
    bounds = sorted({index[0].indices(global_batch_size)[:2] for index in slices if index is not None})
    begin, end = bounds[0][0], bounds[-1][1]
    contiguous = all(one[1] == other[0] for one, other in itertools.pairwise(bounds))
    if not contiguous or begin % (end - begin) or global_batch_size % (end - begin):
        raise ValueError(
            f"the devices of this process hold rows {bounds} of a batch of {global_batch_size}, not "
            f"one equal part: order the mesh so that a process's devices are neighbours on the batch axes"
        )
    return begin // (end - begin), global_batch_size // (end - begin)


def device_batches(iterator: Iterator[Rows], sharding: jax.sharding.Sharding, *, depth: int = 2) -> Generator[Rows]:
    """Yields global arrays on the devices; a background thread makes them ``depth`` batches ahead of the consumer.

    An exception of ``iterator`` is raised where its batch would have come. Closing the generator (or
    dropping it) ends the thread.

    Args:
      iterator: this process's rows.
      sharding: sharding of a [B, T] array.
      depth: number of batches that are made in advance, at least 1.
    """
    assert depth >= 1

    def load() -> Rows | None:
        rows = next(iterator, None)
        if rows is None:
            return None
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), rows)

    pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="device_batches")
    waiting = collections.deque(pool.submit(load) for _ in range(depth))
    return _drain(pool, waiting, load)


def _drain(
    pool: concurrent.futures.ThreadPoolExecutor, waiting: collections.deque, load: Callable[[], Rows | None]
) -> Generator[Rows]:
    try:
        while (rows := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(load))
            yield rows
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
