"""Masked language modelling: predict tokens hidden from a bidirectional encoder (Devlin et al. 2019).

Each step hides other tokens (RoBERTa's dynamic masking), 80% as the mask token, 10% as a random
token, 10% as themselves. Only the hidden positions are scored, and only they reach the head: they
are gathered to a static number of slots, five standard deviations above the mean, which at 15%
spares four fifths of the head's work. A row that hides still more leaves the rest unscored.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp

from lmjax.corruption import mask_tokens
from lmjax.models.config import ModelConfig
from lmjax.objectives.parts.objective import TokenObjective, token_weights
from lmjax.schedules.ramp import Scalar, current, extremes, highest
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import IGNORE_INDEX, Batch, Rows, make_stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedLM(TokenObjective):
    """BERT's objective with the rates free."""

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
        """Hides tokens and lists where they were."""
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
    def attention(self) -> Literal["bidirectional"]:
        """An encoder sees the whole text."""
        return "bidirectional"


def slots(length: int, rate: float) -> int:
    """Positions to reserve for a row of ``length`` tokens each scored with probability ``rate``.

    Five standard deviations above the mean, rounded up to a multiple of 8 and at most ``length``.
    """
    deviations = 5 * math.sqrt(length * rate * (1 - rate))
    return min(length, -(-math.ceil(length * rate + deviations) // 8) * 8)


def scored_positions(is_scored_BT: jax.Array, num_slots: int) -> jax.Array:
    """Indices of the scored positions in ascending order, int32 [B, num_slots]; T where there are no more."""
    length = is_scored_BT.shape[1]
    slot_BT = jnp.where(is_scored_BT, jnp.cumsum(is_scored_BT, axis=1, dtype=jnp.int32) - 1, num_slots)
    index_BT = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None, :], slot_BT.shape)

    def compact(slot_T: jax.Array, index_T: jax.Array) -> jax.Array:
        return jnp.full((num_slots,), length, jnp.int32).at[slot_T].set(index_T, mode="drop")

    return jax.vmap(compact)(slot_BT, index_BT)


def scored_targets(scored_BP: jax.Array, labels_BT: jax.Array, weights_BT: jax.Array) -> dict:
    """The fields of a :class:`Batch` that follow from :func:`scored_positions`; empty slots weigh 0."""
    length = labels_BT.shape[1]
    filled_BP = scored_BP < length
    scored_BP = jnp.minimum(scored_BP, length - 1)
    weights_BP = jnp.take_along_axis(weights_BT, scored_BP, axis=1) * filled_BP
    targets_BP = jnp.where(filled_BP, jnp.take_along_axis(labels_BT, scored_BP, axis=1), 0)
    return {"scored_BP": scored_BP, "targets_BP": targets_BP, "weights": {"loss": weights_BP}}
