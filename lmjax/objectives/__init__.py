"""Pretraining objectives, one file each."""

from lmjax.objectives.causal_lm import CausalLM
from lmjax.objectives.contrastive import Contrastive
from lmjax.objectives.denoising import Denoising
from lmjax.objectives.dpo import DPO
from lmjax.objectives.fill_in_middle import FillInMiddle
from lmjax.objectives.masked_diffusion import MaskedDiffusion
from lmjax.objectives.masked_frames import MaskedFrames
from lmjax.objectives.masked_lm import MaskedLM
from lmjax.objectives.masked_reconstruction import MaskedReconstruction
from lmjax.objectives.mixture import Mixture, Part
from lmjax.objectives.multi_token import MultiTokenLM
from lmjax.objectives.parts.feature_objective import FeatureObjective
from lmjax.objectives.parts.feature_source import FeatureSource
from lmjax.objectives.parts.objective import Objective
from lmjax.objectives.parts.token_objective import TokenObjective
from lmjax.objectives.prefix_lm import PrefixLM
from lmjax.objectives.professor_forcing import ProfessorForcing
from lmjax.objectives.replaced_token import ReplacedToken
from lmjax.objectives.reward import PairwiseReward
from lmjax.objectives.scheduled_sampling import ScheduledSampling
from lmjax.objectives.score_entropy import ScoreEntropy
from lmjax.objectives.segment_recurrence import SegmentRecurrentLM
from lmjax.objectives.sentence_pairs import SentencePairs
from lmjax.objectives.sequence_unlikelihood import SequenceUnlikelihoodLM
from lmjax.objectives.sequential_tokens import SequentialMultiTokenLM
from lmjax.objectives.span_corruption import SpanCorruption
from lmjax.objectives.spanbert import SpanMaskedLM
from lmjax.objectives.ul2 import UL2
from lmjax.objectives.unlikelihood import UnlikelihoodLM
from lmjax.objectives.whole_word import WholeWordMaskedLM
from lmjax.schedules.ramp import Ramp

__all__ = [
    "DPO",
    "UL2",
    "CausalLM",
    "Contrastive",
    "Denoising",
    "FeatureObjective",
    "FeatureSource",
    "FillInMiddle",
    "MaskedDiffusion",
    "MaskedFrames",
    "MaskedLM",
    "MaskedReconstruction",
    "Mixture",
    "MultiTokenLM",
    "Objective",
    "PairwiseReward",
    "Part",
    "PrefixLM",
    "ProfessorForcing",
    "Ramp",
    "ReplacedToken",
    "ScheduledSampling",
    "ScoreEntropy",
    "SegmentRecurrentLM",
    "SentencePairs",
    "SequenceUnlikelihoodLM",
    "SequentialMultiTokenLM",
    "SpanCorruption",
    "SpanMaskedLM",
    "TokenObjective",
    "UnlikelihoodLM",
    "WholeWordMaskedLM",
]
