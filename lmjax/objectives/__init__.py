"""Pretraining objectives, one file each."""

from lmjax.objectives.base import Objective, TokenObjective
from lmjax.objectives.causal_lm import CausalLM
from lmjax.objectives.masked_lm import MaskedLM
from lmjax.objectives.prefix_lm import PrefixLM

__all__ = ["CausalLM", "MaskedLM", "Objective", "PrefixLM", "TokenObjective"]
