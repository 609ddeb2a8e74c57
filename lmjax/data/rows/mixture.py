"""Rows from several sources in exact proportions, as evenly interleaved as they can be.

Of the first ``i`` samples, ``floor(i w / W)`` come from the first source. The others form a shorter stream, which is
divided among the remaining sources in the same way. Which source sample ``i`` is from, and which of that source's
samples it is, are then a few integer divisions: no state, no table, and the counts are never off by more than the
number of sources.

The weights may change from stage to stage. A source goes on in each stage with the sample after the last one that the
stages before have read, and that number follows from their weights and lengths. So no sample is repeated or skipped,
and sample ``i`` depends on the stages up to it and not on later ones.
"""

import bisect
import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import numpy as np

from lmjax.data.rows.source import RowSource


@dataclasses.dataclass(frozen=True)
class Interleave:
    """Divides the numbers 0, 1, 2, ... among sources in proportion to ``weights``."""

    weights: tuple[Fraction, ...]

    @functools.cached_property
    def _shares(self) -> list[tuple[int, int]]:
        """The share of each source in what the sources before it have left, as (numerator, denominator)."""
        left = [sum(self.weights[source:], Fraction(0)) for source in range(len(self.weights))]
        shares = [weight / rest if rest else Fraction(1) for weight, rest in zip(self.weights, left, strict=True)]
        return [(share.numerator, share.denominator) for share in shares]

    def __call__(self, index: int) -> tuple[int, int]:
        """Returns (source, number among that source's samples) of sample ``index``."""
        for source, (numerator, denominator) in enumerate(self._shares[:-1]):
            own = index * numerator // denominator
            if (index + 1) * numerator // denominator > own:
                return source, own
            index -= own
        return len(self.weights) - 1, index

    def counts(self, num_samples: int) -> tuple[int, ...]:
        """Returns how many of the first ``num_samples`` come from each source."""
        counts = []
        for numerator, denominator in self._shares:
            counts.append(num_samples * numerator // denominator)
            num_samples -= counts[-1]
        return tuple(counts)


class Stages:
    """Divides the numbers 0, 1, 2, ... among sources in proportions that change at given numbers."""

    def __init__(self, stages: Sequence[tuple[int, Sequence[Fraction]]]):
        """Takes pairs (first sample, weights); the first of them begins at 0, and the first samples do not fall."""
        self._firsts = [first for first, _ in stages]
        self._parts = [Interleave(tuple(weights)) for _, weights in stages]
        assert self._firsts[0] == 0 and self._firsts == sorted(self._firsts)
        # For each stage, how many samples of each source the stages before it have read.
        self._before = [(0,) * len(stages[0][1])]
        for number, first in enumerate(self._firsts[1:]):
            self._before.append(self._counts_in(number, first))

    def _counts_in(self, number: int, num_samples: int) -> tuple[int, ...]:
        own = self._parts[number].counts(num_samples - self._firsts[number])
        return tuple(map(sum, zip(self._before[number], own, strict=True)))

    def _at(self, index: int) -> int:
        return bisect.bisect_right(self._firsts, index) - 1

    def __call__(self, index: int) -> tuple[int, int]:
        """Returns (source, number among that source's samples) of sample ``index``."""
        number = self._at(index)
        source, own = self._parts[number](index - self._firsts[number])
        return source, self._before[number][source] + own

    def counts(self, num_samples: int) -> tuple[int, ...]:
        """Returns how many of the first ``num_samples`` come from each source."""
        return self._counts_in(self._at(num_samples), num_samples)


class MixtureRows(RowSource):
    """Rows of several sources in proportion to weights; a source that has no more rows begins its next epoch.

    Sources whose blocks are cut into rows alternate by blocks, so that the place in each source does not depend on
    the row length.
    """

    def __init__(
        self,
        sources: Sequence[RowSource],
        weights: Sequence[float | Fraction],
        *,
        names: Sequence[str] | None = None,
        later: Sequence[tuple[int, Sequence[Fraction]]] = (),
    ):
        """Mixes sources whose rows are equally long.

        Args:
          sources: the sources.
          weights: the weight of each source from the beginning.
          names: the name of each source; by default its number.
          later: pairs (first step, weights from then on). They hold once :meth:`placed` has said at which blocks.

        Raises:
          ValueError: there is no source, the number of weights is another, or the row lengths differ.
        """
        if (
            not sources
            or len(sources) != len(weights)
            or not all(weight >= 0 for weight in weights)
            or not any(weights)
        ):
            raise ValueError(
                f"a mixture of {len(sources)} sources with weights {list(map(float, weights))}: give each one that is "
                f"not negative, and one above 0"
            )
        if len({(source.row_length, source.rows_per_block) for source in sources}) != 1:
            raise ValueError(f"a mixture of row lengths {[s.row_length for s in sources]}: they must be equal")
        self.sources = tuple(sources)
        self.names = tuple(names or map(str, range(len(sources))))
        self.row_length = sources[0].row_length
        self.has_segments = any(source.has_segments for source in sources)
        self.has_weights = any(source.has_weights for source in sources)
        first_weights = tuple(Fraction(weight).limit_denominator(10**9) for weight in weights)
        self._by_step = ((0, first_weights), *later)
        self._stages = Stages([(0, first_weights)])

    def placed(self, stages: Callable[[Sequence[int]], Sequence[tuple[int, int]]]) -> "MixtureRows":
        """Returns the same mixture with its stages, each of which holds from the blocks on that ``stages`` gives."""
        others = copy.copy(self)
        first_steps = [step for step, _ in self._by_step]
        others._stages = Stages(
            [
                (block, self._by_step[bisect.bisect_right(first_steps, step) - 1][1])
                for block, step in stages(first_steps)
            ]
        )
        return others

    def counts(self, num_blocks: int) -> tuple[int, ...]:
        """Returns how many of the first ``num_blocks`` blocks come from each source."""
        return self._stages.counts(num_blocks)

    def epochs(self, num_blocks: int) -> dict[str, float]:
        """Returns how often the first ``num_blocks`` blocks read each source, by name."""
        counts = zip(self.names, self.counts(num_blocks), self._num_blocks, strict=True)
        return {name: count / there for name, count, there in counts}

    @property
    def _num_blocks(self) -> list[int]:
        """The number of blocks in an epoch of each source."""
        return [len(source) // self.rows_per_block for source in self.sources]

    def locate(self, index: int) -> tuple[int, int]:
        """Returns (source, row of that source) of row ``index``."""
        block, part = divmod(index, self.rows_per_block)
        source, own_block = self._stages(block)
        return source, own_block * self.rows_per_block + part

    @property
    def rows_per_block(self) -> int:
        """The number of rows in a block, the same in all sources."""
        return self.sources[0].rows_per_block

    def cut(self, row_length: int) -> "MixtureRows":
        """Cuts the same blocks of every source into rows of another length."""
        others = copy.copy(self)
        others.sources = tuple(source.cut(row_length) for source in self.sources)
        others.row_length = row_length
        return others

    def __len__(self) -> int:
        """The number of rows until the first source begins to repeat; sources that are never read do not count."""
        num_blocks = self._num_blocks
        low, high = 0, 1

        def fits(number: int) -> bool:
            return all(count <= there for count, there in zip(self.counts(number), num_blocks, strict=True))

        while fits(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
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


class StreamMixtureRows(MixtureRows):
    """Streams of several sources: each row of a step continues the same row of the step before, so of one source.

    The rows of a step are divided among the sources in proportion to the weights, and as evenly interleaved.
    """

    def __init__(
        self, open_source: Callable[[str, int], RowSource], weights: Mapping[str, Fraction], *, num_streams: int
    ):
        """Opens each source with its number of streams.

        Args:
          open_source: from a source's name and a number of streams to its rows.
          weights: the weight of each source, by name.
          num_streams: rows of a step.

        Raises:
          ValueError: the rows of a step are too few for a stream of each source.
        """
        self._slots = Interleave(tuple(weights.values()))
        self.num_streams = num_streams
        self._streams = self._slots.counts(num_streams)
        for name, count in zip(weights, self._streams, strict=True):
            if count == 0:
                raise ValueError(
                    f"data.packing=streams: of the {num_streams} rows of a step none is for {name!r}, whose weight is "
                    f"{float(weights[name]):.3g}: raise train.batch_size or its weight, or leave the source out"
                )
        sources = [open_source(name, count) for name, count in zip(weights, self._streams, strict=True)]
        super().__init__(sources, self._streams, names=tuple(weights))

    def counts(self, num_blocks: int) -> tuple[int, ...]:
        """Returns how many of the first ``num_blocks`` rows come from each source."""
        steps, slots = divmod(num_blocks, self.num_streams)
        return tuple(
            steps * streams + more for streams, more in zip(self._streams, self._slots.counts(slots), strict=True)
        )

    def locate(self, index: int) -> tuple[int, int]:
        """Returns (source, row of that source) of row ``index``."""
        step, slot = divmod(index, self.num_streams)
        source, own = self._slots(slot)
        return source, step * self._streams[source] + own
