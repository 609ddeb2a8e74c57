"""The critical batch size of McCandlish et al. 2018, from gradients whose noise is known."""

import jax
import numpy as np
import pytest
import tiny

from lmjax.parallel.mesh import MeshConfig
from lmjax.train.config import TrainConfig
from lmjax.train.gradient_noise import CRITICAL, SQUARE, VARIANCE, NoiseScale, noise_terms


def test_planted_noise_comes_back():
    """Gradients of single rows are a vector of square 4 plus noise of variance 100: they are even at 25 rows."""
    rng, scale = np.random.default_rng(0), NoiseScale(keep=0.999)
    mean = np.full(100, 0.2)
    for _ in range(2000):
        rows = mean + rng.normal(size=(16, 100))
        small = np.mean([np.sum(part.mean(0) ** 2) for part in rows.reshape(8, 2, 100)])
        terms = noise_terms(small, np.sum(rows.mean(0) ** 2), small_batch=2, big_batch=16)
        found = scale.update(terms)
    assert found[CRITICAL] == pytest.approx(25, rel=0.05)
    assert scale.update({SQUARE: float("nan"), VARIANCE: 1.0}) == {} == NoiseScale().update({"loss": 1.0})
    assert NoiseScale().update({SQUARE: -1.0, VARIANCE: 1.0}) == {}


@pytest.mark.parametrize("num_devices", [1, 2])
def test_the_step_reports_the_terms_of_its_microbatches(num_devices):
    """The gradient of each half is taken by itself and compared with what the step says of both.

    On two devices the gradient of the tied table has two parts while microbatches are summed.
    """
    mesh = MeshConfig(fsdp=num_devices)
    learner = tiny.learner(mesh=mesh, num_devices=num_devices, microbatches=2, gradient_noise=True)
    rows = tiny.random_rows(17, packed=False)
    (numbers,) = tiny.train_metrics(learner, [rows])
    halves = [jax.tree.map(lambda leaf, part=part: leaf[part::2], rows) for part in (0, 1)]
    plain = tiny.learner()
    norms = [tiny.train_metrics(plain, [half])[0]["grad_norm"] for half in halves]
    expected = noise_terms(np.mean(np.square(norms)), numbers["grad_norm"] ** 2, small_batch=4, big_batch=8)
    assert numbers[SQUARE] == pytest.approx(expected[SQUARE], rel=1e-4)
    assert numbers[VARIANCE] == pytest.approx(expected[VARIANCE], rel=1e-4)


def test_it_needs_microbatches():
    with pytest.raises(ValueError, match="set train.microbatches to 2 or more"):
        TrainConfig(gradient_noise=True)
