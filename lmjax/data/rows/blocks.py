"""Rows of tokens by number: row ``i`` is a pure function of (manifest, seed, lengths, i).

The stream is divided into *blocks*. An epoch visits each block once, in an order computed from (seed, epoch), and a
row is a block or an equal part of one. The place in the data is therefore one number, the tokens consumed so far: a
run that changes its row length (each length dividing the block length) goes on with row ``consumed // row_length``
and neither repeats nor skips a token.

A row may end with the first ``overlap`` tokens of the text that follows it, so that every token of a block is
predicted in some row. Row lengths and consumed tokens are then counted without the overlap.
"""

import abc
import copy

import numpy as np

from lmjax.data.rows.order import epoch_offset, epoch_permutation
from lmjax.data.rows.packing import packing_plan
from lmjax.data.rows.shard_reader import TokenShards
from lmjax.data.rows.source import RowSource


class _BlockRows(RowSource):
    """The common part of windows and packed rows: the order of blocks, and the parts of a block."""

    def __init__(
        self,
        shards: TokenShards,
        *,
        row_length: int,
        block_length: int | None = None,
        overlap: int = 0,
        seed: int | None,
    ):
        """Makes rows of ``row_length``, cut from blocks; in a fixed order if ``seed`` is ``None`` (validation)."""
        self.shards = shards
        self.overlap = overlap
        self.block_length = row_length if block_length is None else block_length
        self.has_weights = shards.weighted
        self._seed = seed
        self._set_row_length(row_length)
        self._num_blocks = self._count_blocks()

    @abc.abstractmethod
    def _count_blocks(self) -> int: ...

    def _set_row_length(self, row_length: int) -> None:
        if not 0 <= self.overlap < row_length:
            raise ValueError(f"row_length={row_length}: must be at least 1, and more than overlap={self.overlap}")
        if (self.block_length - self.overlap) % (row_length - self.overlap):
            without = f" (each less the overlap of {self.overlap})" if self.overlap else ""
            raise ValueError(
                f"row_length={row_length} does not divide block_length={self.block_length}{without}: choose one that "
                f"does"
            )
        self.row_length = row_length

    def cut(self, row_length: int) -> "RowSource":
        """Cuts the same blocks, in the same order, into rows of another length."""
        others = copy.copy(self)
        others._set_row_length(row_length)
        return others

    @property
    def rows_per_block(self) -> int:
        """The number of rows in a block."""
        return (self.block_length - self.overlap) // (self.row_length - self.overlap)

    def __len__(self) -> int:
        return self._num_blocks * self.rows_per_block

    def locate(self, index: int) -> tuple[int, int, int]:
        """Returns (epoch, block, offset within the block) of the first token of row ``index``."""
        epoch, within = divmod(index, len(self))
        number, part = divmod(within, self.rows_per_block)
        block = number if self._seed is None else epoch_permutation(self._num_blocks, self._seed, epoch)(number)
        return epoch, block, part * (self.row_length - self.overlap)


class WindowRows(_BlockRows):
    """Windows over the stream of all documents, side by side on a grid that is moved in every epoch.

    The stream is treated as a ring, so the grid can begin anywhere. Without the overlap every token is in at most one
    row of an epoch; only the tokens that do not fill the last block are in none.
    """

    def __init__(
        self,
        shards: TokenShards,
        *,
        row_length: int,
        block_length: int | None = None,
        overlap: int = 0,
        seed: int | None,
        segments: bool = False,
    ):
        """Makes rows of ``row_length``; in the order of the stream, on a fixed grid, if ``seed`` is ``None``
        (validation).

        Raises:
          ValueError: the split is shorter than one block.
        """
        super().__init__(shards, row_length=row_length, block_length=block_length, overlap=overlap, seed=seed)
        self.has_segments = segments

    def _count_blocks(self) -> int:
        if self.shards.num_tokens < self.block_length:
            raise ValueError(
                f"{self.shards.folder}: {self.shards.split} holds {self.shards.num_tokens} tokens, fewer "
                f"than one row of {self.block_length}: use shorter rows, more data, or data.packing=best_fit"
            )
        return (self.shards.num_tokens - self.overlap) // (self.block_length - self.overlap)

    def start_of(self, index: int) -> int:
        """Returns the place in the stream of the first token of row ``index``."""
        epoch, block, within = self.locate(index)
        offset = 0 if self._seed is None else epoch_offset(self.shards.num_tokens, self._seed, epoch)
        return (offset + block * (self.block_length - self.overlap) + within) % self.shards.num_tokens

    def read(
        self, index: int, tokens_T: np.ndarray, segments_T: np.ndarray | None, weights_T: np.ndarray | None
    ) -> None:
        """Writes the window; the documents at its beginning and end are cut."""
        shards, start = self.shards, self.start_of(index)
        before_wrap = min(self.row_length, shards.num_tokens - start)
        segment = 1
        for place, part in ((start, slice(0, before_wrap)), (0, slice(before_wrap, self.row_length))):
            if part.start == part.stop:
                continue
            shards.read_tokens(place, tokens_T[part])
            if segments_T is not None:
                segment = shards.read_segments(place, segments_T[part], first=segment)
            if weights_T is not None:
                shards.read_weights(place, weights_T[part])


class PackedRows(_BlockRows):
    """Whole documents, packed best-fit-decreasing; every token of the split is in one row of an epoch.

    With an overlap, rows of the same block share tokens; rows of different blocks do not.
    """

    has_segments = True

    def _count_blocks(self) -> int:
        self.plan = packing_plan(self.shards, self.block_length)
        return self.plan.num_rows

    def read(
        self, index: int, tokens_T: np.ndarray, segments_T: np.ndarray | None, weights_T: np.ndarray | None
    ) -> None:
        """Writes the documents of the row, numbered from 1, and padding (segment 0, weight 0) after them."""
        assert segments_T is not None
        _, block, row_begin = self.locate(index)
        row_end = row_begin + self.row_length
        stretches = slice(*self.plan.row_bounds[block : block + 2].tolist())
        cursor = segment = filled = 0
        for start, length in zip(
            self.plan.starts[stretches].tolist(), self.plan.lengths[stretches].tolist(), strict=True
        ):
            begin, end = max(cursor, row_begin), min(cursor + length, row_end)
            if begin < end:
                segment += 1
                part = slice(begin - row_begin, end - row_begin)
                self.shards.read_tokens(start + begin - cursor, tokens_T[part])
                segments_T[part] = segment
                if weights_T is not None:
                    self.shards.read_weights(start + begin - cursor, weights_T[part])
                filled = part.stop
            cursor += length
        tokens_T[filled:] = self.shards.manifest.pad_id
        segments_T[filled:] = 0
        if weights_T is not None:
            weights_T[filled:] = 0.0
