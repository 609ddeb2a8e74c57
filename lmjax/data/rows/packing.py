"""Best-fit-decreasing packing: whole documents fill rows with almost no padding.

In the order of decreasing length, each document goes to the row with the least room in which it still fits (Ding et
al., "Fewer Truncations Improve Language Modeling", 2024, §3). Lengths are small integers, so documents of one length
are placed together and rows are kept by the room they have left: the work is a few array operations for each distinct
length instead of a search for each document.

The plan is made once for a row length and kept in the prepared folder; it is read memory-mapped.
"""

import bisect
import contextlib
import dataclasses
import os
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Iterator

import numpy as np

from lmjax.atomic_files import write_json
from lmjax.data.manifest import read_json
from lmjax.data.rows.shard_reader import TokenShards
from lmjax.data.verification import sha256_of

DOCUMENTS_AT_ONCE = 1 << 20
"""Documents that are packed together. This limits memory; more documents would not fill rows better."""


def best_fit_decreasing(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
    """Assigns items to bins.

    Args:
      lengths: int [items], the lengths of the items, from 1 to ``capacity``.
      capacity: the size of a bin.

    Returns:
      int64 [items], the bin of each item, and the number of bins.
    """
    order = np.argsort(-lengths, kind="stable")
    bins = np.empty(len(lengths), np.int64)
    distinct, starts = np.unique(-lengths[order], return_index=True)
    bins_by_room: dict[int, list[np.ndarray]] = {}
    rooms: list[int] = []
    num_bins = 0

    def put_back(members: np.ndarray, room: int) -> None:
        if room == 0 or not members.size:
            return
        if room not in bins_by_room:
            bisect.insort(rooms, room)
        bins_by_room.setdefault(room, []).append(members)

    for negative_length, items in zip(distinct, np.split(order, starts[1:]), strict=True):
        length = -int(negative_length)
        while items.size:
            place = bisect.bisect_left(rooms, length)
            if place < len(rooms):
                room = rooms.pop(place)
                candidates = np.concatenate(bins_by_room.pop(room))
            else:
                room = capacity
                candidates = np.arange(num_bins, num_bins + -(-items.size // (capacity // length)))
                num_bins += candidates.size
            # After a bin has taken an item, it is the fullest bin that can take another one, until it has too little
            # room.
            each = room // length
            used = min(-(-items.size // each), candidates.size)
            placed = min(used * each, items.size)
            bins[items[:placed]] = np.repeat(candidates[:used], each)[:placed]
            in_last = placed - (used - 1) * each
            put_back(candidates[: used - 1], room - each * length)
            put_back(candidates[used - 1 : used], room - in_last * length)
            put_back(candidates[used:], room)
            items = items[placed:]
    return bins, num_bins


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PackingPlan:
    """The stretches of the stream that make each row: row r has those from ``row_bounds[r]`` to ``row_bounds[r + 1]``.

    Attributes:
      starts: int64 [stretches], the place of each in the stream.
      lengths: int32 [stretches], the number of tokens of each.
      row_bounds: int64 [rows + 1], the first stretch of each row, and the number of stretches.
    """

    starts: np.ndarray
    lengths: np.ndarray
    row_bounds: np.ndarray

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.row_bounds) - 1


_SUMS = "sha256.json"
_FILES = {"starts": "<i8", "lengths": "<i4", "row_bounds": "<i8"}


def packing_plan(shards: TokenShards, row_length: int) -> PackingPlan:
    """Returns the plan for rows of ``row_length`` from the prepared folder; if there is none, makes it and saves it
    there.

    A document longer than a row is cut into full rows and a rest, which is packed like a document.
    """
    name = f"{shards.split}-{row_length}-{shards.manifest.fingerprint[:16]}"
    folder = shards.folder / "packing" / name
    if folder.is_dir():
        if _is_whole(folder):
            return _open_plan(folder)
        # A damaged plan is made again from the shards.
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
    with contextlib.suppress(OSError):
        folder.parent.mkdir(exist_ok=True)
    writable = os.access(folder.parent, os.W_OK)
    partial = pathlib.Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent if writable else None))
    try:
        _write_plan(partial, shards, row_length)
        if not writable:
            plan = _open_plan(partial)
            weakref.finalize(plan, shutil.rmtree, partial, ignore_errors=True)
            return plan
        # Another process may have saved the same plan meanwhile.
        with contextlib.suppress(OSError):
            partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(partial, ignore_errors=True)
    return _open_plan(folder)


def _is_whole(folder: pathlib.Path) -> bool:
    """Returns whether the files of a plan are unchanged since it was saved."""
    try:
        return read_json(folder / _SUMS) == {name: sha256_of(folder / name) for name in _FILES}
    except (OSError, ValueError):
        return False


def _open_plan(folder: pathlib.Path) -> PackingPlan:
    return PackingPlan(
        **{name: np.asarray(np.memmap(folder / name, np.dtype(d), mode="r")) for name, d in _FILES.items()}
    )


def _write_plan(folder: pathlib.Path, shards: TokenShards, row_length: int) -> None:
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(open(folder / name, "wb")) for name in _FILES}
        num_stretches = 0
        np.zeros(1, "<i8").tofile(files["row_bounds"])
        for starts, lengths in stretches(shards, row_length):
            rows, num_rows = best_fit_decreasing(lengths, row_length)
            order = np.lexsort((starts, rows))
            starts[order].astype("<i8").tofile(files["starts"])
            lengths[order].astype("<i4").tofile(files["lengths"])
            ends = num_stretches + np.cumsum(np.bincount(rows, minlength=num_rows))
            ends.astype("<i8").tofile(files["row_bounds"])
            num_stretches += len(starts)
    write_json(folder / _SUMS, {name: sha256_of(folder / name) for name in _FILES})


def stretches(shards: TokenShards, row_length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (start, length) of documents, about ``DOCUMENTS_AT_ONCE`` at a time; long documents are cut."""
    held_starts: list[np.ndarray] = []
    held_lengths: list[np.ndarray] = []
    held = 0
    for number in range(len(shards.shards)):
        bounds = shards.document_bounds(number)
        for first in range(0, len(bounds) - 1, DOCUMENTS_AT_ONCE):
            part = bounds[first : first + DOCUMENTS_AT_ONCE + 1]
            starts, lengths = _cut(part[:-1] + shards.shard_start(number), np.diff(part), row_length)
            held_starts.append(starts)
            held_lengths.append(lengths)
            held += len(starts)
            if held >= DOCUMENTS_AT_ONCE:
                yield np.concatenate(held_starts), np.concatenate(held_lengths)
                held_starts, held_lengths, held = [], [], 0
    if held:
        yield np.concatenate(held_starts), np.concatenate(held_lengths)


def _cut(starts: np.ndarray, lengths: np.ndarray, row_length: int) -> tuple[np.ndarray, np.ndarray]:
    counts = -(-lengths // row_length)
    document = np.repeat(np.arange(len(starts)), counts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    cut_starts = starts[document] + number * row_length
    return cut_starts, np.minimum(lengths[document] - number * row_length, row_length)
