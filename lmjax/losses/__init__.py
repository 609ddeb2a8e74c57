"""Loss functions: pure, jittable, independent of the model; one value for each position unless they say otherwise.

Three rules hold for all of them. What is not scored (``ignore_index``, a weight of 0, padding, a position that is not
masked, a pair that is not valid) gives 0 and a gradient of 0, whatever the logits, states or predictions there are,
NaN and infinity included. An id that is neither ignored nor in the vocabulary gives NaN: a wrong id must not train in
silence. Ids may be of any integer type, and none wraps around.
"""

from lmjax.losses.binary import pair_loss, replaced_token_loss
from lmjax.losses.contrastive import info_nce, retrieval_accuracy
from lmjax.losses.diffusion import (
    cosine_schedule,
    diffusion_weights,
    linear_schedule,
    masked_diffusion_loss,
    score_entropy_loss,
)
from lmjax.losses.linear import linear_cross_entropy, linear_token_losses
from lmjax.losses.multi_token import linear_multi_token_loss, multi_token_labels, multi_token_loss
from lmjax.losses.preference import bradley_terry_loss, dpo_loss, reward_margins
from lmjax.losses.reconstruction import masked_cluster_loss, masked_reconstruction_loss
from lmjax.losses.token import (
    bits_per_byte,
    bits_per_character,
    causal_lm_loss,
    cross_entropy,
    masked_lm_loss,
    perplexity,
)
from lmjax.losses.unlikelihood import context_candidates, corrupted_margin, unlikelihood
from lmjax.types import IGNORE_INDEX

__all__ = [
    "IGNORE_INDEX",
    "bits_per_byte",
    "bits_per_character",
    "bradley_terry_loss",
    "causal_lm_loss",
    "context_candidates",
    "corrupted_margin",
    "cosine_schedule",
    "cross_entropy",
    "diffusion_weights",
    "dpo_loss",
    "info_nce",
    "linear_cross_entropy",
    "linear_multi_token_loss",
    "linear_schedule",
    "linear_token_losses",
    "masked_cluster_loss",
    "masked_diffusion_loss",
    "masked_lm_loss",
    "masked_reconstruction_loss",
    "multi_token_labels",
    "multi_token_loss",
    "pair_loss",
    "perplexity",
    "replaced_token_loss",
    "retrieval_accuracy",
    "reward_margins",
    "score_entropy_loss",
    "unlikelihood",
]
