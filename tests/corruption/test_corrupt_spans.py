"""T5 span corruption: t5's own numbers, exact counts, uniform cuts, and rows that come back whole."""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.corruption import (
    replace_spans,
    span_corrupt,
    span_corrupt_joined,
    span_counts,
    span_lengths,
    span_mask,
)

SENTINELS = tuple(range(999, 899, -1))
SEGMENTS = np.asarray(
    [[1] * 20 + [2] + [3] * 30 + [4] * 2 + [0] * 11, [1] * 64, [7] * 3 + [8] * 3 + [9] * 58], np.int32
)
TOKENS = np.arange(3 * 64, dtype=np.int32).reshape(3, 64)


@pytest.fixture(scope="module")
def oracle(golden):
    """Figures of t5 0.9.4; regenerate by running its preprocessors' span functions on random inputs."""
    return json.loads((golden / "t5_spans.json").read_text())


def restore(inputs, targets, sentinels=SENTINELS):
    """The row again: each sentinel of the input gives way to what follows it in the targets."""
    spans, current = {}, None
    for token in targets:
        current = token if token in sentinels else current
        spans.setdefault(current, []).append(token)
    assert None not in spans
    return [t for token in inputs for t in (spans[token][1:] if token in sentinels else [token])]


def document(rows, row, number):
    """Tokens of one document of ``Rows``."""
    return np.asarray(rows.tokens_BT)[row][np.asarray(rows.segments_BT)[row] == number].tolist()


def test_lengths_are_those_of_t5(oracle):
    assert len(oracle["lengths"]) == 8
    for case in oracle["lengths"]:
        got = span_lengths(case["inputs_length"], case["noise_density"], case["mean_noise_span_length"])
        assert got == (case["tokens_length"], case["targets_length"])


def test_counts_are_those_of_t5(oracle):
    for case in oracle["noise_counts"]:
        arguments = case["length"], case["noise_density"], case["mean_noise_span_length"]
        assert span_counts(*arguments) == (case["noise_tokens"][0], case["spans"][0])


def test_sentinels_are_those_of_t5(oracle):
    cases = oracle["sentinels"]
    assert len(cases) == 12
    (start,) = {case["sentinel_start"] for case in cases}

    def padded(name):
        return jnp.asarray([case[name] + [0] * (64 - len(case[name])) for case in cases])

    segments = jnp.asarray([[1] * len(case["tokens"]) + [0] * (64 - len(case["tokens"])) for case in cases])
    replace = functools.partial(replace_spans, sentinel_ids=range(start, 0, -1), inputs_length=64, targets_length=64)
    inputs, targets = jax.jit(replace)(padded("tokens"), padded("noise_mask") == 1, segments_BT=segments)
    for row, case in enumerate(cases):
        assert document(inputs, row, 1) == case["inputs"]
        assert document(targets, row, 1) == case["targets"]


@pytest.mark.parametrize(("density", "mean_span"), [(0.15, 3.0), (0.5, 3.0), (0.5, 64.0)])
def test_every_row_has_the_exact_counts(density, mean_span):
    draw = jax.jit(lambda key: span_mask(key, (256, 512), density=density, mean_span=mean_span))
    noise = np.asarray(draw(jax.random.key(0)))
    tokens, spans = span_counts(512, density, mean_span)
    assert (noise.sum(axis=1) == tokens).all()
    starts = noise & ~np.pad(noise[:, :-1], ((0, 0), (1, 0)))
    assert (starts.sum(axis=1) == spans).all()
    assert not noise[:, 0].any()
    assert noise[:, -1].all()


def test_all_cuts_are_equally_likely():
    # 7 tokens at density 3/7 in 2 spans: kept 1+3, 2+2, 3+1 and noise 1+2, 2+1 make six masks.
    draw = jax.jit(lambda key: span_mask(key, (12000, 7), density=3 / 7, mean_span=1.6))
    noise = np.asarray(draw(jax.random.key(1)))
    masks, counts = np.unique(noise, axis=0, return_counts=True)
    expected = {
        tuple([False] * a + [True] * b + [False] * (4 - a) + [True] * (3 - b))
        for a, b in itertools.product((1, 2, 3), (1, 2))
    }
    assert set(map(tuple, masks.tolist())) == expected
    chi_square = ((counts - 2000) ** 2 / 2000).sum()
    assert abs(chi_square - 5) < 3 * np.sqrt(2 * 5)


