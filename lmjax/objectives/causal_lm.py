"""Causal language modelling: predict each token from those before it (Radford et al. 2018).

Loss: ``- sum_t w_t log p(x_t | x_<t) / sum_t w_t``, within each packed document.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from lmjax.layout import count_within, documents
from lmjax.objectives.parts.token_objective import TokenObjective, next_token_targets
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, make_stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalLM(TokenObjective):
    """Next-token prediction; a row holds one token more than the model sees."""

    normalization: Literal["token", "sequence"] = "token"
    """What counts alike: every token, or every document of a row (every row where documents are not kept apart),
    its tokens sharing the weight of one. Validation is by token always."""

    def row_length(self, sequence_length: int) -> int:
        """Returns T + 1: T inputs and the token after the last of them."""
        return sequence_length + 1

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Shifts the rows by one token; nothing is random."""
        del key, vocabulary
        inputs_BT, segments_BT, targets_BT, weights_BT = next_token_targets(rows)
        if self.normalization == "sequence":
            weights_BT = shared_weights(weights_BT, segments_BT)
        stream = make_stream(inputs_BT, segments_BT, "causal")
        return Batch(inputs=stream, targets_BP=targets_BT, weights={"loss": weights_BT})

    def for_evaluation(self) -> "CausalLM":
        """Returns the objective in which every token counts alike."""
        plain = super().for_evaluation()
        assert isinstance(plain, CausalLM)
        return dataclasses.replace(plain, normalization="token")


def shared_weights(weights_BT: jax.Array, segments_BT: jax.Array | None) -> jax.Array:
    """Returns the weights, each divided by the number of positions of its document that count.

    A document of n scored tokens then weighs the mean of their weights, 1 if the data give none.

    Args:
      weights_BT: raw weights.
      segments_BT: document numbers, or ``None``: each row is one document.

    Returns:
      float32 [B, T].
    """
    where = documents(segments_BT, weights_BT.shape)
    scored_BT = count_within(weights_BT > 0, where.start_BT, where.end_BT)
    return weights_BT / jnp.maximum(scored_BT, 1)
