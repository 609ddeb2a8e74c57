"""80/10/10 masking: rates, fates, what is never touched, and independence of jit, vmap and sharding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lmjax.corruption import mask_tokens

VOCAB, MASK, SPECIAL = 50, 4, (0, 1, 2, 3, 49)
mask = functools.partial(mask_tokens, vocab_size=VOCAB, mask_id=MASK, special_ids=SPECIAL)
jitted = jax.jit(mask)


@pytest.fixture(scope="module")
def rows():
    tokens = np.random.default_rng(0).integers(0, VOCAB, (256, 512)).astype(np.int32)
    segments = np.ones_like(tokens)
    segments[:, 500:] = 0
    return jnp.asarray(tokens), jnp.asarray(segments)


def within(count, trials, rate):
    """Whether a binomial count is within three standard errors of its expectation."""
    return abs(count - trials * rate) <= 3 * np.sqrt(trials * rate * (1 - rate))


@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_rates_and_fates(rows, rate):
    tokens, segments = map(np.asarray, rows)
    inputs, labels = map(np.asarray, jitted(jax.random.key(1), *rows[:1], segments=rows[1], rate=rate))
    eligible = ~np.isin(tokens, (*SPECIAL, MASK)) & (segments != 0)
    chosen = labels != -100
    assert eligible.sum() > 1e5
    assert not (chosen & ~eligible).any()
    assert (labels[chosen] == tokens[chosen]).all()
    assert (inputs[~chosen] == tokens[~chosen]).all()
    assert within(chosen.sum(), eligible.sum(), rate)
    num_chosen, num_ordinary = chosen.sum(), VOCAB - len(SPECIAL) - 1
    assert within((inputs[chosen] == MASK).sum(), num_chosen, 0.8)
    changed = chosen & (inputs != MASK) & (inputs != tokens)
    # A random replacement hits the original once in num_ordinary draws.
    assert within(changed.sum(), num_chosen, 0.1 * (1 - 1 / num_ordinary))


def test_replacements_are_uniform_over_ordinary_ids(rows):
    inputs, labels = jitted(jax.random.key(2), rows[0], rate=1.0)
    all_random, _ = mask(jax.random.key(2), rows[0], rate=1.0, mask_fraction=0.0, random_fraction=1.0)
    chosen = np.asarray(labels) != -100
    counts = np.bincount(np.asarray(all_random)[chosen], minlength=VOCAB)
    ordinary = np.setdiff1d(np.arange(VOCAB), (*SPECIAL, MASK))
    assert counts.sum() == counts[ordinary].sum()
    expected = chosen.sum() / ordinary.size
    chi_square = ((counts[ordinary] - expected) ** 2 / expected).sum()
    degrees = ordinary.size - 1
    assert abs(chi_square - degrees) < 3 * np.sqrt(2 * degrees)
    assert not np.isin(np.asarray(inputs)[chosen], SPECIAL).any()


def test_extremes_of_the_rate(rows):
    tokens = rows[0]
    inputs, labels = jitted(jax.random.key(0), tokens, rate=0.0)
    assert (inputs == tokens).all()
    assert (labels == -100).all()
    inputs, labels = mask(jax.random.key(0), tokens, rate=1.0, mask_fraction=1.0, random_fraction=0.0)
    eligible = ~np.isin(np.asarray(tokens), (*SPECIAL, MASK))
    assert ((np.asarray(inputs) == MASK) == (eligible | (np.asarray(tokens) == MASK))).all()
    assert ((np.asarray(labels) != -100) == eligible).all()


def test_key_decides_all_and_jit_changes_nothing(rows):
    tokens = rows[0][:8]
    first = mask(jax.random.key(3), tokens)
    for again in (mask(jax.random.key(3), tokens), jitted(jax.random.key(3), tokens)):
        np.testing.assert_array_equal(first[0], again[0])
        np.testing.assert_array_equal(first[1], again[1])
    other = jitted(jax.random.key(4), tokens)
    assert (other[1] != first[1]).any()


def test_vmap_and_single_rows(rows):
    tokens = rows[0][:4]
    keys = jax.random.split(jax.random.key(5), 4)
    mapped = jax.vmap(mask)(keys, tokens)
    for index in range(4):
        single = mask(keys[index], tokens[index])
        assert single[0].shape == (512,)
        np.testing.assert_array_equal(mapped[0][index], single[0])
        np.testing.assert_array_equal(mapped[1][index], single[1])


def test_eight_devices_draw_what_one_draws(rows):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(rows[0][:16], NamedSharding(mesh, PartitionSpec("data")))
    compiled = jitted.lower(jax.random.key(6), sharded).compile().as_text()
    assert not any(name in compiled for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))
    for one, eight in zip(jitted(jax.random.key(6), rows[0][:16]), jitted(jax.random.key(6), sharded), strict=True):
        np.testing.assert_array_equal(one, eight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 1.5}, "rate=1.5"),
        ({"rate": -0.1}, "rate=-0.1"),
        ({"rate": float("nan")}, "rate=nan"),
        ({"mask_fraction": 0.9, "random_fraction": 0.2}, "sum to more than 1"),
        ({"mask_fraction": -1.0}, "mask_fraction=-1.0"),
        ({"mask_id": 50}, "mask_id has id 50"),
        ({"special_ids": (-1,)}, "special_ids has id -1"),
        ({"special_ids": range(VOCAB)}, "nothing is left"),
    ],
)
def test_impossible_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        mask(jax.random.key(0), jnp.zeros((2, 4), jnp.int32), **change)
