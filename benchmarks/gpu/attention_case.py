"""What both sides of the race of attention compute: shapes, packed documents, and the FLOPs that they need."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Attention of packed causal rows; one document is a plain causal row."""

    backend: str
    """What computes it: of lmjax a backend; of torch `flex` or `sdpa`."""
    length: int
    """T."""
    rows: int
    """B."""
    documents: int
    """Documents of a row."""
    backward: bool
    """Whether the gradients are computed, too."""
    heads: int = 32
    """Query heads."""
    kv_heads: int = 8
    """Key-value heads."""
    width: int = 128
    """Head width."""
    repeat: int = 1
    """Calls of a turn."""

    @property
    def flops(self) -> float:
        """The FLOPs of a call that visible pairs need: two products forward, five backward."""
        lengths = np.bincount(segments(1, self.length, documents=self.documents)[0])
        pairs = float(np.sum(lengths * (lengths + 1) / 2))
        return 2 * (7 if self.backward else 2) * self.rows * self.heads * self.width * pairs


def segments(rows: int, length: int, *, documents: int) -> np.ndarray:
    """Returns document numbers, int32 [B, T]: documents of different lengths, and if there are several, padding."""
    if documents == 1:
        return np.ones((rows, length), np.int32)
    shares = np.arange(1, documents + 1) / (documents * (documents + 1) / 2)
    ends = np.round(np.cumsum(shares) * length * 31 / 32).astype(int)
    number_T = 1 + np.searchsorted(ends, np.arange(length), side="right")
    return np.tile(np.where(number_T > documents, 0, number_T).astype(np.int32), (rows, 1))
