"""Every attention backend against dense attention written out, and what only one of them promises."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lmjax import masks
from lmjax.kernels import AlibiBias, attend
from lmjax.kernels.attention import cudnn as attention_cudnn
from lmjax.kernels.attention import dispatch as attention
from lmjax.kernels.attention.chunked import chunked_attention
from lmjax.kernels.attention.key_blocks import KeyBlocks
from lmjax.kernels.attention.position_bias import alibi_slopes
from lmjax.kernels.attention.weight_dropout import is_kept, query_words
from lmjax.parallel.mesh import MeshConfig, make_mesh

B, T, N, H = 2, 20, 4, 8
# Blocks that divide neither T nor each other.
BLOCKS = {"query_block": 8, "key_block": 6}
SEGMENTS = jnp.array([[1] * 7 + [2] * 9 + [0] * 4, [1] * 2 + [2] * 1 + [3] * 17])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TableBias:
    """A learned bias for each clipped distance: what T5's is, without its buckets."""

    table_RN: jax.Array

    def block(self, query_index_BT, key_index_BS):
        radius = self.table_RN.shape[0] // 2
        distance_BTS = key_index_BS[:, None, :] - query_index_BT[:, :, None]
        return jnp.moveaxis(self.table_RN[jnp.clip(distance_BTS + radius, 0, 2 * radius)], -1, 1)


def table_bias(num_heads: int = N) -> TableBias:
    return TableBias(jnp.asarray(np.random.default_rng(5).normal(size=(11, num_heads)), jnp.float32))


def make_inputs(num_queries=T, num_keys=T, num_heads=N, num_kv_heads=2, width=H, value_width=None, batch=B, seed=0):
    random = np.random.default_rng(seed)
    query = random.normal(size=(batch, num_queries, num_heads, width))
    key, value = random.normal(size=(2, batch, num_keys, num_kv_heads, width))
    if value_width is not None:
        value = random.normal(size=(batch, num_keys, num_kv_heads, value_width))
    return tuple(jnp.asarray(array, jnp.float32) for array in (query, key, value))


def dense(
    query, key, value, visible_BTS, bias=None, *, index=None, scale=None, softcap=None, kept_BNTS=None, sinks=None
):
    """The formula, with [B, N, T, S] arrays; ``kept`` multiplies the weights. Sinks are one more column of logits."""
    groups = query.shape[2] // key.shape[2]
    key, value = (jnp.repeat(array, groups, axis=2) for array in (key, value))
    logits = jnp.einsum("btnh,bsnh->bnts", query, key) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    if bias is not None:
        index = jnp.arange(query.shape[1])[None] if index is None else index
        logits = logits + bias.block(index, jnp.arange(key.shape[1])[None])
    logits = jnp.where(visible_BTS[:, None], logits, -1e30)
    if sinks is not None:
        column = jnp.broadcast_to(sinks[None, :, None, None], (*logits.shape[:3], 1))
        logits = jnp.concatenate([logits, column], axis=-1)
    weights = jax.nn.softmax(logits, axis=-1)[..., : key.shape[1]]
    weights = jnp.where(visible_BTS[:, None], weights, 0.0)
    return jnp.einsum("bnts,bsnh->btnh", weights if kept_BNTS is None else weights * kept_BNTS, value)


def chunked(query, keys, values, mask, bias=None, *, index=None, scale=None, **options):
    """The chunked backend in blocks small enough for several in these tests."""
    return chunked_attention(
        query,
        keys,
        values,
        mask,
        position_bias=bias,
        query_index_BT=jnp.arange(query.shape[1])[None] if index is None else index,
        scale=query.shape[-1] ** -0.5 if scale is None else scale,
        **BLOCKS | options,
    )


def xla(query, keys, value, mask, bias=None, *, index=None, **options):
    return attend(query, keys, value, mask, position_bias=bias, query_index_BT=index, backend="xla", **options)


BACKENDS = {"xla": xla, "chunked": chunked}


@functools.partial(jax.jit, static_argnames=("function", "options"))
def value_and_gradients(function, query, key, value, mask, bias, options=()):
    """The output, and its gradients by query, key, value and bias under fixed random cotangents."""
    output, pull_back = jax.vjp(
        lambda *inputs: function(*inputs[:3], mask, inputs[3], **dict(options)), query, key, value, bias
    )
    return output, pull_back(jax.random.normal(jax.random.key(9), output.shape, output.dtype))


