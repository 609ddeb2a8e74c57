import dataclasses
import functools
from typing import get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax import masks
from lmjax.losses import linear_cross_entropy
from lmjax.masks import IntervalMask
from lmjax.models.cache import empty_cache
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.models.latent import LatentConfig
from lmjax.models.remat import Remat
from lmjax.models.rope import RopeScaling
from lmjax.models.routing import ExpertsConfig
from lmjax.types import Stream, make_stream

T = 12
LLAMA = dataclasses.replace(tiny.MODEL, num_heads=4, num_kv_heads=2, head_width=8, num_layers=3)
VARIANTS = {
    "rope_gqa": LLAMA,
    "partial_yarn_sandwich": dataclasses.replace(
        LLAMA,
        rope_fraction=0.5,
        rope_scaling=RopeScaling(kind="yarn", factor=4.0, original_length=8),
        windows=(3, None),
        local_rope_theta=100.0,
        residual="sandwich",
        norm_scale_offset=True,
        scale_embeddings=True,
        qk_norm="head",
    ),
    "turned_in_part_clipped_unscaled": dataclasses.replace(
        LLAMA, rope_layers=(True, False), qkv_clip=0.5, norm="layernorm", norm_scale=False
    ),
    "learned_post_norm_types": dataclasses.replace(
        tiny.MODEL,
        positions="learned",
        norm="layernorm",
        residual="post",
        final_norm=False,
        embedding_norm=True,
        num_types=2,
        bias=True,
        activation="gelu",
        max_length=32,
    ),
    "sinusoidal_mqa_parallel": dataclasses.replace(
        tiny.MODEL, positions="sinusoidal", num_kv_heads=1, residual="parallel", activation="relu2", head_bias=True
    ),
    "alibi_windows": dataclasses.replace(
        tiny.MODEL, positions="alibi", windows=(None, 3), num_layers=3, activation="geglu"
    ),
    "shared_factorised_caps": dataclasses.replace(
        tiny.MODEL,
        positions="none",
        share_layers=True,
        embedding_width=8,
        head_transform=True,
        attention_softcap=5.0,
        logit_softcap=9.0,
        qk_norm="projection",
        residual="output",
    ),
    "experts_sinks": dataclasses.replace(
        LLAMA, experts=ExpertsConfig(number=4, first_dense=1, shared=1, scores="sigmoid"), attention_sinks=True
    ),
    "scaled_without_feedforward": dataclasses.replace(
        LLAMA, embedding_scale=3.0, sublayer_scale=0.5, attention_scale=0.2, feedforward_width=0, num_layers=2
    ),
    "latent": dataclasses.replace(
        tiny.MODEL,
        head_width=6,
        latent=LatentConfig(rank=10, query_rank=7, rope_width=4, value_width=5),
        rope_scaling=RopeScaling(kind="yarn", factor=4.0, original_length=8, truncate=False),
        windows=(None, 3),
        activation="swiglu_clamped",
        experts=ExpertsConfig(
            number=8, first_dense=1, scores="sigmoid", groups=4, groups_per_token=2, router_bias=True
        ),
        num_layers=3,
    ),
    "relative_two_norms": dataclasses.replace(
        tiny.MODEL,
        positions="relative",
        relative_buckets=8,
        relative_max_distance=12,
        residual="parallel_two_norms",
        attention_scale=1.0,
        tie_embeddings=False,
    ),
    "relative_per_layer": dataclasses.replace(
        tiny.MODEL,
        positions="relative",
        relative_buckets=8,
        relative_max_distance=12,
        relative_per_layer=True,
        bias=True,
        out_bias=False,
    ),
}
SEGMENTS = tiny.segments([[5, 4], [3, 9]], T)
TOKENS = np.random.default_rng(0).integers(0, 60, (2, T)).astype(np.int32)


@functools.cache
def built(name: str):
    spec = tiny.model_spec(VARIANTS[name])
    return spec, tiny.random_params(spec)


