"""Corruption on the device: pure functions of a PRNG key and token rows, under any jit, vmap or mesh.

Each function takes the key first, has static shapes and works within rows. A batch that is split over devices
therefore needs no communication and gives the same result as on one device.
"""

from lmjax.corruption.crops import Crops, random_crops
from lmjax.corruption.denoise import DenoiseConfig, denoise
from lmjax.corruption.diffusion import (
    Noise,
    absorb,
    cosine_schedule,
    diffusion_times,
    linear_schedule,
    log_linear_schedule,
)
from lmjax.corruption.gumbel import gumbel_sample
from lmjax.corruption.middle import ended_documents, fill_in_middle
from lmjax.corruption.mixture import UL2_DENOISERS, Denoiser, ul2, ul2_joined
from lmjax.corruption.negatives import corrupt_negatives, previous_candidates
from lmjax.corruption.pairs import PairRows, next_sentence_pairs, sentence_order_pairs
from lmjax.corruption.prefix import split_prefix
from lmjax.corruption.replaced import replace_tokens
from lmjax.corruption.scheduled import mix_predictions
from lmjax.corruption.segmentation import span_counts, span_mask
from lmjax.corruption.sentences import sentence_numbers
from lmjax.corruption.sentinels import join_spans, replace_spans
from lmjax.corruption.spans import span_corrupt, span_corrupt_joined, span_lengths
from lmjax.corruption.tokens import mask_tokens
from lmjax.corruption.words import MaskedSpans, mask_spans, mask_words
from lmjax.features.clusters import fit_centroids, nearest_centroids, projected_clusters
from lmjax.features.glyphs import draw_bytes
from lmjax.features.hidden import PatchMask, mask_frames, mask_patches
from lmjax.features.tones import sound_bytes
from lmjax.schedules.decays import exponential_decay, inverse_sigmoid_decay, linear_decay

__all__ = [
    "UL2_DENOISERS",
    "Crops",
    "DenoiseConfig",
    "Denoiser",
    "MaskedSpans",
    "Noise",
    "PairRows",
    "PatchMask",
    "absorb",
    "corrupt_negatives",
    "cosine_schedule",
    "denoise",
    "diffusion_times",
    "draw_bytes",
    "ended_documents",
    "exponential_decay",
    "fill_in_middle",
    "fit_centroids",
    "gumbel_sample",
    "inverse_sigmoid_decay",
    "join_spans",
    "linear_decay",
    "linear_schedule",
    "log_linear_schedule",
    "mask_frames",
    "mask_patches",
    "mask_spans",
    "mask_tokens",
    "mask_words",
    "mix_predictions",
    "nearest_centroids",
    "next_sentence_pairs",
    "previous_candidates",
    "projected_clusters",
    "random_crops",
    "replace_spans",
    "replace_tokens",
    "sentence_numbers",
    "sentence_order_pairs",
    "sound_bytes",
    "span_corrupt",
    "span_corrupt_joined",
    "span_counts",
    "span_lengths",
    "span_mask",
    "split_prefix",
    "ul2",
    "ul2_joined",
]
