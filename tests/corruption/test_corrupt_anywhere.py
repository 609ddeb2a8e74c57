"""Every corruption gives the same under jit, under vmap and on eight devices, and needs no communication."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lmjax import corruption

VOCAB = 64
SHAPE = (8, 48)
WORD_START = np.arange(VOCAB) % 2 == 0
SPECIAL = {"vocab_size": VOCAB, "mask_id": 1, "special_ids": (0, 2)}
SENTINELS = tuple(range(60, 20, -1))
MIDDLE = {"prefix_id": 1, "suffix_id": 2, "middle_id": 3}
PAIR = {"cls_id": 1, "sep_id": 2}
ALL_NOISE = corruption.DenoiseConfig(permute_sentences=True, rotate=0.5, mask=0.1, delete=0.1, replace=0.1, insert=0.1)
MODES = {"R": 61, "S": 62, "X": 63}


def logits(tokens):
    return jnp.sin(tokens[:, :9, None] + jnp.arange(VOCAB)[None, None, :])


FUNCTIONS = {
    "mask_tokens": lambda k, t, s: corruption.mask_tokens(k, t, segments=s, **SPECIAL),
    "mask_words": lambda k, t, s: corruption.mask_words(
        k, t, segments_BT=s, word_start_V=WORD_START, budget=12, rate=0.5, **SPECIAL
    ),
    "mask_spans": lambda k, t, s: corruption.mask_spans(k, t, segments_BT=s, word_start_V=WORD_START, **SPECIAL),
    "split_prefix": lambda k, t, s: corruption.split_prefix(k, s),
    "span_corrupt": lambda k, t, s: corruption.span_corrupt(
        k, t, sentinel_ids=SENTINELS, segments_BT=s, eos_id=2, density=0.4, mean_span=2.0
    ),
    "span_corrupt_joined": lambda k, t, s: corruption.span_corrupt_joined(
        k, t, sentinel_ids=SENTINELS, segments_BT=s, density=0.4, mean_span=2.0
    ),
    "ul2": lambda k, t, s: corruption.ul2(k, t, sentinel_ids=SENTINELS, mode_ids=MODES, segments_BT=s),
    "denoise": lambda k, t, s: corruption.denoise(k, t, ALL_NOISE, segments_BT=s, sentences_BT=t // 16, **SPECIAL),
    "fill_in_middle": lambda k, t, s: corruption.fill_in_middle(k, t, segments_BT=s, **MIDDLE),
    "next_sentence_pairs": lambda k, t, s: corruption.next_sentence_pairs(k, t, segments_BT=s, **PAIR),
    "sentence_order_pairs": lambda k, t, s: corruption.sentence_order_pairs(k, t, segments_BT=s, **PAIR),
    "absorb": lambda k, t, s: corruption.absorb(
        k, t, corruption.linear_schedule(corruption.diffusion_times(k, t.shape[0])).alpha, mask_id=1, segments_BT=s
    ),
    "replace_tokens": lambda k, t, s: corruption.replace_tokens(k, t, t[:, :9] % 48, logits(t)),
    "previous_candidates": lambda k, t, s: corruption.previous_candidates(t, window=4, segments_BT=s),
    "corrupt_negatives": lambda k, t, s: corruption.corrupt_negatives(k, t, vocab_size=VOCAB, segments_BT=s),
    "mix_predictions": lambda k, t, s: corruption.mix_predictions(k, t, t + 1, teacher_rate=0.5, segments_BT=s),
    "random_crops": lambda k, t, s: corruption.random_crops(k, t, segments_BT=s),
    "mask_patches": lambda k, t, s: corruption.mask_patches(k, t.shape),
    "mask_frames": lambda k, t, s: corruption.mask_frames(k, t.shape, span=4, segments_BT=s),
}


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 20, SHAPE).astype(np.int32)
    cuts = np.sort(rng.integers(1, 48, (8, 3)), axis=1)
    segments = 1 + (np.arange(48)[None, :, None] >= cuts[:, None, :]).sum(-1)
    segments[:, 44:] = 0
    return jnp.asarray(tokens), jnp.asarray(segments, jnp.int32)


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_same_everywhere(name, rows):
    tokens, segments = rows
    function, key = FUNCTIONS[name], jax.random.key(7)
    jitted = jax.jit(function)
    expected = jitted(key, tokens, segments)
    same(expected, jitted(key, tokens, segments))
    if name != "previous_candidates":
        other = jitted(jax.random.key(8), tokens, segments)
        assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (expected, other)), strict=True))

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows_on = NamedSharding(mesh, PartitionSpec("data"))
    spread = jax.jit(function, in_shardings=(None, rows_on, rows_on), out_shardings=rows_on)
    compiled = spread.lower(key, tokens, segments).compile()
    for communication in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert communication not in compiled.as_text()
    same(expected, compiled(*jax.device_put((key, tokens, segments), (None, rows_on, rows_on))))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_tokens_and_segments_may_be_of_any_integer_type(name, rows):
    """In jax an unsigned -100, or an id of 300 in eight bits, becomes another number in silence."""
    key, function = jax.random.key(7), jax.jit(FUNCTIONS[name])
    expected = function(key, *rows)
    narrow = function(key, *(part.astype(jnp.uint8) for part in rows))
    same(expected, narrow)
    assert jax.tree.map(lambda x: x.dtype, expected) == jax.tree.map(lambda x: x.dtype, narrow)


def test_ids_beyond_the_type_of_the_tokens():
    tokens = np.full((2, 40), 200, np.uint8)
    inputs, labels = corruption.mask_tokens(
        jax.random.key(0), tokens, vocab_size=1000, mask_id=999, rate=0.5, mask_fraction=1.0, random_fraction=0.0
    )
    assert set(np.unique(inputs)) == {200, 999} and set(np.unique(labels)) == {-100, 200}
    assert corruption.draw_bytes(np.full((1, 4), ord("A"), np.uint8), columns=4).any()


def test_what_is_no_id_is_left_alone():
    tokens = np.array([[-100, 5, 70, 5]] * 8)
    inputs, labels = corruption.mask_tokens(jax.random.key(0), tokens, rate=1.0, **SPECIAL)
    np.testing.assert_array_equal(inputs[:, [0, 2]], tokens[:, [0, 2]])
    assert (labels[:, [0, 2]] == -100).all() and (labels[:, [1, 3]] == 5).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap_maps_and_jit_changes_nothing(name, rows):
    function, keys = FUNCTIONS[name], jax.random.split(jax.random.key(9), 2)
    tokens, segments = (part.reshape(2, 4, 48) for part in rows)
    mapped = jax.vmap(function)
    single = jax.eval_shape(function, keys[0], tokens[0], segments[0])
    many = jax.eval_shape(mapped, keys, tokens, segments)
    assert jax.tree.map(lambda x: (2, *x.shape), single) == jax.tree.map(lambda x: x.shape, many)
    # Running operation by operation is slow, and these use every building block there is.
    if name in ("mask_tokens", "mask_spans", "ul2", "denoise", "fill_in_middle", "next_sentence_pairs"):
        result = jax.jit(mapped)(keys, tokens, segments)
        same(jax.tree.map(lambda x: x[1], result), function(keys[1], tokens[1], segments[1]))


def test_the_public_names_are_those_listed():
    for name in corruption.__all__:
        assert hasattr(corruption, name)
    functions = {n for n in corruption.__all__ if n[0].islower()}
    helpers = {n for n in functions if n.endswith(("_decay", "_schedule", "_times"))} | {
        "span_lengths",
        "span_counts",
        "span_mask",
        "replace_spans",
        "join_spans",
        "ul2_joined",
        "sentence_numbers",
        "ended_documents",
        "gumbel_sample",
    }
    # They corrupt nothing: tests/corruption/test_corrupt_renderings.py.
    helpers |= {"draw_bytes", "sound_bytes", "fit_centroids", "nearest_centroids", "projected_clusters"}
    assert functions - helpers == set(FUNCTIONS)