def assert_close(actual, expected, tolerance=2e-5):
    def check(a, b):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)

    jax.tree.map(check, actual, expected)


def prefix_end(segments):
    """Two positions of each document, more than the one-position documents have."""
    return masks.document_bounds(segments)[0] + 2


CASES = {
    "causal": (masks.causal(T), {}),
    "full": (masks.bidirectional(T), {}),
    "prefix": (masks.prefix(T, jnp.array([5, 13])), {}),
    "packed": (masks.packed(SEGMENTS), {}),
    "packed bidirectional": (masks.packed(SEGMENTS, "bidirectional"), {}),
    "packed prefix": (masks.packed(SEGMENTS, "prefix", prefix_end_BT=prefix_end(SEGMENTS)), {}),
    "windowed causal": (masks.windowed(masks.causal(T), 5), {}),
    "windowed both sides": (masks.windowed(masks.bidirectional(T), 4), {}),
    "windowed packed": (masks.windowed(masks.packed(SEGMENTS), 3), {}),
    "packed, bias": (masks.packed(SEGMENTS), {"bias": table_bias()}),
    "as many key heads": (masks.packed(SEGMENTS), {"num_kv_heads": N}),
    "one key head, bias": (masks.packed(SEGMENTS), {"num_kv_heads": 1, "bias": table_bias()}),
    "narrower values": (masks.packed(SEGMENTS), {"value_width": H - 3}),
    "wider values, one key head": (masks.causal(T), {"value_width": 2 * H, "num_kv_heads": 1}),
    "causal, more keys": (masks.causal(T), {"num_keys": 27}),
    "cross, fewer keys, bias": (
        masks.IntervalMask(start_BT=SEGMENTS // 2, end_BT=jnp.clip(SEGMENTS * 4 + 1, 1, 13)),
        {"num_keys": 13, "bias": table_bias()},
    ),
    "bounds beyond the row": (
        masks.IntervalMask(start_BT=jnp.full((B, 1), -3), end_BT=jnp.array([[9], [40]])),
        {"num_queries": 1},
    ),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_equals_dense(backend, case):
    mask, shape = CASES[case]
    bias = shape.get("bias")
    inputs = make_inputs(**{name: size for name, size in shape.items() if name != "bias"})
    num_queries, num_keys = inputs[0].shape[1], inputs[1].shape[1]
    visible_BTS = jnp.broadcast_to(mask.dense(num_keys), (B, num_queries, num_keys))
    if backend == "chunked":
        # It reads the arrays alone; without the static parts these cases share their compilations.
        mask = masks.IntervalMask(start_BT=mask.start_BT, end_BT=mask.end_BT)
    expected = value_and_gradients(dense, *inputs, visible_BTS, bias)
    assert_close(value_and_gradients(BACKENDS[backend], *inputs, mask, bias), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_scale(backend):
    inputs, mask = make_inputs(), masks.causal(T)
    expected = value_and_gradients(dense, *inputs, mask.dense(T), None, (("scale", 0.7),))
    assert_close(value_and_gradients(BACKENDS[backend], *inputs, mask, None, (("scale", 0.7),)), expected)


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_softcap(backend):
    inputs, mask, bias = make_inputs(), masks.packed(SEGMENTS), table_bias()
    options = (("scale", 3.0), ("softcap", 2.0))
    expected = value_and_gradients(dense, *inputs, mask.dense(T), bias, options)
    assert_close(value_and_gradients(backend, *inputs, mask, bias, options), expected)


def dense_with_sinks(query, keys, value, visible_BTS, bias_and_sinks, **options):
    return dense(query, keys, value, visible_BTS, bias_and_sinks[0], sinks=bias_and_sinks[1], **options)


def chunked_with_sinks(query, keys, value, mask, bias_and_sinks, **options):
    return chunked(query, keys, value, mask, bias_and_sinks[0], sinks_N=bias_and_sinks[1], **options)


def xla_with_sinks(query, keys, value, mask, bias_and_sinks, **options):
    return xla(query, keys, value, mask, bias_and_sinks[0], sinks_N=bias_and_sinks[1], **options)


@pytest.mark.parametrize("backend", [xla_with_sinks, chunked_with_sinks, "eight devices"])
def test_sinks_take_their_share_of_the_softmax(backend):
    """Low ones, high ones that outweigh every key, and queries that see no key at all."""
    inputs, mask = make_inputs(batch=4), masks.packed(jnp.tile(SEGMENTS, (2, 1)))
    mask = dataclasses.replace(mask, end_BT=jnp.where(jnp.arange(T)[None] == 3, 0, mask.end_BT))
    bias_and_sinks = (table_bias(), jnp.array([-3.0, 0.0, 2.0, 6.0]))
    options = (("scale", 3.0), ("softcap", 2.0))
    expected = value_and_gradients(dense_with_sinks, *inputs, mask.dense(T), bias_and_sinks, options)
    if backend == "eight devices":
        with jax.set_mesh(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))):
            result = value_and_gradients(chunked_with_sinks, *inputs, mask, bias_and_sinks, options)
    else:
        result = value_and_gradients(backend, *inputs, mask, bias_and_sinks, options)
    assert np.abs(np.asarray(expected[1][3][1])).min() > 1e-3
    assert_close(result, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sixteen_bits_in_float32_softmax_inside(backend):
    inputs = tuple(array.astype(jnp.bfloat16) for array in make_inputs(num_kv_heads=N))
    mask = masks.packed(SEGMENTS)
    exact = tuple(array.astype(jnp.float32) for array in inputs)
    expected_output, _ = value_and_gradients(dense, *exact, mask.dense(T), None)
    output, gradients = value_and_gradients(BACKENDS[backend], *inputs, mask, None)
    assert output.dtype == jnp.bfloat16 and {g.dtype for g in gradients[:3]} == {jnp.bfloat16.dtype}
    assert_close(output.astype(jnp.float32), expected_output, 2e-2)


def test_large_logits_do_not_overflow():
    query, key, value = make_inputs()
    mask = masks.packed(SEGMENTS)
    expected, _ = value_and_gradients(dense, 300 * query, key, value, mask.dense(T), None)
    output, gradients = value_and_gradients(chunked, 300 * query, key, value, mask, None)
    assert_close(output, expected, 2e-4)
    assert all(np.isfinite(gradient).all() for gradient in gradients[:3])


@pytest.mark.parametrize("backend", BACKENDS)
def test_query_without_a_key_gives_zero(backend):
    mask = masks.packed(SEGMENTS)
    empty_BT = SEGMENTS == 0
    mask = dataclasses.replace(mask, start_BT=mask.start_BT, end_BT=jnp.where(empty_BT, 0, mask.end_BT))
    expected = value_and_gradients(dense, *make_inputs(), mask.dense(T), None)
    output, gradients = value_and_gradients(BACKENDS[backend], *make_inputs(), mask, None)
    assert np.all(np.asarray(output)[np.asarray(empty_BT)] == 0)
    assert_close((output, gradients), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["causal", "prefix", "packed", "packed prefix", "windowed both sides"])
def test_gradient_shows_exactly_the_mask(backend, case):
    mask, _ = CASES[case]
    query, key, value = make_inputs(num_heads=1, num_kv_heads=1)

    @jax.jit
    def influence(mask):
        def outputs(key, value):
            return BACKENDS[backend](query, key, value, mask).sum(axis=(-1, -2))

        by_key, by_value = jax.jacrev(outputs, argnums=(0, 1))(key, value)
        same_row = jnp.arange(B)
        # [B, T, B, S, 1, H]: only a row's own keys may matter at all.
        return tuple(
            (jnp.abs(j[same_row, :, same_row]).sum(axis=(-1, -2)), jnp.abs(j[0, :, 1]).max())
            for j in (by_key, by_value)
        )

    (by_key_BTS, key_leak), (by_value_BTS, value_leak) = influence(mask)
    visible_BTS = np.broadcast_to(mask.dense(T), (B, T, T))
    np.testing.assert_array_equal(np.asarray(by_value_BTS) != 0, visible_BTS)
    assert np.all(np.asarray(by_key_BTS)[~visible_BTS] == 0)
    assert key_leak == 0 and value_leak == 0


def test_a_decoding_query_equals_its_row_of_the_whole():
    query, key, value = make_inputs()
    bias, mask = table_bias(), masks.causal(T)
    whole = dense(query, key, value, mask.dense(T), bias)
    at_B1 = jnp.array([[19], [6]])
    one_query = jnp.take_along_axis(query, at_B1[:, :, None, None], axis=1)
    step_mask = masks.IntervalMask(start_BT=jnp.zeros((B, 1), jnp.int32), end_BT=at_B1 + 1)
    for backend in (xla, chunked):
        step = backend(one_query, key, value, step_mask, bias, index=at_B1)
        assert_close(step, jnp.take_along_axis(whole, at_B1[:, :, None, None], axis=1))


def test_recomputed_and_scanned():
    query, key, value = make_inputs(num_kv_heads=N)
    mask = masks.packed(SEGMENTS)

    def total(attention_function, query):
        @jax.checkpoint
        def layer(hidden, _):
            return hidden + attention_function(hidden, key, value), None

        return jnp.sum(jax.lax.scan(layer, query, None, length=2)[0] ** 2)

    gradient = jax.jit(jax.grad(functools.partial(total, lambda q, k, v: chunked(q, k, v, mask))))(query)
    expected = jax.jit(jax.grad(functools.partial(total, lambda q, k, v: dense(q, k, v, mask.dense(T)))))(query)
    assert_close(gradient, expected, 1e-4)


RATE = 0.3


@functools.partial(jax.jit, static_argnames=("backend", "rate"))
def weights_after_dropout(backend, key, rate):
    """Attention weights [B, T, N, S], read off by values that are the identity matrix."""
    query, keys, _ = make_inputs(width=T)
    identity = jnp.broadcast_to(jnp.eye(T)[None, :, None, :], keys.shape)
    mask = masks.packed(SEGMENTS, "bidirectional")
    return BACKENDS[backend](query, keys, identity, mask, dropout_rate=rate, key=key)


def dropped_weights(backend: str, seed: int, rate: float = RATE) -> np.ndarray:
    return np.asarray(weights_after_dropout(backend, jax.random.key(seed), rate))


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_drops_at_the_rate_and_scales_the_rest(backend):
    plain, dropped = dropped_weights(backend, 0, 0.0), dropped_weights(backend, 0)
    seen, kept = plain > 0, dropped > 0
    assert not np.any(kept & ~seen)
    np.testing.assert_allclose(dropped[kept], plain[kept] / (1 - RATE), rtol=1e-5)
    # Over many keys, as one call here has few weights.
    rates = [1 - np.mean(dropped_weights(backend, seed)[seen] > 0) for seed in range(20)]
    standard_error = (RATE * (1 - RATE) / (20 * seen.sum())) ** 0.5
    assert abs(np.mean(rates) - RATE) < 3 * standard_error


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_is_a_function_of_its_key_and_differs_everywhere(backend):
    first, other = dropped_weights(backend, 0) > 0, dropped_weights(backend, 1) > 0
    np.testing.assert_array_equal(first, dropped_weights(backend, 0) > 0)
    assert np.any(first != other)
    # Patches at the same place of their blocks: blocks of queries and keys, rows and heads must not repeat.
    places = ((1, 8, 7), (1, 16, 7), (1, 8, 13), (0, 8, 7))
    patches = [first[row, t : t + 4, head, s : s + 5] for row, t, s in places for head in range(N)]
    assert len({patch.tobytes() for patch in patches}) == len(patches)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_gradient_equals_dense_with_the_same_weights_dropped(backend):
    inputs, mask, key = make_inputs(), masks.packed(SEGMENTS, "bidirectional"), jax.random.key(3)
    kept_BNTS = jnp.asarray(np.moveaxis(dropped_weights(backend, 3) > 0, 1, 2) / (1 - RATE), jnp.float32)

    def reference(*inputs):
        return dense(*inputs, kept_BNTS=kept_BNTS)

    def with_dropout(*inputs):
        return BACKENDS[backend](*inputs, dropout_rate=RATE, key=key)

    expected = value_and_gradients(reference, *inputs, mask.dense(T), table_bias())
    # The weights were read off other queries and values: what is dropped must not depend on those.
    assert_close(value_and_gradients(with_dropout, *inputs, mask, table_bias()), expected)


def test_all_backends_drop_the_same_weights():
    """Those of the TPU kernels are compared with the dense ones in test_tpu_attention."""
    np.testing.assert_array_equal(dropped_weights("chunked", 0) > 0, dropped_weights("xla", 0) > 0)


def test_what_is_dropped_looks_independent():
    """Shares by query, key and head, and products of neighbours, within five standard errors."""
    batch, length, num_heads, rate = 2, 128, 8, 0.1
    words_BTN = query_words(jax.random.key(0), batch, length, num_heads)
    kept = np.asarray(is_kept(words_BTN[..., None], jnp.arange(length)[None, None, None, :], rate))
    deviation_BTNS = (kept - (1 - rate)) / (rate * (1 - rate)) ** 0.5
    for axes in ((0, 2, 3), (0, 1, 2), (1, 3)):
        shares = deviation_BTNS.mean(axes) * np.prod([kept.shape[axis] for axis in axes]) ** 0.5
        assert np.abs(shares).max() < 5 and 0.8 < shares.std() < 1.2
    for axis in range(4):
        for step in (1, 2, 16, 64):
            if step < kept.shape[axis]:
                ahead, behind = (np.arange(step, kept.shape[axis]), np.arange(kept.shape[axis] - step))
                pairs = deviation_BTNS.take(ahead, axis) * deviation_BTNS.take(behind, axis)
                assert abs(pairs.mean()) * pairs.size**0.5 < 5


def test_no_key_means_no_dropout():
    inputs, mask = make_inputs(), masks.causal(T)
    np.testing.assert_array_equal(
        attend(*inputs, mask, dropout_rate=0.5, backend="chunked"), attend(*inputs, mask, backend="chunked")
    )


def test_key_blocks_walked():
    # Blocks of 4 over 16 keys. Row 0 sees keys 5..11 (blocks 1, 2), row 1 keys 12, 13 (block 3).
    blocks = KeyBlocks(start_BT=jnp.array([[5, 6], [12, 0]]), end_BT=jnp.array([[9, 12], [14, 0]]), num_keys=16, size=4)
    assert blocks.num_steps == 2
    last = blocks.at(jnp.int32(1))
    np.testing.assert_array_equal(last.index_BS, [[8, 9, 10, 11], [16, 17, 18, 19]])
    expected = [[[1, 0, 0, 0], [1, 1, 1, 1]], [[0] * 4, [0] * 4]]
    np.testing.assert_array_equal(last.visible_BTS, np.array(expected, bool))
    nothing = jnp.zeros((1, 3), jnp.int32)
    assert KeyBlocks(start_BT=nothing, end_BT=nothing, num_keys=16, size=4).num_steps <= 0


@pytest.mark.parametrize("walk", ["shared", "by row"])
def test_blocks_nobody_sees_are_not_read(walk):
    length, blocks = 32, {"query_block": 8, "key_block": 8}
    if walk == "shared":
        mask, poisoned = masks.windowed(masks.causal(length), 4), np.array([8, 8])
    else:
        # The rows' documents end in different blocks, and only the rows' own earlier ones are poisoned.
        bounds = np.array([[16], [24]])
        mask, poisoned = masks.packed(jnp.asarray(1 + (np.arange(length)[None] >= bounds))), bounds[:, 0]
    query, key, value = make_inputs(num_queries=length, num_keys=length)
    bad = (np.arange(length)[None] < poisoned[:, None])[:, :, None, None]
    key, value = jnp.where(bad, jnp.nan, key), jnp.where(bad, jnp.nan, value)
    output, (by_query, by_key, by_value, _) = value_and_gradients(
        chunked, query, key, value, mask, None, tuple(blocks.items())
    )
    # Queries of the block after the poison still see one key of it under the window.
    for row, first in enumerate(poisoned + (8 if walk == "shared" else 0)):
        assert np.isnan(output[row, 0]).any()
        assert np.isfinite(output[row, first:]).all() and np.isfinite(by_query[row, first:]).all()
        assert np.isfinite(by_key[row, first + 8 :]).all() and np.isfinite(by_value[row, first + 8 :]).all()


def test_memory_is_linear_in_length():
    def temporary_bytes(backend, length):
        query, key, value = (jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32) for _ in range(3))
        segments = jax.ShapeDtypeStruct((1, length), jnp.int32)

        def loss(query, key, value, segments):
            return attend(query, key, value, masks.packed(segments), backend=backend).sum()

        lowered = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(query, key, value, segments)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    length = 4096
    # A boolean mask alone would be a byte a pair.
    assert temporary_bytes("chunked", length) < length**2 / 4
    assert temporary_bytes("chunked", 2 * length) < 2.5 * temporary_bytes("chunked", length)
    assert temporary_bytes("xla", length) > length**2


SHARDED = {
    "dropout": ({"batch": 4}, "packed", 0.2),
    "mask of all rows": ({"batch": 4}, "causal", 0.0),
    "one key head": ({"batch": 4, "num_kv_heads": 1}, "packed", 0.0),
    "odd heads": ({"batch": 4, "num_heads": 3, "num_kv_heads": 3}, "causal", 0.0),
    "narrower values": ({"batch": 4, "num_kv_heads": 1, "value_width": H - 3}, "causal", 0.0),
    "odd rows": ({"batch": 3}, "packed", 0.0),
}


@pytest.mark.parametrize("case", SHARDED)
def test_eight_devices_equal_one(case):
    shape, kind, dropout_rate = SHARDED[case]
    inputs, bias = make_inputs(**shape), table_bias(shape.get("num_heads", N))
    segments = jnp.tile(SEGMENTS, (2, 1))[: shape["batch"]]
    mask = masks.packed(segments) if kind == "packed" else masks.causal(T)

    def attention_function(*inputs):
        return chunked(*inputs, dropout_rate=dropout_rate, key=jax.random.key(1))

    expected = value_and_gradients(attention_function, *inputs, mask, bias)
    with jax.set_mesh(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))):
        assert_close(value_and_gradients(attention_function, *inputs, mask, bias), expected)


