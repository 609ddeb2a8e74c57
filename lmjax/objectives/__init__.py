"""Pretraining objectives, one file each."""

from lmjax.objectives.causal_lm import CausalLM
from lmjax.objectives.contrastive import Contrastive, DualEncoder
from lmjax.objectives.denoising import Denoising
from lmjax.objectives.dpo import DPO, PolicyWithReference
from lmjax.objectives.fill_in_middle import FillInMiddle
from lmjax.objectives.masked_diffusion import MaskedDiffusion
from lmjax.objectives.masked_frames import FrameEncoder, MaskedFrames
from lmjax.objectives.masked_lm import MaskedLM
from lmjax.objectives.masked_reconstruction import MaskedAutoencoder, MaskedReconstruction
from lmjax.objectives.mixture import Mixture, Part
from lmjax.objectives.multi_token import MultiTokenLM, MultiTokenTransformer
from lmjax.objectives.parts.feature_objective import FeatureObjective
from lmjax.objectives.parts.feature_source import FeatureSource
from lmjax.objectives.parts.objective import Objective
from lmjax.objectives.parts.token_objective import TokenObjective
from lmjax.objectives.prefix_lm import PrefixLM
from lmjax.objectives.professor_forcing import ProfessorForcing, ProfessorForcingTransformer
from lmjax.objectives.replaced_token import ReplacedToken, ReplacedTokenModel
from lmjax.objectives.reward import PairwiseReward, RewardTransformer
from lmjax.objectives.scheduled_sampling import ScheduledSampling
from lmjax.objectives.score_entropy import ScoreEntropy
from lmjax.objectives.segment_recurrence import SegmentRecurrentLM
from lmjax.objectives.sentence_pairs import SentencePairs
from lmjax.objectives.sequence_unlikelihood import SequenceUnlikelihoodLM
from lmjax.objectives.sequential_tokens import SequentialMultiTokenLM, SequentialTransformer
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
    "DualEncoder",
    "FeatureObjective",
    "FeatureSource",
    "FillInMiddle",
    "FrameEncoder",
    "MaskedAutoencoder",
    "MaskedDiffusion",
    "MaskedFrames",
    "MaskedLM",
    "MaskedReconstruction",
    "Mixture",
    "MultiTokenLM",
    "MultiTokenTransformer",
    "Objective",
    "PairwiseReward",
    "Part",
    "PolicyWithReference",
    "PrefixLM",
    "ProfessorForcing",
    "ProfessorForcingTransformer",
    "Ramp",
    "ReplacedToken",
    "ReplacedTokenModel",
    "RewardTransformer",
    "ScheduledSampling",
    "ScoreEntropy",
    "SegmentRecurrentLM",
    "SentencePairs",
    "SequenceUnlikelihoodLM",
    "SequentialMultiTokenLM",
    "SequentialTransformer",
    "SpanCorruption",
    "SpanMaskedLM",
    "TokenObjective",
    "UnlikelihoodLM",
    "WholeWordMaskedLM",
]