@functools.cache
def forward(name: str, **changes):
    spec = tiny.model_spec(dataclasses.replace(VARIANTS[name], **changes)) if changes else built(name)[0]
    return jax.jit(lambda params, stream, key=None: spec.bind(params)(stream, key=key).states_BTD)


@pytest.mark.parametrize("name", VARIANTS)
def test_packed_documents_equal_the_same_documents_alone(name):
    _, params = built(name)
    packed = forward(name)(params, make_stream(TOKENS, jnp.asarray(SEGMENTS), "causal"))
    for row, start, end in ((0, 0, 5), (0, 5, 9), (1, 0, 3), (1, 3, 12)):
        alone = forward(name)(params, make_stream(TOKENS[row : row + 1, start:end], None, "causal"))
        np.testing.assert_allclose(packed[row, start:end], alone[0], atol=2e-5)


def test_layers_that_do_not_turn_know_no_positions():
    stream = make_stream(TOKENS, None, "causal")
    _, params = built("rope_gqa")
    without, none = (forward("rope_gqa", **change) for change in ({"rope_layers": (False,)}, {"positions": "none"}))
    np.testing.assert_array_equal(without(params, stream), none(params, stream))
    with pytest.raises(ValueError, match=r"model.rope_layers=\(\)"):
        dataclasses.replace(LLAMA, rope_layers=())
    with pytest.raises(ValueError, match="rope_layers=.*share_layers"):
        dataclasses.replace(LLAMA, rope_layers=(True, False), share_layers=True)


def test_norms_without_scales_have_nothing_to_learn():
    spec = tiny.model_spec(dataclasses.replace(LLAMA, norm="layernorm", norm_scale=False))
    kinds = jax.tree.leaves(spec.kinds)
    assert "norm" not in kinds and "matrix" in kinds


@pytest.mark.parametrize("name", VARIANTS)
def test_cached_decoding_equals_the_full_forward_pass(name):
    spec, params = built(name)
    full = forward(name)(params, make_stream(TOKENS, None, "causal"))

    @jax.jit
    def extend(params, tokens_BT, positions_BT, caches):
        mask = IntervalMask(start_BT=jnp.zeros_like(positions_BT), end_BT=positions_BT + 1)
        stream = Stream(tokens_BT=tokens_BT, positions_BT=positions_BT, mask=mask)
        return spec.bind(params).extend(stream, caches)

    caches = empty_cache(VARIANTS[name], batch_size=2, length=T + 3)
    positions = np.broadcast_to(np.arange(T, dtype=np.int32), (2, T))
    prompt, caches = extend(params, TOKENS[:, :6], positions[:, :6], caches)
    steps = [prompt]
    for t in range(6, T):
        step, caches = extend(params, TOKENS[:, t : t + 1], positions[:, t : t + 1], caches)
        steps.append(step)
    np.testing.assert_allclose(jnp.concatenate(steps, axis=1), full, atol=1e-4)


@pytest.mark.long
def test_rows_of_different_length_decode_side_by_side():
    spec, params = built("rope_gqa")
    caches = empty_cache(VARIANTS["rope_gqa"], batch_size=2, length=T)
    lengths = np.array([3, 6])

    def extend(tokens_BT, positions_BT, caches):
        mask = IntervalMask(start_BT=jnp.zeros_like(positions_BT), end_BT=positions_BT + 1)
        return spec.bind(params).extend(Stream(tokens_BT=tokens_BT, positions_BT=positions_BT, mask=mask), caches)

    positions = jnp.broadcast_to(jnp.arange(6, dtype=jnp.int32), (2, 6))
    _, caches = extend(jnp.asarray(TOKENS[:, :6]), positions, caches)
    next_B1 = jnp.asarray(TOKENS[[0, 1], lengths][:, None])
    hidden, _ = extend(next_B1, jnp.asarray(lengths[:, None], jnp.int32), caches)
    full = forward("rope_gqa")(params, make_stream(TOKENS, None, "causal"))
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(hidden[row, 0], full[row, length], atol=1e-4)


