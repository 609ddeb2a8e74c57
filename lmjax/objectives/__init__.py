"""Pretraining objectives, one file each."""

from lmjax.objectives.base import Objective, TokenObjective
from lmjax.objectives.causal_lm import CausalLM
from lmjax.objectives.fill_in_middle import FillInMiddle
from lmjax.objectives.masked_diffusion import MaskedDiffusion
from lmjax.objectives.masked_lm import MaskedLM
from lmjax.objectives.multi_token import MultiTokenLM, MultiTokenTransformer
from lmjax.objectives.prefix_lm import PrefixLM
from lmjax.objectives.replaced_token import ReplacedToken, ReplacedTokenModel
from lmjax.objectives.span_corruption import SpanCorruption
from lmjax.objectives.spanbert import SpanMaskedLM
from lmjax.objectives.ul2 import UL2
from lmjax.objectives.unlikelihood import UnlikelihoodLM
from lmjax.objectives.whole_word import WholeWordMaskedLM

__all__ = [
    "UL2",
    "CausalLM",
    "FillInMiddle",
    "MaskedDiffusion",
    "MaskedLM",
    "MultiTokenLM",
    "MultiTokenTransformer",
    "Objective",
    "PrefixLM",
    "ReplacedToken",
    "ReplacedTokenModel",
    "SpanCorruption",
    "SpanMaskedLM",
    "TokenObjective",
    "UnlikelihoodLM",
    "WholeWordMaskedLM",
]
