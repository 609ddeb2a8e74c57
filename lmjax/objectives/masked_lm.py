"""Masked language modelling: predict tokens hidden from a bidirectional encoder (Devlin et al. 2019).

Each step hides other tokens (RoBERTa's dynamic masking), 80% as the mask token, 10% as a random
token, 10% as themselves. Only the hidden positions are scored, and only they reach the head: they
are gathered to a static number of slots, five standard deviations above the mean, which at 15%
spares four fifths of the head's work. A row that hides still more leaves the rest unscored.
"""

import dataclasses

import jax

from lmjax.corruption import mask_tokens
from lmjax.models.config import ModelConfig
from lmjax.objectives.parts.objective import Traits
from lmjax.objectives.parts.scored_positions import scored_positions, scored_targets, slots
from lmjax.objectives.parts.token_objective import TokenObjective, token_weights
from lmjax.schedules.ramp import Scalar, current, extremes, highest
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import IGNORE_INDEX, Batch, Rows, make_stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedLM(TokenObjective):
    """BERT's objective with rates to choose."""

    rate: Scalar = 0.15
    """Share of tokens to predict."""
    mask_fraction: Scalar = 0.8
    """Of those, the share replaced by the mask token."""
    random_fraction: Scalar = 0.1
    """Of those, the share replaced by a random token; the rest stay as they are."""

    def __post_init__(self):
        super().__post_init__()
        if not all(0 < rate < 1 for rate in extremes(self.rate)):
            raise ValueError(f"objective.rate={self.rate}: must lie between 0 and 1")
        fractions = (self.mask_fraction, self.random_fraction)
        if min(map(min, map(extremes, fractions))) < 0 or sum(map(highest, fractions)) > 1:
            raise ValueError(
                f"objective.mask_fraction={self.mask_fraction} and objective.random_fraction="
                f"{self.random_fraction}: must not be negative, nor exceed 1 together"
            )

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses a tokenizer without a mask token."""
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        vocabulary.require("mask", needed_by="MaskedLM")

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Hides tokens and lists their positions."""
        inputs_BT, labels_BT = mask_tokens(
            key,
            rows.tokens_BT,
            segments=rows.segments_BT,
            vocab_size=vocabulary.size,
            mask_id=vocabulary.require("mask", needed_by="MaskedLM"),
            special_ids=vocabulary.special_ids,
            rate=current(self.rate),
            mask_fraction=current(self.mask_fraction),
            random_fraction=current(self.random_fraction),
            ignore_index=IGNORE_INDEX,
        )
        scored_BP = scored_positions(labels_BT != IGNORE_INDEX, slots(rows.tokens_BT.shape[1], highest(self.rate)))
        return Batch(
            inputs=make_stream(inputs_BT, rows.segments_BT, "bidirectional"),
            **scored_targets(scored_BP, labels_BT, token_weights(rows)),
        )

    @property
    def traits(self) -> Traits:
        """An encoder, which sees the whole text."""
        return Traits(attention="bidirectional", text_term="loss")