@pytest.mark.parametrize("kind", ["causal", "bidirectional", "prefix"])
@pytest.mark.parametrize("name", ["rope_gqa", "alibi_windows", "latent"])
def test_no_position_sees_what_it_must_not(kind, name):
    """D hidden[t] / d embedding[s] is zero exactly where the mask says so, in packed rows."""
    config = dataclasses.replace(VARIANTS[name], windows=(None,))
    spec = tiny.model_spec(config)
    params = tiny.random_params(spec)
    segments = jnp.asarray(SEGMENTS)
    start, end = masks.document_bounds(segments)
    prefix_end = jnp.minimum(start + 2, end) if kind == "prefix" else None
    stream = make_stream(jnp.asarray(TOKENS), segments, kind, prefix_end_BT=prefix_end)
    # Each row's tokens become ids of their own, so that a row of the table is one position.
    unique = dataclasses.replace(stream, tokens_BT=jnp.arange(2 * T, dtype=jnp.int32).reshape(2, T))

    def hidden(table_VD):
        changed = {**params, "embedding": {"table_VD": table_VD}}
        return jnp.sum(spec.bind(changed)(unique).states_BTD ** 3, axis=-1)

    influence = jax.jit(jax.jacrev(hidden))(params["embedding"]["table_VD"])
    influence = np.abs(np.asarray(influence)).sum(-1)[:, :, : 2 * T].reshape(2, T, 2, T)
    visible = np.asarray(stream.mask.dense(T))
    for row in range(2):
        np.testing.assert_array_equal(influence[row, :, row] > 0, visible[row])
        assert not influence[row, :, 1 - row].any()


@pytest.mark.parametrize("remat", get_args(Remat))
def test_scanned_layers_equal_unrolled_layers_in_value_and_gradient(remat):
    config = dataclasses.replace(VARIANTS["alibi_windows"], num_layers=5, execution=ExecutionConfig(remat=remat))
    scanned = tiny.model_spec(config)
    unrolled = tiny.model_spec(dataclasses.replace(config, execution=ExecutionConfig(remat=remat, scan_layers=False)))
    params = tiny.random_params(scanned)
    # Layers 0, 2 are stack 0; layers 1, 3 are stack 1; layer 4 is the tail.
    order = [("000", 0), ("001", 0), ("000", 1), ("001", 1)]
    layers = [jax.tree.map(lambda leaf, i=i: leaf[i], params["stacks"][stack]) for stack, i in order]
    flat = {name: value for name, value in params.items() if name not in ("stacks", "tail")}
    flat["tail"] = {f"{i:03d}": layer for i, layer in enumerate([*layers, params["tail"]["000"]])}
    stream = make_stream(jnp.asarray(TOKENS), jnp.asarray(SEGMENTS), "causal")

    def loss(spec, params):
        return jnp.sum(spec.bind(params)(stream).states_BTD ** 3)

    value, grads = jax.jit(jax.value_and_grad(functools.partial(loss, scanned)))(params)
    flat_value, flat_grads = jax.jit(jax.value_and_grad(functools.partial(loss, unrolled)))(flat)
    np.testing.assert_allclose(value, flat_value, rtol=1e-5)
    np.testing.assert_allclose(
        grads["stacks"]["001"]["feedforward"]["down"]["weight"][1],
        flat_grads["tail"]["003"]["feedforward"]["down"]["weight"],
        rtol=1e-3,
        atol=1e-3,
    )
    np.testing.assert_allclose(
        grads["embedding"]["table_VD"], flat_grads["embedding"]["table_VD"], rtol=1e-3, atol=2e-3
    )


