"""Interval masks against masks drawn by hand, and document bounds against a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import masks

# Two documents of three and two positions, then one of padding.
SEGMENTS = [[1, 1, 1, 2, 2, 0]]


def assert_dense(mask: masks.IntervalMask, *drawings: str) -> None:
    """Compares with one drawing a row: a line a query, ``x`` where it sees the key."""
    expected_BTS = np.array([[[c == "x" for c in line] for line in drawing.split()] for drawing in drawings])
    np.testing.assert_array_equal(mask.dense(expected_BTS.shape[-1]), expected_BTS)


def test_causal():
    mask = masks.causal(4)
    assert_dense(mask, "x... xx.. xxx. xxxx")
    assert (mask.kind, mask.window) == ("causal", None)


def test_bidirectional():
    mask = masks.bidirectional(3)
    assert_dense(mask, "xxx xxx xxx")
    assert mask.kind == "full"


def test_prefix_per_row():
    mask = masks.prefix(4, jnp.array([0, 2, 3, 4]))
    assert_dense(
        mask,
        "x... xx.. xxx. xxxx",
        "xx.. xx.. xxx. xxxx",
        "xxx. xxx. xxx. xxxx",
        "xxxx xxxx xxxx xxxx",
    )
    assert mask.kind == "interval"


def test_prefix_scalar():
    assert_dense(masks.prefix(3, 2), "xx. xx. xxx")


def test_packed_causal():
    mask = masks.packed(jnp.array(SEGMENTS))
    assert_dense(mask, "x..... xx.... xxx... ...x.. ...xx. .....x")
    assert mask.kind == "packed_causal"


def test_packed_bidirectional():
    mask = masks.packed(jnp.array(SEGMENTS), "bidirectional")
    assert_dense(mask, "xxx... xxx... xxx... ...xx. ...xx. .....x")


def test_packed_prefix_ends_with_its_document():
    # The second document's prefix claims to reach past its end, into padding.
    prefix_end = jnp.array([[2, 2, 2, 6, 6, 5]])
    mask = masks.packed(jnp.array(SEGMENTS), "prefix", prefix_end_BT=prefix_end)
    assert_dense(mask, "xx.... xx.... xxx... ...xx. ...xx. .....x")


def test_windowed_causal_stays_static():
    mask = masks.windowed(masks.causal(4), 2)
    assert_dense(mask, "x... xx.. .xx. ..xx")
    assert (mask.kind, mask.window) == ("causal", 2)


def test_packed_rows_say_so_to_backends():
    """Of what cuts a row on both sides, or a second time, they must read the arrays."""
    causal, both = masks.packed(jnp.array(SEGMENTS)), masks.packed(jnp.array(SEGMENTS), "bidirectional")
    windowed = masks.windowed(causal, 2)
    assert_dense(windowed, "x..... xx.... .xx... ...x.. ...xx. .....x")
    assert (windowed.kind, windowed.window) == ("packed_causal", 2)
    assert both.kind == "packed_full"
    assert masks.windowed(windowed, 3).kind == masks.windowed(both, 2).kind == "interval"


def test_windowed_twice_is_the_smaller_window():
    assert_dense(masks.windowed(masks.windowed(masks.causal(4), 3), 2), "x... xx.. .xx. ..xx")
    twice = masks.windowed(masks.windowed(masks.causal(4), 2), 3)
    assert_dense(twice, "x... xx.. .xx. ..xx")
    # The static window describes one cut only; after two, backends must read the arrays.
    assert twice.kind == "interval"


def test_windowed_bidirectional_cuts_both_sides():
    mask = masks.windowed(masks.bidirectional(5), 2)
    assert_dense(mask, "xx... xxx.. .xxx. ..xxx ...xx")
    assert mask.kind == "interval"


def test_windowed_packed():
    mask = masks.windowed(masks.packed(jnp.array(SEGMENTS), "bidirectional"), 2)
    assert_dense(mask, "xx.... xxx... .xx... ...xx. ...xx. .....x")
    assert_dense(masks.windowed(masks.packed(jnp.array(SEGMENTS)), 1), "x..... .x.... ..x... ...x.. ....x. .....x")


def test_windowed_at_given_indices():
    cached = masks.IntervalMask(start_BT=jnp.array([[0], [0]]), end_BT=jnp.array([[4], [3]]))
    assert_dense(masks.windowed(cached, 2, index_BT=jnp.array([[3], [2]])), "..xx.", ".xx..")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: masks.packed(jnp.array(SEGMENTS), "prefix"), "kind='prefix': prefix_end_BT"),
        (
            lambda: masks.packed(jnp.array(SEGMENTS), prefix_end_BT=jnp.array(SEGMENTS)),
            "kind='causal': prefix_end",
        ),
        (lambda: masks.packed(jnp.array(SEGMENTS), "casual"), "'casual': use 'causal', 'bidirectional'"),
        (lambda: masks.windowed(masks.causal(3), 0), "window=0: must be at least 1"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def random_segments(seed: int, num_rows: int = 16, length: int = 23) -> np.ndarray:
    """Rows of documents of random lengths, some ending in padding, some of one document only."""
    random = np.random.default_rng(seed)
    begins = random.random((num_rows, length)) < random.choice([0.0, 0.2, 0.7], (num_rows, 1))
    begins[:, 0] = True
    segments = np.cumsum(begins, axis=1)
    padding = np.arange(length)[None] >= length - random.integers(0, 6, (num_rows, 1))
    return np.where(padding, 0, segments).astype(np.int32)


@pytest.mark.parametrize("seed", range(3))
def test_document_bounds_and_positions(seed):
    segments = random_segments(seed)
    starts, ends, positions = (np.zeros_like(segments) for _ in range(3))
    for row, document in enumerate(segments):
        for t, number in enumerate(document):
            members = np.flatnonzero(document == number)
            starts[row, t], ends[row, t], positions[row, t] = members[0], members[-1] + 1, t - members[0]
    start_BT, end_BT = jax.jit(masks.document_bounds)(segments)
    np.testing.assert_array_equal(start_BT, starts)
    np.testing.assert_array_equal(end_BT, ends)
    np.testing.assert_array_equal(masks.document_positions(jnp.asarray(segments)), positions)


def test_packed_is_same_document_and_not_later():
    segments = random_segments(7)
    same_BTS = segments[:, :, None] == segments[:, None, :]
    index = np.arange(segments.shape[1])
    expected = same_BTS & (index[:, None] >= index[None, :])[None]
    np.testing.assert_array_equal(masks.packed(jnp.asarray(segments)).dense(segments.shape[1]), expected)
    assert expected.any(axis=-1).all(), "no query may be without a key"


def test_jit_keeps_the_static_parts_and_the_values():
    segments = jnp.asarray(random_segments(1))
    mask = jax.jit(lambda s: masks.windowed(masks.packed(s), 3))(segments)
    plain = masks.windowed(masks.packed(segments), 3)
    np.testing.assert_array_equal(mask.start_BT, plain.start_BT)
    np.testing.assert_array_equal(mask.end_BT, plain.end_BT)
    causal = jax.jit(lambda: masks.windowed(masks.causal(5), 3))()
    assert (causal.kind, causal.window) == ("causal", 3)


def test_vmap_over_rows_equals_the_batch():
    segments = jnp.asarray(random_segments(2))
    rows = jax.vmap(lambda row: masks.packed(row[None], "bidirectional"))(segments)
    batch = masks.packed(segments, "bidirectional")
    np.testing.assert_array_equal(rows.start_BT[:, 0], batch.start_BT)
    np.testing.assert_array_equal(rows.end_BT[:, 0], batch.end_BT)