def test_devices_need_no_communication():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    by_row_and_head = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, "tensor"))
    inputs = [jax.device_put(array, by_row_and_head) for array in make_inputs(batch=4)]
    segments = jax.device_put(jnp.tile(SEGMENTS, (2, 1)), NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))

    @jax.jit
    def gradients(query, key, value, segments):
        return jax.grad(lambda *qkv: (chunked(*qkv, masks.packed(segments)) ** 2).sum(), argnums=(0, 1, 2))(
            query, key, value
        )

    with jax.set_mesh(mesh):
        text = gradients.lower(*inputs, segments).compile().as_text()
        assert not [word for word in ("all-gather", "all-reduce", "all-to-all", "permute(") if word in text]
        inside = gradients(*inputs, segments)
    # Without a mesh set, the compiler partitions the loops as it can, and is right too.
    assert_close(gradients(*inputs, segments), inside)


def request(**options):
    """A request that every backend can do, but for ``options``."""
    mask = options.pop("mask", masks.causal(T))
    sizes = {name: options.pop(name) for name in ("width", "num_keys", "value_width") if name in options}
    inputs = make_inputs(**sizes)
    dtype = options.pop("dtype", jnp.bfloat16)
    return attend(*(array.astype(dtype) for array in inputs), mask, **options)


