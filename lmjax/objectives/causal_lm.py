"""Causal language modelling: predict each token from those before it (Radford et al. 2018).

Loss: ``- sum_t w_t log p(x_t | x_<t) / sum_t w_t``, within each packed document.
"""

import dataclasses

import jax

from lmjax.objectives.base import TokenObjective, next_token_targets
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, make_stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalLM(TokenObjective):
    """Next-token prediction; a row holds one token more than the model sees."""

    def row_length(self, sequence_length: int) -> int:
        """T inputs and the token after the last of them."""
        return sequence_length + 1

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Shifts; nothing is random."""
        del key, vocabulary
        inputs_BT, segments_BT, targets_BT, weights_BT = next_token_targets(rows)
        stream = make_stream(inputs_BT, segments_BT, "causal")
        return Batch(inputs=stream, targets_BP=targets_BT, weights={"loss": weights_BT})