def test_offload_keeps_in_the_hosts_memory_what_products_keeps_on_the_device():
    stream = make_stream(jnp.asarray(TOKENS), jnp.asarray(SEGMENTS), "causal")

    def kept(remat):
        execution = ExecutionConfig(remat=remat, attention="chunked")
        spec = tiny.model_spec(dataclasses.replace(tiny.MODEL, execution=execution))
        run = jax.make_jaxpr(lambda params: jax.vjp(lambda p: spec.bind(p)(stream).states_BTD, params)[1])
        found = run(spec.shapes).out_avals
        return sorted((aval.shape, aval.memory_space.name) for aval in found)

    hosted, on_device = kept("offload"), kept("products")
    assert {space for _, space in on_device} == {"Device"}
    assert [shape for shape, _ in hosted] == [shape for shape, _ in on_device]
    # Of both layers: queries, keys, values; and the output of attention, by blocks of queries and groups of heads.
    (rows, length), layers = TOKENS.shape, (2,)
    by_position, by_block = (rows, length, 2, 8), (1, rows, 2, 1, length, 8)
    assert [shape for shape, space in hosted if space == "Host"] == [
        (*layers, *by_block),
        *[(*layers, *by_position)] * 3,
    ]


def test_attention_backends_give_the_same_hidden_states():
    _, params = built("rope_gqa")
    stream = make_stream(jnp.asarray(TOKENS), jnp.asarray(SEGMENTS), "causal")
    dense = forward("rope_gqa", execution=ExecutionConfig(attention="xla"))(params, stream)
    chunked = forward("rope_gqa", execution=ExecutionConfig(attention="chunked"))(params, stream)
    np.testing.assert_allclose(dense, chunked, atol=2e-5)


def test_dropout_follows_its_key_and_vanishes_without_one():
    changes = {"dropout": 0.3, "attention_dropout": 0.2}
    _, params = built("rope_gqa")
    stream = make_stream(jnp.asarray(TOKENS), None, "causal")
    dropped = forward("rope_gqa", **changes)
    keys = jax.random.split(jax.random.key(0), 2)
    np.testing.assert_array_equal(dropped(params, stream, keys[0]), dropped(params, stream, keys[0]))
    assert not np.allclose(dropped(params, stream, keys[0]), dropped(params, stream, keys[1]))
    np.testing.assert_allclose(dropped(params, stream), forward("rope_gqa")(params, stream), atol=1e-6)


def test_scanned_layers_draw_different_dropout():
    config = dataclasses.replace(tiny.MODEL, dropout=0.5, num_layers=2)
    spec = tiny.model_spec(config)
    params = tiny.random_params(spec)
    # With both layers alike and silent attention, equal masks would make two layers' updates parallel.
    stream = make_stream(jnp.asarray(TOKENS), None, "causal")
    keys = jax.random.split(jax.random.key(0), 2)
    scanned = jax.jit(lambda p: spec.bind(p)(stream, key=keys[0]).states_BTD)(params)
    one_key_for_all = spec.bind(params)

    def same_mask(block, x, key):
        return block(x, stream.positions_BT, stream.mask, key=key)[0]

    embed_key, scan_key, _ = jax.random.split(keys[0], 3)
    from lmjax.models.layers import dropout

    x = dropout(one_key_for_all.embed(stream), 0.5, embed_key)
    layer_key = jax.random.split(jax.random.split(scan_key, 2)[0], 1)[0]
    for block in one_key_for_all.layers():
        x = same_mask(block, x, layer_key)
    assert not np.allclose(scanned, one_key_for_all.final_norm(x), atol=1e-3)


def test_bfloat16_arithmetic_keeps_float32_parameters():
    spec = tiny.model_spec(dataclasses.replace(tiny.MODEL, execution=ExecutionConfig(dtype="bfloat16")))
    params = spec.init(jax.random.key(0))
    chex.assert_trees_all_equal_dtypes(params, jax.tree.map(lambda _: jnp.zeros((), jnp.float32), params))
    stream = make_stream(jnp.asarray(TOKENS), None, "causal")
    hidden = spec.bind(params)(stream).states_BTD
    assert hidden.dtype == jnp.bfloat16
    reference = tiny.model_spec(tiny.MODEL).bind(params)(stream).states_BTD
    np.testing.assert_allclose(hidden.astype(jnp.float32), reference, atol=0.05)


