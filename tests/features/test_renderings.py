"""Text drawn and spoken, and vectors put into clusters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.corruption import draw_bytes, fit_centroids, nearest_centroids, projected_clusters, sound_bytes
from lmjax.features.glyphs import glyph_table
from lmjax.features.tones import spectrum_table


def text(words: bytes) -> jax.Array:
    return jnp.asarray(np.frombuffer(words, np.uint8)[None, :].astype(np.int32))


def test_a_letter_is_drawn_as_it_looks_whatever_the_patches():
    letter = """
        .#.. ###.
        #.#. #...
        ###. ##..
        #.#. #...
        #.#. ###.
        .... ....
    """
    expected = np.array([[mark == "#" for mark in line.replace(" ", "")] for line in letter.split("\n")[1:-1]])
    for columns in (1, 2, 4, 8):
        patches = np.asarray(draw_bytes(text(b"AE"), columns=columns))
        assert patches.shape == (1, 8 // columns, 6 * columns)
        np.testing.assert_array_equal(patches[0].reshape(8, 6).T, expected)


def test_printable_characters_differ_and_others_are_blank():
    cells = glyph_table()
    printable = cells[33:127].reshape(94, -1)
    assert len(np.unique(printable, axis=0)) == 94
    assert printable.sum(axis=1).min() > 0
    assert cells[127:].sum() == cells[:33].sum() == 0
    # What is no byte, padding for one, is blank; and cells do not touch.
    assert not np.asarray(draw_bytes(jnp.array([[300, 256]]), columns=4)).any()
    assert not cells[:, :, 3].any()


def test_bytes_sound_alike_wherever_they_are_and_unlike_others():
    words = text(b"abca")
    silent = sound_bytes(jax.random.key(0), words, width=20, frames=3, noise=0.0)
    frames = np.asarray(silent).reshape(4, 3, 20)
    assert (frames == frames[:, :1]).all()
    np.testing.assert_array_equal(frames[0], frames[3])
    assert np.abs(frames[0] - frames[1]).max() > 0.5
    noisy = sound_bytes(jax.random.key(0), jnp.tile(words, (100, 1)), width=20, frames=3, noise=0.5)
    assert float(jnp.std(noisy - silent)) == pytest.approx(0.5, rel=0.02)
    table = spectrum_table(20)
    assert table.mean() == pytest.approx(0, abs=1e-4)
    assert table.std() == pytest.approx(1, abs=1e-4)


def test_k_means_finds_the_groups_there_are():
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    noise = np.random.default_rng(0).normal(size=(3, 50, 2))
    points = (centres[:, None] + noise).reshape(-1, 2)
    found = np.asarray(fit_centroids(jax.random.key(1), jnp.asarray(points), num_clusters=3, num_steps=10))
    means = (centres[:, None] + noise).mean(axis=1)
    order = [int(np.square(found - mean).sum(axis=1).argmin()) for mean in means]
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(found[order], means, atol=1e-4)
    groups = np.asarray(nearest_centroids(jnp.asarray(points), jnp.asarray(found))).reshape(3, 50)
    assert (groups == np.array(order)[:, None]).all()
    with pytest.raises(ValueError, match="num_clusters=5 of 3 vectors"):
        fit_centroids(jax.random.key(0), jnp.zeros((3, 2)), num_clusters=5)


def test_projected_clusters_do_not_hear_how_loud_a_vector_is():
    vectors = jax.random.normal(jax.random.key(0), (2000, 12))
    clusters = np.asarray(projected_clusters(vectors, num_clusters=32))
    np.testing.assert_array_equal(clusters, projected_clusters(3 * vectors, num_clusters=32))
    assert (clusters != np.asarray(projected_clusters(vectors, num_clusters=32, seed=1))).mean() > 0.8
    shares = np.bincount(clusters, minlength=32) / 2000
    assert (shares > 0).sum() > 28
    assert shares.max() < 0.15
    # A small step seldom leaves the cluster, another vector does.
    near = np.asarray(projected_clusters(vectors + 0.02, num_clusters=32))
    assert (near == clusters).mean() > 0.9 > 0.2 > (np.roll(clusters, 1) == clusters).mean()
