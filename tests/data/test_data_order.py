"""Shuffling is a bijection, packing is best-fit-decreasing, and a mixture's proportions are exact."""

from fractions import Fraction

import numpy as np
import pytest

from lmjax.data.rows.mixture import Interleave
from lmjax.data.rows.order import Permutation, epoch_offset
from lmjax.data.rows.packing import best_fit_decreasing


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 100, 1009, 4096])
def test_permutation_is_a_bijection(size):
    permutation = Permutation(size, key=(7, 0))
    assert sorted(map(permutation, range(size))) == list(range(size))


def test_permutation_mixes_and_depends_on_the_key():
    size = 5000
    images = {key: np.array([*map(Permutation(size, key=key), range(size))]) for key in [(0, 0), (0, 1), (1, 0)]}
    place = np.arange(size)
    for key, image in images.items():
        # A random permutation's correlation with the identity has standard deviation 1 / sqrt(size).
        assert abs(np.corrcoef(place, image)[0, 1]) < 4 / size**0.5
        assert abs(np.corrcoef(np.diff(image)[:-1], np.diff(image)[1:])[0, 1] + 0.5) < 0.06
        assert (image == place).sum() < 10
        for other in images:
            assert other == key or (image == images[other]).sum() < 10


def test_every_place_is_reached_about_equally():
    counts = np.zeros((5, 5), int)
    for seed in range(2000):
        permutation = Permutation(5, key=(seed, 0))
        for index in range(5):
            counts[index, permutation(index)] += 1
    assert abs(counts - 400).max() < 5 * (400 * 0.8) ** 0.5


def test_permutation_of_a_huge_range_takes_no_memory():
    permutation = Permutation(10**15, key=(0, 0))
    assert len({permutation(index) for index in range(1000)}) == 1000


def test_offsets_differ_by_epoch_and_stay_inside():
    offsets = [epoch_offset(1000, 0, epoch) for epoch in range(50)]
    assert len(set(offsets)) > 40 and all(0 <= offset < 1000 for offset in offsets)


def naive_best_fit_decreasing(lengths, capacity):
    loads = []
    for length in sorted(lengths, reverse=True):
        fitting = [b for b, load in enumerate(loads) if load + length <= capacity]
        if fitting:
            loads[max(fitting, key=lambda b: loads[b])] += length
        else:
            loads.append(length)
    return sorted(loads)


@pytest.mark.parametrize("seed", range(5))
def test_packing_is_best_fit_decreasing(seed):
    rng = np.random.default_rng(seed)
    capacity = 64
    lengths = np.minimum(rng.geometric(1 / 15, 400), capacity)
    bins, num_bins = best_fit_decreasing(lengths, capacity)
    loads = np.bincount(bins, weights=lengths, minlength=num_bins)
    assert sorted(loads.astype(int).tolist()) == naive_best_fit_decreasing(lengths.tolist(), capacity)


def test_packing_fills_rows():
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.lognormal(5.5, 1.2, 100_000).astype(int) + 1, 2048)
    bins, num_bins = best_fit_decreasing(lengths, 2048)
    assert np.bincount(bins, weights=lengths).max() <= 2048
    assert lengths.sum() / (num_bins * 2048) > 0.999


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (7, 2, 1), (1, 1, 1, 1), (100, 1)])
def test_interleave_is_exact_and_even(weights):
    interleave = Interleave(tuple(map(Fraction, weights)))
    total = sum(weights)
    counts = [0] * len(weights)
    for index in range(5 * total):
        source, own = interleave(index)
        assert own == counts[source]
        counts[source] += 1
        assert tuple(counts) == interleave.counts(index + 1)
        for count, weight in zip(counts, weights, strict=True):
            assert abs(count - (index + 1) * weight / total) < len(weights)
    assert counts == [5 * weight for weight in weights]
