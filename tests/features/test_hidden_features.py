"""Masks over feature sequences: exact patch counts, and spans of frames that fit their recording."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.corruption import mask_frames, mask_patches


def test_patches_are_split_exactly_and_uniformly():
    mask = jax.jit(functools.partial(mask_patches, shape=(4000, 20)))(jax.random.key(0))
    kept, hidden, is_hidden = map(np.asarray, mask)
    assert kept.shape == (4000, 5)
    assert hidden.shape == (4000, 15)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, hidden], 1), axis=1)[0], np.arange(20))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(hidden) > 0).all()
    assert is_hidden[np.arange(4000)[:, None], hidden].all()
    assert not is_hidden[np.arange(4000)[:, None], kept].any()
    rates = is_hidden.mean(axis=0)
    assert (np.abs(rates - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 4000)).all()
    # Two patches are hidden together as often as without replacement, not as independent ones.
    together = (is_hidden[:, 0::2] & is_hidden[:, 1::2]).mean()
    expected = 15 / 20 * 14 / 19
    error = np.sqrt(expected * (1 - expected) / (10 * 4000))
    assert abs(together - expected) < 3 * error < 0.75**2 - expected


def test_number_of_visible_patches_is_that_of_mae():
    assert mask_patches(jax.random.key(0), (2, 196)).kept_BK.shape == (2, 49)
    assert mask_patches(jax.random.key(0), (2, 10), rate=0.33).kept_BK.shape == (2, 6)


def test_frames_are_masked_in_whole_spans_at_the_known_share():
    mask = np.asarray(jax.jit(functools.partial(mask_frames, shape=(256, 512)))(jax.random.key(1)))
    runs = [np.diff(np.nonzero(np.diff(np.pad(row.astype(int), 1)))[0])[::2] for row in mask]
    assert all((run >= 10).all() for run in runs)
    # 41 starts out of 503, without replacement: a frame deep inside is missed if none of its ten is drawn.
    missed = np.prod([(503 - 41 - i) / (503 - i) for i in range(10)])
    inner = mask[:, 9:503].mean(axis=1)
    assert abs(inner.mean() - (1 - missed)) < 3 * inner.std() / np.sqrt(256)


def test_recordings_in_a_row_are_masked_apart():
    segments = np.repeat([1, 2, 3, 0], [60, 9, 50, 9])[None, :].repeat(64, 0).astype(np.int32)
    draw = functools.partial(mask_frames, shape=segments.shape, start_rate=0.06, segments_BT=jnp.asarray(segments))
    mask = np.asarray(jax.jit(draw)(jax.random.key(2)))
    # A recording shorter than a span, although it would have a start, and padding.
    assert not mask[:, 60:69].any()
    assert not mask[:, 119:].any()
    for begin, end, starts in ((0, 60, 4), (69, 119, 3)):
        counts = mask[:, begin:end].sum(axis=1)
        assert counts.min() >= 10
        assert counts.max() <= 10 * starts
    only_one = np.asarray(mask_frames(jax.random.key(3), (32, 30), start_rate=1 / 30))
    assert (only_one.sum(axis=1) == 10).all()
    assert len({tuple(row) for row in only_one.tolist()}) > 5


def test_impossible_settings_are_refused():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="leaves 0 visible"):
        mask_patches(key, (2, 3), rate=0.75)
    with pytest.raises(ValueError, match="leaves 8 visible"):
        mask_patches(key, (2, 8), rate=0.0)
    with pytest.raises(ValueError, match="span=9"):
        mask_frames(key, (2, 8), span=9)
    with pytest.raises(ValueError, match="start_rate=-1"):
        mask_frames(key, (2, 8), start_rate=-1.0)