def test_initial_weights_have_the_scale_of_gpt2():
    config = ModelConfig(vocab_size=512, width=256, num_layers=8, num_heads=4, activation="gelu")
    params = jax.jit(tiny.model_spec(config).init)(jax.random.key(0))
    block = params["stacks"]["000"]
    np.testing.assert_allclose(np.std(block["feedforward"]["up"]["weight"]), 0.02, rtol=0.01)
    np.testing.assert_allclose(np.std(block["feedforward"]["down"]["weight"]), 0.02 / 4, rtol=0.01)
    np.testing.assert_allclose(np.std(block["attention"]["out"]["weight"]), 0.02 / 4, rtol=0.01)
    np.testing.assert_allclose(np.std(params["embedding"]["table_VD"]), 0.02, rtol=0.02)
    # Layers of a stack are drawn independently.
    assert not np.allclose(block["feedforward"]["up"]["weight"][0], block["feedforward"]["up"]["weight"][1])


@pytest.mark.parametrize("residual", ["pre", "output", "parallel"])
def test_factors_of_embeddings_and_sublayers_are_those_of_their_weights(residual):
    """The embedding times 3 is a table times 3, and a sublayer times 1/2 is one with half its output map."""
    plain = dataclasses.replace(
        LLAMA, residual=residual, tie_embeddings=False, num_layers=1, execution=ExecutionConfig(scan_layers=False)
    )
    scaled = dataclasses.replace(plain, embedding_scale=3.0, sublayer_scale=0.5)
    params = tiny.random_params(tiny.model_spec(plain))
    block = params["tail"]["000"]

    def halved(part):
        return jax.tree.map(lambda leaf: leaf / 2, part)

    if residual == "output":
        changed = {name: halved(block[name]) for name in ("attention_norm", "feedforward_norm")}
    else:
        changed = {
            "attention": {**block["attention"], "out": halved(block["attention"]["out"])},
            "feedforward": {**block["feedforward"], "down": halved(block["feedforward"]["down"])},
        }
    equivalent = {
        **params,
        "embedding": jax.tree.map(lambda leaf: 3 * leaf, params["embedding"]),
        "tail": {"000": {**block, **changed}},
    }
    stream = make_stream(jnp.asarray(TOKENS), None, "causal")
    found = tiny.model_spec(scaled).bind(params)(stream).states_BTD
    np.testing.assert_allclose(found, tiny.model_spec(plain).bind(equivalent)(stream).states_BTD, atol=1e-5)
    assert not np.allclose(found, tiny.model_spec(plain).bind(params)(stream).states_BTD, atol=0.1)


def test_without_feedforward_a_block_is_its_mixer_alone():
    spec = tiny.model_spec(dataclasses.replace(tiny.MODEL, feedforward_width=0, num_layers=3))
    assert spec.shapes["stacks"]["000"].keys() == {"attention", "attention_norm"}
    # One sublayer a layer: the initial projections into the stream are divided by sqrt(3).
    out = jax.jit(spec.init)(jax.random.key(0))["stacks"]["000"]["attention"]["out"]["weight"]
    np.testing.assert_allclose(np.std(out), 0.02 / 3**0.5, rtol=0.1)


def test_tied_head_is_the_embedding_and_a_separate_one_is_not():
    tied = tiny.model_spec(tiny.MODEL)
    params = tied.init(jax.random.key(0))
    assert "head_weight_DV" not in params
    np.testing.assert_array_equal(tied.bind(params).head().weight_DV, params["embedding"]["table_VD"].T)
    separate = tiny.model_spec(dataclasses.replace(tiny.MODEL, tie_embeddings=False))
    assert separate.shapes["head_weight_DV"].shape == (16, 64)


