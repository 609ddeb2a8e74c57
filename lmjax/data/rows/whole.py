"""Rows for evaluation: every token of a split is scored once, whatever the length of the rows.

The last tokens of a window are the first tokens of the next one, so that each token is predicted in some window. The
last row is filled with padding, which is not scored. Rows of another length change the context of a token, but not
which tokens are scored.
"""

import numpy as np

from lmjax.data.rows.packing import best_fit_decreasing
from lmjax.data.rows.shard_reader import TokenShards
from lmjax.data.rows.source import RowSource


class WholeRows(RowSource):
    """The whole split in order, as windows over the stream; documents may be kept apart."""

    def __init__(self, shards: TokenShards, *, row_length: int, overlap: int, lead_id: int | None, by_document: bool):
        """Cuts a split.

        Args:
          shards: the split.
          row_length: T.
          overlap: number of tokens that a row shares with the next, as many as an objective predicts ahead.
          lead_id: an unscored token to put before the first, which is then predicted too; only for windows.
          by_document: number the documents of a row, so that they do not attend to each other.
        """
        self.shards = shards
        self.row_length = row_length
        self.has_weights = True
        self._by_document = by_document
        self._stride = row_length - overlap
        self._lead_id = lead_id if overlap and not by_document else None
        self._num_lead = int(self._lead_id is not None)
        end = (len(self) - 1) * self._stride + row_length - self._num_lead
        # One unbroken text needs no document numbers, unless padding follows it.
        self.has_segments = by_document or end > shards.num_tokens

    def __len__(self) -> int:
        length = self.shards.num_tokens + self._num_lead
        return max(-(-(length - (self.row_length - self._stride)) // self._stride), 1)

    def read(
        self, index: int, tokens_T: np.ndarray, segments_T: np.ndarray | None, weights_T: np.ndarray | None
    ) -> None:
        """Writes the window; positions beyond the end of the split have segment 0 and weight 0."""
        assert weights_T is not None
        start = index % len(self) * self._stride - self._num_lead
        first = max(-start, 0)
        tokens_T[:first], weights_T[:first] = self._lead_id or 0, 0.0
        part = slice(first, first + min(self.row_length - first, self.shards.num_tokens - max(start, 0)))
        _read(self.shards, max(start, 0), part, tokens_T, weights_T)
        if segments_T is not None:
            segments_T[: part.stop] = 1
        if segments_T is not None and self._by_document:
            self.shards.read_segments(max(start, 0), segments_T[part])
        _fill(self.shards, slice(part.stop, None), tokens_T, segments_T, weights_T)


class WholePackedRows(RowSource):
    """All documents of a split, packed best-fit-decreasing; those longer than a row become overlapping windows."""

    has_segments = True

    def __init__(self, shards: TokenShards, *, row_length: int, overlap: int):
        """Packs a split in memory, which takes about 30 bytes for each document.

        Args:
          shards: the split.
          row_length: T.
          overlap: tokens that the windows over a long document share.
        """
        self.shards = shards
        self.row_length = row_length
        self.has_weights = True
        bounds = [shards.document_bounds(n)[:-1] + shards.shard_start(n) for n in range(len(shards.shards))]
        begins = np.concatenate(bounds)
        lengths = np.diff(begins, append=shards.num_tokens)
        stride = row_length - overlap
        counts = np.maximum(-(-(lengths - overlap) // stride), 1)
        document = np.repeat(np.arange(len(begins)), counts)
        offsets = (np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)) * stride
        lengths = np.minimum(lengths[document] - offsets, row_length)
        rows, self._num_rows = best_fit_decreasing(lengths, row_length)
        order = np.argsort(rows, kind="stable")
        self._starts, self._lengths = (begins[document] + offsets)[order], lengths[order]
        self._bounds = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=self._num_rows))])

    def __len__(self) -> int:
        return self._num_rows

    def read(
        self, index: int, tokens_T: np.ndarray, segments_T: np.ndarray | None, weights_T: np.ndarray | None
    ) -> None:
        """Writes the stretches of the row, numbered from 1, and padding after them."""
        assert segments_T is not None and weights_T is not None
        stretches = slice(*self._bounds[index % len(self) :][:2].tolist())
        filled = 0
        pairs = zip(self._starts[stretches].tolist(), self._lengths[stretches].tolist(), strict=True)
        for segment, (start, length) in enumerate(pairs, start=1):
            part = slice(filled, filled + length)
            _read(self.shards, start, part, tokens_T, weights_T)
            segments_T[part] = segment
            filled = part.stop
        _fill(self.shards, slice(filled, None), tokens_T, segments_T, weights_T)


class WholeStreamRows(RowSource):
    """The whole split in parallel streams; each row continues the same row of the batch before."""

    has_segments = False

    def __init__(self, shards: TokenShards, *, row_length: int, num_streams: int):
        """Cuts a split into equal parts; their last rows may be filled with padding."""
        self.shards = shards
        self.row_length = row_length
        self.num_streams = num_streams
        self.has_weights = True
        self._stride = row_length - 1
        self._part = -(-(shards.num_tokens - 1) // num_streams)
        self._rows_of_part = -(-self._part // self._stride)

    def __len__(self) -> int:
        return self._rows_of_part * self.num_streams

    def read(
        self, index: int, tokens_T: np.ndarray, segments_T: np.ndarray | None, weights_T: np.ndarray | None
    ) -> None:
        """Writes the row; the last token of a part is also the first input of the next part."""
        assert segments_T is None and weights_T is not None
        number, stream = divmod(index % len(self), self.num_streams)
        begin = stream * self._part + number * self._stride
        end = min((stream + 1) * self._part + 1, self.shards.num_tokens)
        part = slice(0, min(max(end - begin, 0), self.row_length))
        if part.stop:
            _read(self.shards, begin, part, tokens_T, weights_T)
        _fill(self.shards, slice(part.stop, None), tokens_T, None, weights_T)


def _read(shards: TokenShards, start: int, part: slice, tokens_T: np.ndarray, weights_T: np.ndarray) -> None:
    shards.read_tokens(start, tokens_T[part])
    weights_T[part] = 1.0
    if shards.weighted:
        shards.read_weights(start, weights_T[part])


def _fill(
    shards: TokenShards, part: slice, tokens_T: np.ndarray, segments_T: np.ndarray | None, weights_T: np.ndarray
) -> None:
    tokens_T[part], weights_T[part] = shards.manifest.pad_id, 0.0
    if segments_T is not None:
        segments_T[part] = 0
