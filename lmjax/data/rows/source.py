"""Rows by number, the interface between every packing and the rest of the pipeline."""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lmjax.types import Rows


class RowSource(abc.ABC):
    """An endless sequence of rows by number: after ``len()`` rows the next epoch begins.

    Attributes:
      row_length: T.
      has_segments: whether rows have the document number of each token.
      has_weights: whether rows have loss weights.
    """

    row_length: int
    has_segments: bool
    has_weights: bool

    @abc.abstractmethod
    def __len__(self) -> int:
        """The number of rows in an epoch."""

    @abc.abstractmethod
    def read(
        self, index: int, tokens_T: np.ndarray, segments_T: np.ndarray | None, weights_T: np.ndarray | None
    ) -> None:
        """Writes row ``index`` into arrays of its length; the array is ``None`` for what the source does not have."""

    def rows(self, indices: Sequence[int]) -> Rows:
        """Returns these rows as numpy arrays."""
        shape = (len(indices), self.row_length)
        tokens_BT = np.empty(shape, np.int32)
        segments_BT = np.empty(shape, np.int32) if self.has_segments else None
        weights_BT = np.empty(shape, np.float32) if self.has_weights else None
        for b, index in enumerate(indices):
            self.read(
                index,
                tokens_BT[b],
                segments_BT[b] if segments_BT is not None else None,
                weights_BT[b] if weights_BT is not None else None,
            )
        arrays: dict[str, Any] = {
            "tokens_BT": tokens_BT,
            "segments_BT": segments_BT,
            "weights_BT": weights_BT,
        }
        return Rows(**arrays)

    def row(self, index: int) -> Rows:
        """Returns one row as a batch of one."""
        return self.rows([index])

    @property
    def rows_per_block(self) -> int:
        """The number of rows in a block."""
        return 1

    def cut(self, row_length: int) -> "RowSource":
        """Cuts the same blocks, in the same order, into rows of another length.

        Raises:
          ValueError: these rows cannot be cut, or not to this length.
        """
        if row_length != self.row_length:
            raise ValueError(
                f"rows of {self.row_length} tokens are one example each and cannot be cut into rows of {row_length}: "
                f"train at one length (train.sequence_warmup=()), or use another data.packing"
            )
        return self

    def placed(self, stages: Callable[[Sequence[int]], Sequence[tuple[int, int]]]) -> "RowSource":
        """Returns these rows if stages begin at steps; a source without stages has the same rows at all steps.

        Args:
          stages: from the first steps of the stages to pairs (block, step): from this block on, the weights of this
            step hold. See :meth:`lmjax.train.curriculum.Curriculum.stages`.
        """
        del stages
        return self

    def epochs(self, num_blocks: int) -> dict[str, float]:
        """Returns how often the first ``num_blocks`` blocks read each source of a mixture; empty for one source."""
        del num_blocks
        return {}
