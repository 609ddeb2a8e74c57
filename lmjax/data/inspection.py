"""What a prepared folder holds: counts, lengths of documents, how each packing would fill and cut, duplicates."""

import dataclasses
import pathlib

import numpy as np

from lmjax.data.duplicates import Duplicates, estimate_duplicates
from lmjax.data.manifest import MANIFEST, Manifest
from lmjax.data.rows.packing import best_fit_decreasing, stretches
from lmjax.data.rows.shard_reader import TokenShards, open_shards
from lmjax.data.stored import place_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packing:
    """How a packing would make rows of one length.

    Attributes:
      rows: number of rows in an epoch.
      fill: share of the positions that hold text.
      cut: share of the documents that are cut, or lose their end.
      lost: share of the tokens that no row of an epoch holds.
    """

    rows: int
    fill: float
    cut: float
    lost: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspection:
    """What one split of a prepared folder holds.

    Attributes:
      folder: the folder.
      split: the split.
      documents: number of documents.
      tokens: number of tokens.
      text_bytes: UTF-8 bytes of the text.
      shards: number of shards.
      lengths: documents and tokens by length, as (from, below, documents, tokens); lengths double.
      median: the length that half of the documents reach.
      longest: the largest length.
      sequence_length: tokens of a row, for ``packings``.
      packings: the figures of each packing by name.
      duplicates: an estimate of the repeated documents.
      notes: remarks on how the data were read.
    """

    folder: str
    split: str
    documents: int
    tokens: int
    text_bytes: int
    shards: int
    lengths: list[tuple[int, int, int, int]]
    median: int
    longest: int
    sequence_length: int
    packings: dict[str, Packing]
    duplicates: Duplicates
    notes: list[str]

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of text for each token."""
        return self.text_bytes / self.tokens


def prepared_folders(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the prepared folders in ``folder`` by name: itself, or those of the sources of a recipe.

    Raises:
      ValueError: there is none.
    """
    if (folder / MANIFEST).exists():
        return {pathlib.PurePath(place_of(folder)).name: folder}
    if found := {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{MANIFEST}"))}:
        return found
    raise ValueError(f"{folder} holds no prepared data: it has no {MANIFEST}: name a folder that lmjax prepare made")


def inspect_data(folder: pathlib.Path, split: str, *, sequence_length: int) -> Inspection:
    """Returns what one split of a prepared folder holds.

    Args:
      folder: a folder that ``lmjax prepare`` made.
      split: ``"train"`` or ``"valid"``.
      sequence_length: T, tokens of a row for the figures of packings.

    Raises:
      ValueError: the folder, or a file in it, cannot be read.
    """
    shards = open_shards(folder, split)
    manifest = Manifest.load(folder)
    lengths, median = _histogram(shards)
    return Inspection(
        folder=place_of(folder),
        split=split,
        documents=shards.num_documents,
        tokens=shards.num_tokens,
        text_bytes=shards.text_bytes,
        shards=len(shards.shards),
        lengths=lengths,
        median=median,
        longest=max(int(np.diff(shards.document_bounds(n)).max()) for n in range(len(shards.shards))),
        sequence_length=sequence_length,
        packings=_packings(shards, sequence_length),
        duplicates=estimate_duplicates(shards),
        notes=manifest.notes,
    )


_EXACT = 1 << 16


def _histogram(shards: TokenShards) -> tuple[list[tuple[int, int, int, int]], int]:
    """Returns documents and tokens by length, and the median length, in memory that does not grow with the corpus."""
    documents, tokens = np.zeros(64, np.int64), np.zeros(64, np.int64)
    by_length = np.zeros(_EXACT + 1, np.int64)
    for number in range(len(shards.shards)):
        lengths = np.diff(shards.document_bounds(number))
        powers = np.frexp(lengths)[1] - 1
        documents += np.bincount(powers, minlength=64)
        tokens += np.bincount(powers, weights=lengths, minlength=64).astype(np.int64)
        by_length += np.bincount(np.minimum(lengths, _EXACT), minlength=_EXACT + 1)
    used = np.flatnonzero(documents)
    table = [
        (1 << power, 2 << power, int(documents[power]), int(tokens[power]))
        for power in range(int(used[0]), int(used[-1]) + 1)
    ]
    return table, int(np.searchsorted(np.cumsum(by_length), (shards.num_documents + 1) // 2))


def _packings(shards: TokenShards, length: int) -> dict[str, Packing]:
    """Returns the figures of each packing; those of best_fit are exact up to ``MOST_PACKED`` documents."""
    total, num_documents = shards.num_tokens, shards.num_documents
    crossing = longer = kept = too_long = 0
    num_members = max(len(shards.members), 1)
    room = max(length // num_members, 1)
    for number in range(len(shards.shards)):
        bounds = shards.document_bounds(number)
        starts, lengths = bounds[:-1] + shards.shard_start(number), np.diff(bounds)
        crossing += int((starts // length != (starts + lengths - 1) // length).sum())
        longer += int((lengths > length).sum())
        kept += int(np.minimum(lengths, room).sum())
        too_long += int((lengths > room).sum())
    found = {}
    if num_members == 1:
        windows = total // length
        stream = Packing(rows=windows, fill=1.0, cut=crossing / num_documents, lost=1 - windows * length / total)
        found = {"windows": stream, "segments": stream}
        # The plan of a large corpus is made part by part, and its first part is representative.
        _, pieces = next(stretches(shards, length))
        rows = best_fit_decreasing(pieces, length)[1]
        found["best_fit"] = Packing(
            rows=round(rows * total / int(pieces.sum())),
            fill=int(pieces.sum()) / (rows * length),
            cut=longer / num_documents,
            lost=0.0,
        )
    num_examples = num_documents // num_members
    found["examples"] = Packing(
        rows=num_examples,
        fill=kept / (num_examples * length),
        cut=too_long / num_documents,
        lost=1 - kept / total,
    )
    return found
