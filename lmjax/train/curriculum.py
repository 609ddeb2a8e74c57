"""Rows that grow longer as training goes on (Li et al. 2022), and which rows each step reads.

The data are read in blocks of the final row length, in the run's order. An earlier phase cuts each block into
shorter rows. The number of tokens used so far is therefore enough to tell the place in the data, and a change of the
length neither repeats nor skips a token.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import jax

from lmjax.data.rows.pipeline import batches, process_share
from lmjax.data.rows.source import RowSource
from lmjax.objectives import Objective
from lmjax.train.config import TrainConfig
from lmjax.train.corpus import Corpus
from lmjax.types import Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """The steps between two changes of a row's length or of the number of rows.

    Attributes:
      first_step: the step that the phase begins with.
      end_step: the step that the next phase begins with; None in the last phase.
      sequence_length: T, tokens of a row that the model sees.
      row_length: number of tokens of a row.
      stride: number of tokens from the start of a row to the start of the next.
      batch_size: number of rows of a step.
      first_row: the number of the phase's first row, when rows of this length are counted from the start of the data.
    """

    first_step: int
    end_step: int | None
    sequence_length: int
    row_length: int
    stride: int
    batch_size: int
    first_row: int

    def consumed(self, step: int) -> int:
        """Returns how many tokens of the data were used before a step of this phase."""
        return (self.first_row + (step - self.first_step) * self.batch_size) * self.stride


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gap:
    """A place in the data that no step reads.

    Attributes:
      first_token: where it begins, counted in tokens from the start of the run.
      end_token: the place after its last token.
      first_step: the step that would have begun with it.
      stages: pairs (block, step): from this block on, up to the end of the gap, a mixture has the weights of this step.
    """

    first_token: int
    end_token: int
    first_step: int = 0
    stages: tuple[tuple[int, int], ...] = ((0, 0),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curriculum:
    """What each step of a run reads.

    Attributes:
      phases: the phases, in order.
      gaps: the places between them that no step reads, in the order in which the run came to pass over them.
    """

    phases: tuple[Phase, ...]
    gaps: tuple[Gap, ...] = ()

    @property
    def overlap(self) -> int:
        """The number of tokens that a row shares with the next one, see :mod:`lmjax.data.rows.blocks`."""
        return self.phases[-1].row_length - self.phases[-1].stride

    def at(self, step: int) -> Phase:
        """Returns the phase of the step that comes after ``step`` updates."""
        return next(phase for phase in self.phases if phase.end_step is None or step < phase.end_step)

    def rows(self, corpus: Corpus, *, seed: int) -> RowSource:
        """Returns the training rows of a run. No other code decides how a run reads its data.

        Args:
          corpus: the run's data.
          seed: ``train.seed``, which decides the order of the rows.

        Raises:
          ValueError: the data have too few tokens, or cannot be cut into rows as short as those of a phase.
        """
        longest = self.phases[-1]
        rows = corpus.rows(
            "train",
            row_length=longest.row_length,
            overlap=self.overlap,
            num_streams=longest.batch_size,
            seed=seed,
        )
        for phase in self.phases:
            rows.cut(phase.row_length)
        return rows.placed(self.stages)

    def first_block(self, step: int) -> int:
        """Returns the number of the first block of which no token was read before a step; stages begin with a block."""
        return self._block_from(self.at(step).consumed(step))

    def _block_from(self, token: int) -> int:
        """Returns the number of the first block that begins with a token or after it."""
        return -(-token // self.phases[-1].stride)

    def blocks(self, step: int) -> Iterator[tuple[int, int]]:
        """Yields the blocks that the steps before ``step`` read, as pairs (first block, block after the last)."""
        for phase in self.phases:
            if phase.first_step < step:
                end_step = step if phase.end_step is None else min(step, phase.end_step)
                yield self._block_from(phase.consumed(phase.first_step)), self._block_from(phase.consumed(end_step))

    def stages(self, first_steps: Sequence[int]) -> list[tuple[int, int]]:
        """Returns at which blocks the stages of a mixture hold.

        A gap holds the same rows for ever: up to its end the blocks keep the stages that they had when the run came to
        pass over it. Otherwise a stage that begins at the gap's step, or within the gap, would begin after it, and its
        sources would begin with the rows that were passed over.

        Args:
          first_steps: the steps that the stages begin with, the first of them 0.

        Returns:
          Pairs (block, step): from this block on, the weights of this step hold.
        """
        begins = [(self.first_block(step), step) for step in first_steps]
        if not self.gaps:
            return begins
        last = sorted(self.gaps, key=lambda gap: gap.end_token)[-1]
        end = self._block_from(last.end_token)
        step_at_end = max(step for block, step in begins if block <= end)
        return [*last.stages, (end, step_at_end), *(pair for pair in begins if pair[0] > end)]

    def gap(self, first_step: int, end_step: int, *, stages: Sequence[int]) -> Gap:
        """Returns the place that some steps read, for a curriculum that passes over it.

        Args:
          first_step: the first of these steps.
          end_step: the step after the last of them.
          stages: the steps that the stages of a mixture begin with, the first of them 0.
        """
        end_token = self.at(end_step - 1).consumed(end_step)
        return Gap(
            first_token=self.at(first_step).consumed(first_step),
            end_token=end_token,
            first_step=first_step,
            stages=tuple(pair for pair in self.stages(stages) if pair[0] < max(self._block_from(end_token), 1)),
        )

    def batches(
        self,
        rows: RowSource,
        *,
        start_step: int = 0,
        sharding: jax.sharding.Sharding | None = None,
        num_threads: int = 0,
    ) -> Iterator[Rows]:
        """Yields this process's part of the batches of ``start_step``, ``start_step + 1``, ...

        Args:
          rows: the rows that :meth:`rows` returned.
          start_step: the first step.
          sharding: how a batch is split over the devices of all processes; ``None`` if this is the only process.
          num_threads: number of threads that read rows, see :func:`lmjax.data.rows.pipeline.batches`.
        """
        # The batch sizes may be others than when the rows were opened.
        rows = rows.placed(self.stages)
        for phase in self.phases:
            if phase.end_step is not None and phase.end_step <= start_step:
                continue
            index, count = (0, 1) if sharding is None else process_share(sharding, phase.batch_size)
            steps_done = max(start_step - phase.first_step, 0)
            endless = batches(
                rows.cut(phase.row_length),
                global_batch_size=phase.batch_size,
                start_step=steps_done,
                first_row=phase.first_row,
                process_index=index,
                process_count=count,
                num_threads=num_threads,
            )
            yield from itertools.islice(
                endless, None if phase.end_step is None else phase.end_step - phase.first_step - steps_done
            )


def curriculum(
    objective: Objective,
    train: TrainConfig,
    *,
    batch_sizes: Sequence[tuple[int, int]] = (),
    passed_over: Sequence[Gap] = (),
) -> Curriculum:
    """Returns the phases that ``train.sequence_warmup`` asks for; without a warm-up, a single phase.

    A run that went on with another batch size has a phase for each batch size. Each phase begins with the row after the
    last one that was used. ``batch_sizes`` are pairs (step, rows of a step from then on), the first of them for step 0;
    if they are not given, ``train.batch_size`` holds throughout.

    ``passed_over`` are places in the data that no step reads. A step that would reach into such a place begins after
    it, with a phase of its own.

    Some objectives have rows that are longer than T: those of a causal model hold T + 1 tokens. Such a row ends with
    the first tokens of the next row. Without this overlap, a block could not be cut evenly into shorter rows.

    Raises:
      ValueError: a length does not divide a block, or a phase ends within a row of the next.
    """
    longest = objective.row_length(train.sequence_length)
    overlap = max(longest - train.sequence_length, 0) if train.sequence_warmup else 0
    block = longest - overlap
    phases: list[Phase] = []
    first_step = consumed = 0
    for end_step, length, batch_size in _stretches(train, batch_sizes or ((0, train.batch_size),)):
        stride = objective.row_length(length) - overlap
        if stride < 1 or block % stride:
            raise ValueError(_indivisible(objective, train, length, block=block, overlap=overlap))
        if consumed % stride:
            raise ValueError(_misplaced(train, phases[-1], first_step, stride))
        phase = Phase(
            first_step=first_step,
            end_step=end_step,
            sequence_length=length,
            row_length=stride + overlap,
            stride=stride,
            batch_size=batch_size * (block // stride if train.warmup_keeps == "tokens" else 1),
            first_row=consumed // stride,
        )
        for gap in sorted(passed_over, key=lambda gap: gap.first_token):
            before = max(gap.first_token - consumed, 0) // (phase.batch_size * stride)
            if gap.end_token <= consumed or (end_step is not None and first_step + before >= end_step):
                continue
            if before:
                phases.append(dataclasses.replace(phase, end_step=first_step + before))
            # The place after rows that are passed over has to suit rows of every length.
            first_step, consumed = first_step + before, -(-gap.end_token // block) * block
            phase = dataclasses.replace(phase, first_step=first_step, first_row=consumed // stride)
        phases.append(phase)
        if end_step is not None:
            first_step, consumed = end_step, phase.consumed(end_step)
    return Curriculum(phases=tuple(phases), gaps=tuple(passed_over))


def _stretches(train: TrainConfig, batch_sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[int | None, int, int]]:
    """Yields (end step, length, batch size) of all steps between two changes; the last end step is None."""
    ends = sorted({step for step, _ in (*train.sequence_warmup, *batch_sizes)} - {0})
    for first, end in zip([0, *ends], [*ends, None], strict=True):
        length = next((length for step, length in train.sequence_warmup if first < step), train.sequence_length)
        yield end, length, next(size for step, size in reversed(batch_sizes) if step <= first)


def _indivisible(objective: Objective, train: TrainConfig, length: int, *, block: int, overlap: int) -> str:
    def stride(length: int) -> int:
        return objective.row_length(length) - overlap

    fitting = [other for other in range(1, train.sequence_length) if stride(other) > 0 and block % stride(other) == 0]
    nearest = sorted(sorted(fitting, key=lambda other: abs(other - length))[:4])
    return (
        f"train.sequence_warmup={train.sequence_warmup}: a row of length {length} takes {max(stride(length), 0)} "
        f"tokens of the data for {type(objective).__name__}, and one of train.sequence_length={train.sequence_length} "
        f"takes {block}, which is no multiple of it: "
        + (f"use lengths such as {', '.join(map(str, nearest))}" if nearest else "use another train.sequence_length")
    )


def _misplaced(train: TrainConfig, phase: Phase, step: int, stride: int) -> str:
    later = next((n for n in range(step, step + stride) if phase.consumed(n) % stride == 0), None)
    return (
        f"train.sequence_warmup={train.sequence_warmup}: the {phase.consumed(step)} tokens used by step {step} are no "
        f"multiple of the {stride} of a row from there on: set train.warmup_keeps=tokens"
        + (f", or change at step {later}" if later is not None else "")
    )
