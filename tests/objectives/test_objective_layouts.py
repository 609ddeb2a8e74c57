"""The objectives with heads or terms of their own: the same steps on any devices and in any parts."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny

from lmjax.objectives import (
    FeatureSource,
    MaskedDiffusion,
    MaskedFrames,
    MaskedReconstruction,
    MultiTokenLM,
    ProfessorForcing,
    ReplacedToken,
    ScheduledSampling,
    SentencePairs,
    SequentialMultiTokenLM,
    UnlikelihoodLM,
)
from lmjax.parallel.mesh import MeshConfig

MODEL = dataclasses.replace(tiny.MODEL, num_heads=4, head_width=8, remat="none", scan_layers=False)
PAIRS = dataclasses.replace(MODEL, num_types=2, pooler=True, pair_head=True)
VOCABULARY = dataclasses.replace(tiny.VOCABULARY, cls_id=58, sep_id=59)
VALUES = FeatureSource(kind="values", width=2, offset=15.0, scale=15.0)
OBJECTIVES = [
    MaskedDiffusion(),
    UnlikelihoodLM(candidates="both", margin_weight=1.0),
    MultiTokenLM(num_heads=2),
    SequentialMultiTokenLM(num_heads=2),
    ScheduledSampling(teacher_rate=0.5),
    ProfessorForcing(prompt_length=2, free_tokens=3, discriminator_below=1.0, fooling_above=0.0),
    ReplacedToken(rate=0.3, generator_ratio=0.5),
    SentencePairs(rate=0.3, tokens_per_pair=8, cut_at="tokens"),
    MaskedReconstruction(source=VALUES, rate=0.5, decoder_width=16, decoder_layers=1, decoder_heads=4),
    MaskedFrames(source=VALUES, start_rate=0.15, span=3, alpha=0.5, num_clusters=8, cluster_width=8),
]


@pytest.fixture(autouse=True, scope="module")
def quick_compiles():
    """Steps are compiled here, each to run three times."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_same_losses_on_eight_devices_in_four_parts(objective):
    """In one part those that couple the examples of a batch."""
    layers = 2 if isinstance(objective, MultiTokenLM) else 1
    model = dataclasses.replace(PAIRS if isinstance(objective, SentencePairs) else MODEL, num_layers=layers)
    options = {"model": model, "vocabulary": VOCABULARY}
    reference = tiny.train_losses(tiny.learner(objective, **options), steps=3)
    assert max(reference) - min(reference) > 1e-2
    parts = 1 if objective.couples_examples else 4
    split = tiny.learner(objective, mesh=MeshConfig(fsdp=2, tensor=4), num_devices=8, microbatches=parts, **options)
    np.testing.assert_allclose(tiny.train_losses(split, steps=3), reference, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_corruption_is_the_same_jitted_and_not_and_repeats_with_its_key(objective):
    rows = tiny.random_rows(objective.row_length(16))
    corrupt = functools.partial(objective.corrupt, vocabulary=VOCABULARY)
    plain, jitted = corrupt(jax.random.key(3), rows), jax.jit(corrupt)(jax.random.key(3), rows)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), plain, jitted)
