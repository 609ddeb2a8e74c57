"""The objectives with heads or terms of their own: the same steps on any devices and in any parts."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny

from lmjax.objectives import MaskedDiffusion, MultiTokenLM, ReplacedToken, UnlikelihoodLM
from lmjax.parallel.mesh import MeshConfig

MODEL = dataclasses.replace(tiny.MODEL, num_heads=4, head_width=8, remat="none", scan_layers=False)
OBJECTIVES = [
    MaskedDiffusion(),
    UnlikelihoodLM(),
    MultiTokenLM(num_heads=2),
    ReplacedToken(rate=0.3, generator_ratio=0.5),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_same_losses_on_eight_devices_in_four_parts(objective):
    layers = 2 if isinstance(objective, MultiTokenLM) else 1
    model = dataclasses.replace(MODEL, num_layers=layers)
    reference = tiny.train_losses(tiny.learner(objective, model=model), steps=3)
    assert max(reference) - min(reference) > 1e-2
    split = tiny.learner(objective, model=model, mesh=MeshConfig(fsdp=2, tensor=4), num_devices=8, microbatches=4)
    np.testing.assert_allclose(tiny.train_losses(split, steps=3), reference, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_corruption_is_the_same_jitted_and_not_and_repeats_with_its_key(objective):
    rows = tiny.random_rows(objective.row_length(16))
    corrupt = functools.partial(objective.corrupt, vocabulary=tiny.VOCABULARY)
    plain, jitted = corrupt(jax.random.key(3), rows), jax.jit(corrupt)(jax.random.key(3), rows)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), plain, jitted)
