"""An encoder and a decoder of the same code: who reads what, packed, cached and by gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax import masks
from lmjax.masks import IntervalMask
from lmjax.models.cache import empty_cache
from lmjax.models.config import ModelConfig
from lmjax.types import Stream, make_stream

S, T = 10, 8
T5 = dataclasses.replace(
    tiny.MODEL,
    encoder_layers=3,
    positions="relative",
    relative_buckets=8,
    relative_max_distance=12,
    relative_past_only=True,
    activation="geglu",
    attention_scale=1.0,
)
BART = dataclasses.replace(
    tiny.MODEL,
    encoder_layers=1,
    encoder_width=8,
    encoder_heads=1,
    share_encoder_embedding=False,
    positions="learned",
    max_length=16,
    norm="layernorm",
    bias=True,
    residual="post",
    final_norm=False,
    embedding_norm=True,
    activation="gelu",
)
VARIANTS = {"t5": T5, "bart": BART}
# Rows of two pairs; in the second row the first pair's encoder side is empty.
ENCODER_SEGMENTS = jnp.asarray(tiny.segments([[4, 5], [6]], S))
ENCODER_SEGMENTS = ENCODER_SEGMENTS.at[1].set(jnp.where(ENCODER_SEGMENTS[1] == 1, 2, ENCODER_SEGMENTS[1]))
DECODER_SEGMENTS = jnp.asarray(tiny.segments([[3, 4], [2, 6]], T))
RNG = np.random.default_rng(0)
ENCODER_TOKENS = jnp.asarray(RNG.integers(0, 60, (2, S)), jnp.int32)
DECODER_TOKENS = jnp.asarray(RNG.integers(0, 60, (2, T)), jnp.int32)


@functools.cache
def built(name: str):
    spec = tiny.model_spec(VARIANTS[name])
    return spec, tiny.random_params(spec)


@functools.cache
def forward(name: str):
    spec, _ = built(name)
    return jax.jit(
        lambda params, stream, encoder, mask: spec.bind(params)(stream, encoder=encoder, cross_mask=mask).states_BTD
    )


def packed_arguments():
    return (
        make_stream(DECODER_TOKENS, DECODER_SEGMENTS, "causal"),
        make_stream(ENCODER_TOKENS, ENCODER_SEGMENTS, "bidirectional"),
        masks.cross(DECODER_SEGMENTS, ENCODER_SEGMENTS),
    )


def test_cross_mask_shows_the_counterpart_and_nothing_else():
    dense = np.asarray(masks.cross(DECODER_SEGMENTS, ENCODER_SEGMENTS).dense(S))
    expected = np.asarray(DECODER_SEGMENTS)[:, :, None] == np.asarray(ENCODER_SEGMENTS)[:, None, :]
    np.testing.assert_array_equal(dense, expected)
    assert not dense[1, :2].any()


@pytest.mark.parametrize("name", VARIANTS)
def test_packed_pairs_equal_the_same_pairs_alone(name):
    _, params = built(name)
    packed = forward(name)(params, *packed_arguments())
    for row, (start, end), (first, last) in ((0, (0, 3), (0, 4)), (0, (3, 7), (4, 9)), (1, (2, 8), (0, 6))):
        alone = forward(name)(
            params,
            make_stream(DECODER_TOKENS[row : row + 1, start:end], None, "causal"),
            make_stream(ENCODER_TOKENS[row : row + 1, first:last], None, "bidirectional"),
            IntervalMask(
                start_BT=jnp.zeros((1, end - start), jnp.int32),
                end_BT=jnp.full((1, end - start), last - first, jnp.int32),
                kind="full",
            ),
        )
        np.testing.assert_allclose(packed[row, start:end], alone[0], atol=5e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_cached_decoding_equals_the_full_forward_pass(name):
    spec, params = built(name)
    full = forward(name)(params, *packed_arguments())
    cross = masks.cross(DECODER_SEGMENTS, ENCODER_SEGMENTS)

    @jax.jit
    def first(params):
        model = spec.bind(params)
        return model.remember(model.encode(packed_arguments()[1]).states_BTD)

    @jax.jit
    def extend(params, sources, tokens_BT, slots_BT, start_BT, cross_mask, caches):
        mask = IntervalMask(start_BT=start_BT, end_BT=slots_BT + 1)
        stream = Stream(tokens_BT=tokens_BT, positions_BT=slots_BT, mask=mask)
        return spec.bind(params).extend(stream, caches, sources=sources, cross_mask=cross_mask)

    if name == "bart":
        # Learned positions are the slots: packed documents, whose positions begin again, are not for the cache.
        positions = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (2, T))
        stream = dataclasses.replace(packed_arguments()[0], positions_BT=positions)
        full = forward(name)(params, stream, *packed_arguments()[1:])
    start_BT, _ = masks.document_bounds(DECODER_SEGMENTS)
    sources, caches = first(params), empty_cache(VARIANTS[name], batch_size=2, length=T)
    steps = []
    for t in range(T):
        one = slice(t, t + 1)
        mask = IntervalMask(start_BT=cross.start_BT[:, one], end_BT=cross.end_BT[:, one])
        slots = jnp.full((2, 1), t, jnp.int32)
        arguments = (DECODER_TOKENS[:, one], slots, start_BT[:, one], mask, caches)
        step, caches = extend(params, sources, *arguments)
        steps.append(step)
    np.testing.assert_allclose(jnp.concatenate(steps, axis=1), full, atol=1e-4)


def test_a_decoder_position_sees_its_past_and_its_own_encoder_document():
    """D hidden[t] / d source embedding[s] is zero exactly where neither mask shows it."""
    spec, params = built("bart")
    stream, encoder, cross = packed_arguments()
    unique = dataclasses.replace(encoder, tokens_BT=jnp.arange(2 * S, dtype=jnp.int32).reshape(2, S))

    def hidden(table_VD):
        encoder_params = {**params["encoder"], "embedding": {"table_VD": table_VD}}
        model = spec.bind({**params, "encoder": encoder_params})
        return jnp.sum(model(stream, encoder=unique, cross_mask=cross).states_BTD ** 3, axis=-1)

    influence = jax.jit(jax.jacrev(hidden))(params["encoder"]["embedding"]["table_VD"])
    influence = np.abs(np.asarray(influence)).sum(-1)[:, :, : 2 * S].reshape(2, T, 2, S)
    visible = np.asarray(DECODER_SEGMENTS)[:, :, None] == np.asarray(ENCODER_SEGMENTS)[:, None, :]
    for row in range(2):
        np.testing.assert_array_equal(influence[row, :, row] > 0, visible[row])
        assert not influence[row, :, 1 - row].any()


def test_one_table_serves_both_stacks_unless_told_otherwise():
    assert "embedding" not in built("t5")[0].shapes["encoder"]
    assert built("bart")[0].shapes["encoder"]["embedding"]["table_VD"].shape == (64, 8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder_width": 8}, "there is no encoder: set model.encoder_layers"),
        ({"encoder_layers": 1, "encoder_width": 8}, "model.share_encoder_embedding to False"),
        ({"encoder_layers": 1, "residual": "parallel"}, "three sublayers"),
        ({"embedding_width": 8}, "set model.head_transform to True"),
        ({"pair_head": True}, "set model.pooler to True"),
        ({"relative_buckets": 2}, "model.relative_buckets=2"),
        ({"share_layers": True, "windows": (2, None)}, "with model.share_layers"),
        ({"residual": "best"}, "model.residual='best': use one of pre"),
    ],
)
def test_what_does_not_go_together_is_refused_by_field(changes, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(ModelConfig(), **changes)


def test_attention_dropout_reaches_cross_attention():
    """Self-attention adds nothing here, so what differs between keys is what is dropped of the other row."""
    spec = tiny.model_spec(dataclasses.replace(T5, attention_dropout=0.5))

    def silent(path, leaf):
        names = [entry.key for entry in path]
        return jnp.zeros_like(leaf) if {"attention", "out"} <= {*names} else leaf

    params = jax.tree_util.tree_map_with_path(silent, tiny.random_params(spec))
    stream, encoder, mask = packed_arguments()
    run = jax.jit(lambda key: spec.bind(params)(stream, encoder=encoder, cross_mask=mask, key=key).states_BTD)
    assert not np.allclose(run(jax.random.key(0)), run(jax.random.key(1)), atol=1e-3)
