"""UL2: a mixture of denoisers, each document told by a mode token which it was given (Tay et al. 2022).

R is T5's span corruption, X an extreme one (long spans, or many), S a prefix LM. The form is the
decoder's (the paper's section 3.2): ``[R] a <extra_id_0> c | <extra_id_0> b <eos>``, and for S, which
has no sentinels, ``[S] a b | c d <eos>``. What is left of the bar is seen in both directions.
"""

import dataclasses
import math
from typing import Literal

import jax

from lmjax.corruption import UL2_DENOISERS, Denoiser, span_counts, ul2_joined
from lmjax.models.config import ModelConfig
from lmjax.objectives.base import TokenObjective
from lmjax.objectives.span_corruption import (
    check_num_sentinels,
    check_row_length,
    joined_batch,
    joined_length,
    longest_row,
)
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class UL2(TokenObjective):
    """The mixture on a single stack; every document draws its denoiser, in one compiled step."""

    denoisers: tuple[Denoiser, ...] = UL2_DENOISERS
    """What to draw from, by their weights. The mode token of mode "R" is named [R]. A mean_span of infinity
    drops the document's end, without sentinels."""
    documents_per_row: int = 1
    """Documents a row has room for, at four tokens for each further one. What more documents push beyond
    the row's end is not trained on in that epoch."""

    def __post_init__(self):
        super().__post_init__()
        if not sum(denoiser.weight for denoiser in self.denoisers) > 0:
            raise ValueError(f"objective.denoisers={self.denoisers}: give at least one a weight above 0")
        if self.documents_per_row < 1:
            raise ValueError(f"objective.documents_per_row={self.documents_per_row}: must be at least 1")

    def row_length(self, sequence_length: int) -> int:
        """As many tokens as fill T inputs and one target more under the denoiser that adds most.

        The others leave the row's end empty.
        """
        return longest_row(sequence_length + 1, self._added)

    def _added(self, length: int) -> int:
        """Mode token, sentinels and end of text of a row of ``length`` tokens."""
        return 2 * max(spans for _, spans in self._counts(length)) + 2 + 4 * (self.documents_per_row - 1)

    def _counts(self, length: int) -> list[tuple[int, int]]:
        """Dropped tokens and sentinels of each denoiser."""
        counts = ((d, span_counts(length, d.density, d.mean_span)) for d in self.denoisers)
        return [(noise, 0 if math.isinf(d.mean_span) else spans) for d, (noise, spans) in counts]

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses a tokenizer that lacks a mode token, an end of text or sentinels, and rows too short."""
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        vocabulary.require("eos", needed_by="UL2")
        self._mode_ids(vocabulary)
        length = check_row_length(self, sequence_length)
        spans = max(spans for _, spans in self._counts(length))
        remedy = "change objective.denoisers"
        check_num_sentinels(vocabulary, spans=spans, length=length, remedy=remedy)

    def _mode_ids(self, vocabulary: Vocabulary) -> dict[str, int]:
        modes = dict.fromkeys(denoiser.mode for denoiser in self.denoisers)
        return {mode: vocabulary.require(f"[{mode}]", needed_by="UL2") for mode in modes}

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Gives every document a denoiser, drops what it says and puts that after the document."""
        length = rows.tokens_BT.shape[1]

        def join(tokens_BT: jax.Array) -> tuple[Rows, jax.Array]:
            return ul2_joined(
                key,
                tokens_BT,
                sentinel_ids=vocabulary.sentinel_ids,
                mode_ids=self._mode_ids(vocabulary),
                denoisers=self.denoisers,
                segments_BT=rows.segments_BT,
                eos_id=vocabulary.require("eos", needed_by="UL2"),
                pad_id=vocabulary.pad_id or 0,
                length=joined_length(length, self._added),
            )

        most = max(noise + spans for noise, spans in self._counts(length))
        return joined_batch(rows, vocabulary, join, num_targets=most + 1)

    @property
    def attention(self) -> Literal["prefix"]:
        """A prompt is a prefix."""
        return "prefix"