def test_packed_documents_have_their_own_counts():
    draw = jax.jit(functools.partial(span_mask, shape=SEGMENTS.shape, segments_BT=jnp.asarray(SEGMENTS)))
    for seed in range(5):
        noise = np.asarray(draw(jax.random.key(seed)))
        assert not noise[SEGMENTS == 0].any()
        for row in range(3):
            for number in set(SEGMENTS[row].tolist()) - {0}:
                inside = noise[row][SEGMENTS[row] == number].astype(int)
                expected = span_counts(inside.size, 0.15, 3.0)
                assert (inside.sum(), (np.diff(inside, prepend=0) == 1).sum()) == expected
                assert inside[0] == 0


def test_whole_rows_come_back():
    inputs, targets = jax.jit(functools.partial(span_corrupt, sentinel_ids=SENTINELS, eos_id=500))(
        jax.random.key(2), jnp.asarray(TOKENS)
    )
    noise, spans = span_counts(64, 0.15, 3.0)
    assert inputs.tokens_BT.shape == (3, 64 - noise + spans + 1)
    assert targets.tokens_BT.shape == (3, noise + spans + 1)
    assert inputs.segments_BT is None
    assert targets.segments_BT is None
    for row in range(3):
        assert int(inputs.tokens_BT[row, -1]) == int(targets.tokens_BT[row, -1]) == 500
        whole = restore(inputs.tokens_BT[row, :-1].tolist(), targets.tokens_BT[row, :-1].tolist())
        assert whole == TOKENS[row].tolist()


@pytest.mark.parametrize("joined", [False, True])
def test_packed_documents_come_back(joined):
    function = span_corrupt_joined if joined else span_corrupt
    sizes = {"length": 96} if joined else {"inputs_length": 72, "targets_length": 40}
    corrupt = jax.jit(functools.partial(function, sentinel_ids=SENTINELS, eos_id=500, pad_id=600, **sizes))
    result = corrupt(jax.random.key(3), jnp.asarray(TOKENS), segments_BT=jnp.asarray(SEGMENTS))
    for row in range(3):
        for number in set(SEGMENTS[row].tolist()) - {0}:
            if joined:
                rows, prefix_end = result
                where = np.asarray(rows.segments_BT)[row] == number
                weights = np.asarray(rows.weights_BT)[row][where]
                whole = document(rows, row, number)
                inputs, targets = ([t for t, w in zip(whole, weights, strict=True) if w == v] for v in (0, 1))
                (end,) = set(np.asarray(prefix_end)[row][where].tolist())
                assert end == np.nonzero(where)[0][0] + len(inputs)
                assert (np.diff(weights) >= 0).all()
            else:
                inputs, targets = (document(part, row, number) for part in result)
                assert inputs.pop() == 500
            assert targets.pop() == 500
            # Every document starts at the first sentinel.
            assert not targets or targets[0] == SENTINELS[0]
            assert restore(inputs, targets) == TOKENS[row][SEGMENTS[row] == number].tolist()
    first = result[0]
    assert (np.asarray(first.tokens_BT)[np.asarray(first.segments_BT) == 0] == 600).all()


def test_rows_are_cut_at_their_end_and_nowhere_else():
    arguments = jax.random.key(4), jnp.asarray(TOKENS)
    settings = {"sentinel_ids": SENTINELS, "segments_BT": jnp.asarray(SEGMENTS)}
    corrupt = jax.jit(span_corrupt, static_argnames=("sentinel_ids", "inputs_length", "targets_length"))
    long = corrupt(*arguments, **settings, inputs_length=80, targets_length=80)
    short = corrupt(*arguments, **settings, inputs_length=30, targets_length=7)
    for long_rows, short_rows, length in zip(long, short, (30, 7), strict=True):
        np.testing.assert_array_equal(long_rows.tokens_BT[:, :length], short_rows.tokens_BT)
        np.testing.assert_array_equal(long_rows.segments_BT[:, :length], short_rows.segments_BT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sentinel_ids": SENTINELS[:3]}, "3 spans but|4 spans|only 3|has only"),
        ({"density": 0.0}, "density=0.0"),
        ({"density": 1.0}, "density=1.0"),
        ({"mean_span": 0.5}, "mean_span=0.5"),
        ({"density": jnp.float32(0.15)}, "plain numbers"),
    ],
)
@pytest.mark.parametrize("function", [span_corrupt, span_corrupt_joined])
def test_impossible_settings_are_refused_while_tracing(function, change, message):
    settings = {"sentinel_ids": SENTINELS, "mean_span": 2.0, "density": 0.25} | change
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(functools.partial(function, **settings), jax.random.key(0), TOKENS)


def test_rows_too_short_are_refused():
    with pytest.raises(ValueError, match="at least 2 tokens"):
        span_corrupt(jax.random.key(0), jnp.zeros((2, 1), jnp.int32), sentinel_ids=SENTINELS)
    with pytest.raises(ValueError, match="too short for any noise"):
        span_lengths(2, 0.15, 3.0)
