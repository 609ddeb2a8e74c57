"""Loss functions: pure, jittable, model-free, one value a position unless the name says otherwise."""

from lmjax.losses.linear import linear_cross_entropy, linear_token_losses
from lmjax.losses.token import (
    IGNORE_INDEX,
    bits_per_byte,
    bits_per_character,
    causal_lm_loss,
    cross_entropy,
    masked_lm_loss,
    perplexity,
)

__all__ = [
    "IGNORE_INDEX",
    "bits_per_byte",
    "bits_per_character",
    "causal_lm_loss",
    "cross_entropy",
    "linear_cross_entropy",
    "linear_token_losses",
    "masked_lm_loss",
    "perplexity",
]