def alibi():
    return AlibiBias(slopes_N=jnp.array(alibi_slopes(N)))


REFUSED = [
    ("cudnn", {"softcap": 30.0}, "softcap"),
    ("cudnn", {"dropout_rate": 0.1, "key": jax.random.key(0)}, "attention dropout"),
    ("cudnn", {"position_bias": alibi()}, "a position bias"),
    ("cudnn", {"sinks_N": jnp.zeros(N)}, "attention sinks"),
    ("cudnn", {"mask": masks.prefix(T, 3)}, r"masks other than .* \(kind='interval'\)"),
    ("cudnn", {"mask": masks.windowed(masks.packed(SEGMENTS, "bidirectional"), 2)}, "masks other than .*'interval'"),
    ("cudnn", {"num_keys": 24}, r"masks other than causal and packed with T = S"),
    ("cudnn", {"dtype": jnp.float32}, "dtype float32"),
    ("cudnn", {"width": 12}, "head width 12"),
    ("cudnn", {"value_width": 2 * H}, "values wider than keys"),
    ("cudnn", {"width": 264}, r"head width 264 \(a multiple of 8, at most 256"),
]


@pytest.mark.parametrize(("backend", "options", "what"), REFUSED)
def test_refusals_name_backend_and_feature(backend, options, what, monkeypatch):
    monkeypatch.setattr(attention_cudnn, "nvidia_capability", lambda: 9.0)
    with pytest.raises(ValueError, match=f"attention backend '{backend}' cannot do {what}.*backend='chunked'"):
        request(backend=backend, **options)


