"""Objectives that move or hide spans: jitted or not, on one device or eight, in one part or four, the same."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny

from lmjax.corruption import DenoiseConfig
from lmjax.objectives import UL2, Denoising, FillInMiddle, SpanCorruption, SpanMaskedLM, WholeWordMaskedLM
from lmjax.parallel.mesh import MeshConfig

MODEL = dataclasses.replace(tiny.MODEL, vocab_size=96, num_layers=1, num_heads=4)
PAIRED = dataclasses.replace(MODEL, encoder_layers=1, remat="none", scan_layers=False)
VOCABULARY = dataclasses.replace(
    tiny.VOCABULARY,
    size=96,
    sentinel_ids=tuple(range(95, 79, -1)),
    named_ids={"<fim_prefix>": 64, "<fim_suffix>": 65, "<fim_middle>": 66, "[R]": 67, "[S]": 68, "[X]": 69},
    byte_length_V=np.ones(96, np.int32),
    word_start_V=np.arange(96) % 3 == 0,
    sentence_end_V=np.arange(96) % 5 == 0,
)
NOISE = DenoiseConfig(permute_sentences=True, rotate=0.3, mask=0.1, delete=0.1, replace=0.1)
OBJECTIVES = [
    FillInMiddle(documents_per_row=2),
    SpanCorruption(documents_per_row=2),
    UL2(documents_per_row=2),
    SpanCorruption(form="encoder_decoder", documents_per_row=2),
    Denoising(noise=NOISE),
    WholeWordMaskedLM(rate=0.3),
    SpanMaskedLM(rate=0.3, boundary_weight=1.0),
]


def name(objective):
    return type(objective).__name__ + ("EncoderDecoder" if objective.reads_with_encoder else "")


@pytest.fixture(autouse=True, scope="module")
def quick_compiles():
    """Ten training steps are compiled here, each to run three times."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name)
def test_same_losses_on_eight_devices_and_in_four_microbatches(objective):
    """Three steps on ragged packed rows; a mean of microbatches' means, or of devices', would be off."""
    model = PAIRED if objective.reads_with_encoder else MODEL
    options = {"model": model, "vocabulary": VOCABULARY}
    reference = tiny.train_losses(tiny.learner(objective, **options), steps=3, length=24)
    assert reference[-1] != pytest.approx(reference[0], abs=1e-3)
    split = tiny.learner(objective, mesh=MeshConfig(fsdp=2, tensor=4), num_devices=8, microbatches=4, **options)
    np.testing.assert_allclose(tiny.train_losses(split, steps=3, length=24), reference, atol=1e-5)


# Of those with an encoder the parts are shown to be so: their corruption, and the pairing of its rows.
@pytest.mark.parametrize("objective", [o for o in OBJECTIVES if not o.reads_with_encoder], ids=name)
def test_jit_changes_nothing(objective):
    corrupt = functools.partial(objective.corrupt, vocabulary=VOCABULARY)
    rows = tiny.random_rows(24, packed=True)
    plain, jitted = corrupt(jax.random.key(3), rows), jax.jit(corrupt)(jax.random.key(3), rows)
    jax.tree.map(np.testing.assert_array_equal, plain, jitted)
