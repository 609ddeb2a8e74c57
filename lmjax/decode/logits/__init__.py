"""Logits processors: pure functions from float32 logits [..., V] to logits of the same shape, -inf where excluded.

Each of them raises ``ValueError`` for a value that cannot be used, see :func:`lmjax.decode.logits.checks.check_value`.
"""

from lmjax.decode.logits.biases import allow_tokens, ban_tokens, logit_bias
from lmjax.decode.logits.narrowing import epsilon_cutoff, min_p, temperature, top_k, top_p, typical_p
from lmjax.decode.logits.penalties import frequency_presence, no_repeat_ngram, repetition_penalty, token_counts
from lmjax.decode.logits.sampling import SamplingConfig, choose, narrow, only_ids, penalize, restrict

__all__ = [
    "SamplingConfig",
    "allow_tokens",
    "ban_tokens",
    "choose",
    "epsilon_cutoff",
    "frequency_presence",
    "logit_bias",
    "min_p",
    "narrow",
    "no_repeat_ngram",
    "only_ids",
    "penalize",
    "repetition_penalty",
    "restrict",
    "temperature",
    "token_counts",
    "top_k",
    "top_p",
    "typical_p",
]
