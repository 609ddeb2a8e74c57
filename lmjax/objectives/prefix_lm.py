"""Prefix language modelling: see a prefix in full, predict the rest causally (T5, section 3.2.1; UL2's S).

Each document is split at a uniformly random point; the prefix attends to itself in both
directions, and the loss is taken over the suffix.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from lmjax.corruption import split_prefix
from lmjax.objectives.base import TokenObjective, next_token_targets
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, make_stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefixLM(TokenObjective):
    """Random prefix per document, bidirectional over it; scores the suffix."""

    def row_length(self, sequence_length: int) -> int:
        """T inputs and the token after the last of them."""
        return sequence_length + 1

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Splits every document of every row.

        The token at the first suffix position is predicted from the last prefix position, so a
        target counts when it lies at or after the split.
        """
        del vocabulary
        inputs_BT, segments_BT, targets_BT, weights_BT = next_token_targets(rows)
        if segments_BT is None:
            segments_BT = jnp.ones_like(inputs_BT)
        prefix_end_BT = split_prefix(key, segments_BT)
        stream = make_stream(inputs_BT, segments_BT, "prefix", prefix_end_BT=prefix_end_BT)
        target_index_1T = jnp.arange(1, inputs_BT.shape[1] + 1)[None, :]
        in_suffix_BT = target_index_1T >= prefix_end_BT
        return Batch(inputs=stream, targets_BP=targets_BT, weights={"loss": weights_BT * in_suffix_BT})

    @property
    def attention(self) -> Literal["prefix"]:
        """A prompt is a prefix."""
        return "prefix"
