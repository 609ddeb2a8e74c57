"""UL2: a mixture of denoisers, each document told by a mode token which it was given (Tay et al. 2022).

R is T5's span corruption, X an extreme one (long spans, or many), S a prefix LM. For an encoder and a
decoder, and for a single stack (the paper's section 3.2), with and without sentinels:

    R, X    [R] a <extra_id_0> c <eos>       <extra_id_0> b <eos>
            [R] a <extra_id_0> c       |     <extra_id_0> b <eos>
    S       [S] a b <eos>                    c d <eos>
            [S] a b                    |     c d <eos>

What is left is read in both directions, what is right of it is predicted.
"""

import dataclasses
import math
from typing import Any

import jax

from lmjax.corruption import UL2_DENOISERS, Denoiser, span_counts, ul2, ul2_joined
from lmjax.models.config import ModelConfig
from lmjax.objectives.parts.dropped_spans import GapObjective
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class UL2(GapObjective):
    """The mixture; every document draws its denoiser, in one compiled step."""

    denoisers: tuple[Denoiser, ...] = UL2_DENOISERS
    """What to draw from, by their weights. The mode token of mode "R" is named [R]. A mean_span of infinity
    drops the document's end, without sentinels."""

    begin_tokens = 1
    fewer_spans = "change objective.denoisers"

    def __post_init__(self):
        super().__post_init__()
        if not sum(denoiser.weight for denoiser in self.denoisers) > 0:
            raise ValueError(f"objective.denoisers={self.denoisers}: give at least one a weight above 0")

    def counts(self, length: int) -> list[tuple[int, int]]:
        """Returns the counts of each denoiser."""
        counts = ((d, span_counts(length, d.density, d.mean_span)) for d in self.denoisers)
        return [(dropped, 0 if math.isinf(d.mean_span) else spans) for d, (dropped, spans) in counts]

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses a tokenizer that lacks a mode token, an end of text or sentinels, and rows too short."""
        self._mode_ids(vocabulary)
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)

    def _mode_ids(self, vocabulary: Vocabulary) -> dict[str, int]:
        modes = dict.fromkeys(denoiser.mode for denoiser in self.denoisers)
        return {mode: vocabulary.require(f"[{mode}]", needed_by="UL2") for mode in modes}

    def join(
        self, key: jax.Array, tokens_BT: jax.Array, vocabulary: Vocabulary, **layout: Any
    ) -> tuple[Rows, jax.Array]:
        """Returns rows that hold the input and the targets of each document."""
        return ul2_joined(key, tokens_BT, mode_ids=self._mode_ids(vocabulary), denoisers=self.denoisers, **layout)

    def divide(self, key: jax.Array, tokens_BT: jax.Array, vocabulary: Vocabulary, **layout: Any) -> tuple[Rows, Rows]:
        """Returns the inputs and the targets in rows of their own."""
        return ul2(key, tokens_BT, mode_ids=self._mode_ids(vocabulary), denoisers=self.denoisers, **layout)