def test_cudnn_is_refused_without_a_gpu():
    if attention_cudnn.nvidia_capability() is not None:
        pytest.skip("this machine has an NVIDIA GPU")
    with pytest.raises(ValueError, match="'cudnn' cannot do this platform"):
        request(backend="cudnn")


def test_cudnn_before_hopper_takes_narrower_heads(monkeypatch):
    monkeypatch.setattr(attention_cudnn, "nvidia_capability", lambda: 8.0)
    with pytest.raises(ValueError, match=r"head width 136 .*at most 128"):
        request(backend="cudnn", width=136)


@pytest.mark.parametrize("case", ["causal", "full", "windowed causal"])
def test_cudnn_is_asked_for_the_mask_meant(case, monkeypatch):
    mask, _ = CASES[case]
    seen = []

    def by_xla(*arrays, implementation, **arguments):
        seen.append((implementation, arguments))
        return dot_product_attention(*arrays, implementation="xla", **arguments)

    dot_product_attention = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
    monkeypatch.setattr(attention_cudnn, "nvidia_capability", lambda: 9.0)
    inputs = [array.astype(jnp.float16) for array in make_inputs(value_width=H - 3 if case == "causal" else None)]
    output = attend(*inputs, mask)
    ((implementation, arguments),) = seen
    assert implementation == "cudnn" and not arguments.keys() & {"mask", "bias"}
    expected = dense(*(array.astype(jnp.float32) for array in inputs), mask.dense(T))
    assert_close(output.astype(jnp.float32), expected, 1e-2)


