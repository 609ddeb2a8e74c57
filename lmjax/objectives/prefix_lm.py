"""Prefix language modelling: see a prefix in full, predict the rest causally (T5, section 3.2.1; UL2's S).

Each document is split at a uniformly random point; the prefix attends to itself in both
directions, and the loss is taken over the suffix.

A token of the prefix cannot be a target in that pass, as the position that would name it sees it. So with
``loss_on="all"`` a document is read in one of two ways, drawn with even odds, and scored accordingly:

    no prefix           - sum over t >= 1 of  log p(x_t | x_<t)
    a prefix of s       - sum over t >= s of  log p(x_t | x_<s seen in both directions, x_s .. x_(t-1))

Every token but a document's first is then a target in one epoch or another, and never where it is seen.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from lmjax.corruption import split_prefix
from lmjax.objectives.parts.objective import Traits
from lmjax.objectives.parts.token_objective import TokenObjective, next_token_targets
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, make_stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefixLM(TokenObjective):
    """A random prefix of each document is read in both directions, and what follows it is scored."""

    loss_on: Literal["suffix", "all"] = "suffix"
    """What is learned from: what follows a prefix, or every token, for which half of the documents are read without
    a prefix, causally, and scored whole."""

    def row_length(self, sequence_length: int) -> int:
        """Returns T + 1: T inputs and the token after the last of them."""
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
        prefix_end_BT = split_prefix(key, segments_BT, empty_fraction=0.5 if self.loss_on == "all" else 0.0)
        stream = make_stream(inputs_BT, segments_BT, "prefix", prefix_end_BT=prefix_end_BT)
        target_index_1T = jnp.arange(1, inputs_BT.shape[1] + 1)[None, :]
        in_suffix_BT = target_index_1T >= prefix_end_BT
        return Batch(inputs=stream, targets_BP=targets_BT, weights={"loss": weights_BT * in_suffix_BT})

    def for_evaluation(self) -> "PrefixLM":
        """Returns the objective on suffixes alone, which is what the model does with a prompt."""
        plain = super().for_evaluation()
        assert isinstance(plain, PrefixLM)
        return dataclasses.replace(plain, loss_on="suffix")

    @property
    def traits(self) -> Traits:
        """A prompt is read as a prefix."""
        return Traits(attention="prefix", text_term="loss")
