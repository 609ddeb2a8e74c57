"""Random crops: stretches of their own document, of uniform length and place, independent of each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax.corruption import random_crops

crops = jax.jit(random_crops, static_argnames=("min_share", "max_share", "pad_id"))


def spans(result, segments):
    """(row, document, which of the two, first token, number of tokens) of every crop, once it is seen to be one."""
    tokens_B2S, segments_B2S = map(np.asarray, result)
    found = []
    for row in range(len(tokens_B2S)):
        for which in range(2):
            assert not tokens_B2S[row, which][segments_B2S[row, which] == 0].any()
            for document in np.unique(segments[row][segments[row] > 0]):
                tokens = tokens_B2S[row, which][segments_B2S[row, which] == document]
                if tokens.size:
                    assert (np.diff(tokens) == 1).all()
                    assert (segments[row][tokens - 1] == document).all()
                    found.append((row, document, which, tokens[0], tokens.size))
    return found


def test_every_document_gives_two_stretches_of_itself():
    lengths = [[1, 2, 3, 10, 40], [7, 1, 5, 33], [64], [2, 2, 2]]
    segments = tiny.segments(lengths, 64)
    tokens = jnp.broadcast_to(jnp.arange(1, 65, dtype=jnp.int32)[None, :], segments.shape)
    result = crops(jax.random.key(0), tokens, segments_BT=jnp.asarray(segments))
    assert result.tokens_B2S.shape == (4, 2, 32)
    found = spans(result, segments)
    cropped = [(row, number) for row, sizes in enumerate(lengths) for number, n in enumerate(sizes, 1) if n > 1]
    assert [f[:2] for f in found if f[2] == 0] == [f[:2] for f in found if f[2] == 1] == cropped


def test_lengths_and_places_are_uniform_and_independent():
    num_rows, length = 3000, 100
    tokens = jnp.broadcast_to(jnp.arange(1, length + 1, dtype=jnp.int32)[None, :], (num_rows, length))
    found = spans(crops(jax.random.key(1), tokens, min_share=0.1, max_share=0.3), np.ones((num_rows, length), int))
    starts, sizes = (np.array([f[i] for f in found]).reshape(num_rows, 2) for i in (3, 4))
    counts = np.bincount(sizes.ravel(), minlength=32)
    assert counts[11:31].sum() + counts[10] == 2 * num_rows
    expected = 2 * num_rows / 20
    assert np.square(counts[11:31] - expected).sum() / expected < 19 + 3 * np.sqrt(2 * 19)
    places = (starts - 1) / (length - sizes)
    assert abs(places.mean() - 0.5) < 3 / np.sqrt(12 * places.size)
    for pair in (sizes, places, np.stack([sizes[:, 0], places[:, 0]], 1)):
        assert abs(np.corrcoef(pair.T)[0, 1]) < 3.5 / np.sqrt(num_rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"max_share": 0.6}, "up to one half"), ({"min_share": 0.4, "max_share": 0.3}, "must rise"), ({}, "length 1")],
)
def test_impossible_crops_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        random_crops(jax.random.key(0), jnp.ones((2, 1 if not options else 8), jnp.int32), **options)
