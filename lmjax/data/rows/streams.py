"""Rows in streams: row b of a batch continues row b of the batch before."""

import numpy as np

from lmjax.data.rows.shard_reader import TokenShards
from lmjax.data.rows.source import RowSource


class StreamRows(RowSource):
    """The stream of all documents is cut into as many equal parts as a batch has rows; each part is read in order.

    Row ``i`` is row ``i // B`` of part ``i % B``, so that B consecutive rows are a step. The last token of a row is
    also the first token of the next row: it is the last target of one and the first input of the other. Tokens that
    do not fill the last row of a part are left out. Every epoch begins all parts again.
    """

    has_segments = False

    def __init__(self, shards: TokenShards, *, row_length: int, num_streams: int):
        """Cuts a split.

        Raises:
          ValueError: the split is too short for one row in each stream.
        """
        self.shards = shards
        self.row_length = row_length
        self.num_streams = num_streams
        self.has_weights = shards.weighted
        self._stride = row_length - 1
        self._part = shards.num_tokens // num_streams
        self._rows_of_part = (self._part - 1) // self._stride
        if self._rows_of_part < 1:
            raise ValueError(
                f"{shards.folder}: {shards.split} holds {shards.num_tokens} tokens, fewer than one row of {row_length} "
                f"for each of {num_streams} streams: lower train.batch_size, or use shorter rows or more data"
            )

    def __len__(self) -> int:
        return self._rows_of_part * self.num_streams

    def cut(self, row_length: int) -> RowSource:
        """Accepts only the length that the rows already have.

        Raises:
          ValueError: another one is asked for.
        """
        if row_length != self.row_length:
            raise ValueError(
                'data.packing="streams" has rows of one length, for they go on from step to step: train at one '
                "length (train.sequence_warmup=()), or use another data.packing"
            )
        return self

    def read(
        self, index: int, tokens_T: np.ndarray, segments_T: np.ndarray | None, weights_T: np.ndarray | None
    ) -> None:
        """Writes the row."""
        assert segments_T is None
        number, part = divmod(index, self.num_streams)
        start = part * self._part + (number % self._rows_of_part) * self._stride
        self.shards.read_tokens(start, tokens_T)
        if weights_T is not None:
            self.shards.read_weights(start, weights_T)