@pytest.mark.parametrize(
    ("options", "limit", "expected"),
    [
        ({}, T * T, "xla_attention"),
        ({"position_bias": alibi()}, T * T, "xla_attention"),
        ({}, T * T - 1, "chunked_attention"),
        ({"softcap": 5.0}, T * T, "xla_attention"),
        ({"dropout_rate": 0.5, "key": jax.random.key(0)}, T * T - 1, "chunked_attention"),
    ],
)
def test_auto(options, limit, expected, monkeypatch):
    calls = []
    for name in ("xla_attention", "chunked_attention"):
        monkeypatch.setattr(attention, name, lambda *_, name=name, **__: calls.append(name))
    monkeypatch.setitem(attention.DENSE_LIMIT, jax.default_backend(), limit)
    request(dtype=jnp.float32, **options)
    assert calls == [expected]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "flash"}, "backend='flash': use one of auto, xla, cudnn, mosaic, tpu, chunked"),
        ({"dropout_rate": 1.0}, "dropout_rate=1.0"),
        ({"mask": masks.causal(T - 1)}, r"mask.start_BT is \(1, 19\): must be \[2 or 1, 20\]"),
    ],
)
def test_bad_requests(change, message):
    with pytest.raises(ValueError, match=message):
        request(**change)


def test_shapes_that_do_not_fit():
    query, key, value = make_inputs(num_heads=4, num_kv_heads=3)
    with pytest.raises(ValueError, match="4 query heads over 3 key-value heads"):
        attend(query, key, value, masks.causal(T))
    with pytest.raises(ValueError, match="must have one shape"):
        attend(query, key, value[:, :-1], masks.causal(T))


def test_alibi():
    np.testing.assert_allclose(alibi_slopes(8), [2.0**-i for i in range(1, 9)])
    np.testing.assert_allclose(alibi_slopes(6), [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])
    assert alibi_slopes(1) == [2.0**-8]
    bias = AlibiBias(slopes_N=jnp.array([1.0, 0.5]))
    block = bias.block(jnp.array([[3, 4]]), jnp.array([[2, 3, 4]]))
    expected = [[[-1, 0, -1], [-2, -1, 0]], [[-0.5, 0, -0.5], [-1, -0.5, 0]]]
    np.testing.assert_allclose(block, np.array([expected]))
