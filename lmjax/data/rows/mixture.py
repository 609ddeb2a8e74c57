"""Rows from several sources in exact proportions, as evenly interleaved as they can be.

Of the first ``i`` samples, ``floor(i w / W)`` come from the first source. The others form a shorter stream, which is
divided among the remaining sources in the same way. Which source sample ``i`` is from, and which of that source's
samples it is, are then a few integer divisions: no state, no table, and the counts are never off by more than the
number of sources.
"""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from lmjax.data.rows.source import RowSource


@dataclasses.dataclass(frozen=True)
class Interleave:
    """Divides the numbers 0, 1, 2, ... among sources in proportion to ``weights``."""

    weights: tuple[Fraction, ...]

    def __call__(self, index: int) -> tuple[int, int]:
        """Returns (source, number among that source's samples) of sample ``index``."""
        remaining = sum(self.weights)
        for source, weight in enumerate(self.weights[:-1]):
            share = weight / remaining
            own = index * share.numerator // share.denominator
            if (index + 1) * share.numerator // share.denominator > own:
                return source, own
            index -= own
            remaining -= weight
        return len(self.weights) - 1, index

    def counts(self, num_samples: int) -> tuple[int, ...]:
        """Returns how many of the first ``num_samples`` come from each source."""
        counts = []
        remaining = sum(self.weights)
        for weight in self.weights:
            share = weight / remaining if remaining else Fraction(1)
            counts.append(num_samples * share.numerator // share.denominator)
            num_samples -= counts[-1]
            remaining -= weight
        return tuple(counts)


class MixtureRows(RowSource):
    """Rows of several sources in proportion to weights; a source that has no more rows begins its next epoch.

    Sources whose blocks are cut into rows alternate by blocks, so that the place in each source does not depend on
    the row length.
    """

    def __init__(self, sources: Sequence[RowSource], weights: Sequence[float]):
        """Mixes sources whose rows are equally long.

        Raises:
          ValueError: there is no source, the number of weights is another, or the row lengths differ.
        """
        if not sources or len(sources) != len(weights) or not all(weight > 0 for weight in weights):
            raise ValueError(f"a mixture of {len(sources)} sources with weights {list(weights)}: give each one above 0")
        if len({(source.row_length, source.rows_per_block) for source in sources}) != 1:
            raise ValueError(f"a mixture of row lengths {[s.row_length for s in sources]}: they must be equal")
        self.sources = tuple(sources)
        self.weights = tuple(weights)
        self.row_length = sources[0].row_length
        self.has_segments = any(source.has_segments for source in sources)
        self.has_weights = any(source.has_weights for source in sources)
        self._interleave = Interleave(tuple(Fraction(weight).limit_denominator(10**9) for weight in weights))

    def locate(self, index: int) -> tuple[int, int]:
        """Returns (source, row of that source) of row ``index``."""
        block, part = divmod(index, self.rows_per_block)
        source, own_block = self._interleave(block)
        return source, own_block * self.rows_per_block + part

    @property
    def rows_per_block(self) -> int:
        """The number of rows in a block, the same in all sources."""
        return self.sources[0].rows_per_block

    def cut(self, row_length: int) -> "MixtureRows":
        """Cuts the same blocks of every source into rows of another length."""
        return MixtureRows([source.cut(row_length) for source in self.sources], self.weights)

    def __len__(self) -> int:
        """The number of rows until the first source begins to repeat."""
        num_blocks = [len(source) // self.rows_per_block for source in self.sources]
        low, high = 0, sum(num_blocks) + 1
        while high - low > 1:
            middle = (low + high) // 2
            counts = self._interleave.counts(middle)
            fits = all(count <= there for count, there in zip(counts, num_blocks, strict=True))
            low, high = (middle, high) if fits else (low, middle)
        return low * self.rows_per_block

    def read(
        self, index: int, tokens_T: np.ndarray, segments_T: np.ndarray | None, weights_T: np.ndarray | None
    ) -> None:
        """Writes the row of its source; a row without segments is one document, a token without weight has weight 1."""
        number, own_index = self.locate(index)
        source = self.sources[number]
        if segments_T is not None and not source.has_segments:
            segments_T[:] = 1
        own_segments_T = segments_T if source.has_segments else None
        own_weights_T = weights_T if source.has_weights else None
        source.read(own_index, tokens_T, own_segments_T, own_weights_T)
        if weights_T is not None and not source.has_weights:
            weights_T[:] = 1.0 if own_segments_T is None else own_segments_T != 0