RING = ExecutionConfig(context="ring")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 30, "num_heads": 4}, "model.width=30 is not divisible by model.num_heads=4"),
        ({"num_kv_heads": 3}, "model.num_heads=4 is not a multiple of model.num_kv_heads=3"),
        ({"head_width": 5}, "rotary positions turn an even number"),
        ({"dropout": 1.0}, "model.dropout=1.0"),
        ({"windows": (0,)}, "model.windows"),
        ({"num_layers": 0}, "model.num_layers=0"),
        ({"logit_softcap": -1.0}, "model.logit_softcap=-1.0"),
        ({"sublayer_scale": 0.0}, "model.sublayer_scale=0.0: must be positive"),
        ({"feedforward_width": -1}, "model.feedforward_width=-1: must be positive, or 0 for none"),
        ({"feedforward_width": 0, "residual": "parallel"}, "no feed-forward for .* model.residual='parallel'"),
        ({"feedforward_width": 0, "experts": ExpertsConfig(number=2)}, "no feed-forward for model.experts.number=2"),
        ({"execution": RING, "positions": "alibi"}, "model.execution.context='ring' cannot do model.positions='alibi'"),
        ({"execution": RING, "attention_dropout": 0.1}, "'ring' cannot do model.attention_dropout=0.1"),
        (
            {"execution": dataclasses.replace(RING, attention="cudnn")},
            "'ring' cannot do model.execution.attention='cudnn'",
        ),
    ],
)
def test_impossible_architectures_are_refused_by_field(changes, words):
    with pytest.raises(ValueError, match=words):
        ModelConfig(**{"num_heads": 4, **changes})


def test_vocabulary_is_padded_or_refused():
    assert ModelConfig().with_vocabulary(300).vocab_size == 384
    assert ModelConfig(vocab_size=512).with_vocabulary(300).vocab_size == 512
    with pytest.raises(ValueError, match="model.vocab_size=200 is smaller than the tokenizer's 300"):
        ModelConfig(vocab_size=200).with_vocabulary(300)


def test_bfloat16_models_sum_the_gradient_of_the_head_in_float32():
    """Thousands of equal contributions, each of which bfloat16 would lose beside the sum of the others."""
    config = dataclasses.replace(tiny.MODEL, execution=ExecutionConfig(dtype="bfloat16"), tie_embeddings=False)
    spec = tiny.model_spec(config)
    params = tiny.random_params(spec)
    hidden_BTD = jnp.ones((1, 3000, 16), jnp.bfloat16)

    def loss(params):
        head = spec.bind(params).head()
        return linear_cross_entropy(hidden_BTD, head.weight_DV, jnp.zeros((1, 3000), jnp.int32), jnp.ones((1, 3000)))

    grad_DV = jax.jit(jax.grad(loss))(params)["head_weight_DV"]
    assert grad_DV.dtype == jnp.float32
    weight = params["head_weight_DV"].astype(jnp.bfloat16).astype(jnp.float32)
    probability_V = jax.nn.softmax(weight.sum(0))
    expected_V = 3000 * (probability_V - jnp.eye(64)[0])
    np.testing.assert_allclose(grad_DV[0], expected_V, rtol=2e-2, atol=1.0)
    assert not np.array_equal(grad_DV, grad_DV.astype(jnp.bfloat16).astype(jnp.float32))


def test_scanned_depth_adds_nothing_to_compile():
    """48 layers are the same program as 12, but for one number."""

    def program(num_layers: int) -> int:
        spec = tiny.model_spec(dataclasses.replace(tiny.MODEL, num_layers=num_layers))
        tokens = jax.ShapeDtypeStruct((2, T), jnp.int32)
        loss = jax.grad(
            lambda params, tokens_BT: spec.bind(params)(make_stream(tokens_BT, None, "causal")).states_BTD.sum()
        )
        return len(jax.jit(loss).lower(spec.shapes, tokens).as_text())

    assert program(48) < 1.02 * program(12)
