"""Span corruption: read a text with gaps, write what was in them (T5: Raffel et al. 2020, section 3.1.4).

``a b c d e`` with noise ``b`` and ``d e`` becomes, for an encoder and a decoder and for a single stack,

    a <extra_id_0> c <extra_id_1> <eos>         <extra_id_0> b <extra_id_1> d e <eos>
    a <extra_id_0> c <extra_id_1>        |      <extra_id_0> b <extra_id_1> d e <eos>

What is left is read in both directions, what is right of it is predicted. The paper cuts rows out of
the stream of all documents, which is ``data.packing="windows"``; in packed rows each document is
corrupted on its own.
"""

import dataclasses
from typing import Any

import jax

from lmjax.corruption import span_corrupt, span_corrupt_joined, span_counts
from lmjax.objectives.parts.dropped_spans import GapObjective
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanCorruption(GapObjective):
    """T5's objective, on an encoder and a decoder, or on a single stack."""

    density: float = 0.15
    """Share of the tokens that are dropped and predicted."""
    mean_span: float = 3.0
    """Mean number of tokens of a dropped span."""

    fewer_spans = "raise objective.mean_span"

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.density < 1:
            raise ValueError(f"objective.density={self.density}: must lie between 0 and 1")
        if not self.mean_span >= 1:
            raise ValueError(f"objective.mean_span={self.mean_span}: must be at least 1 token")

    def counts(self, length: int) -> list[tuple[int, int]]:
        """Returns the counts of t5's ``random_spans_noise_mask``."""
        return [span_counts(length, self.density, self.mean_span)]

    def row_length(self, sequence_length: int) -> int:
        """Returns the base class's length; for two stacks t5's (``random_spans_helper``), 568 tokens for 512 inputs."""
        length = super().row_length(sequence_length)
        if self.traits.reads_with_encoder and self.density == 0.5 and self._targets(length) > self._inputs(length):
            # t5 evens out the two lengths at a density of one half.
            return length - 1
        return length

    def join(
        self, key: jax.Array, tokens_BT: jax.Array, vocabulary: Vocabulary, **layout: Any
    ) -> tuple[Rows, jax.Array]:
        """Returns rows that hold the input and the targets of each document."""
        del vocabulary
        return span_corrupt_joined(key, tokens_BT, density=self.density, mean_span=self.mean_span, **layout)

    def divide(self, key: jax.Array, tokens_BT: jax.Array, vocabulary: Vocabulary, **layout: Any) -> tuple[Rows, Rows]:
        """Returns the inputs and the targets in rows of their own."""
        del vocabulary
        return span_corrupt(key, tokens_BT, density=self.density, mean_span=self.mean_span, **layout)
