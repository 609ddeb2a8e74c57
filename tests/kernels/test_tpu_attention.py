"""The TPU kernels, run step by step without a TPU, against dense attention: outputs, all gradients, no leakage."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import masks
from lmjax.kernels import attend
from lmjax.kernels.attention.block_ranges import block_ranges
from lmjax.kernels.attention.position_bias import AlibiBias, RelativeBias
from lmjax.kernels.attention.tpu import plan_of, tpu_attention, tpu_cannot
from lmjax.kernels.attention.tpu_bias import by_distance, spread, summed
from lmjax.kernels.attention.xla import xla_attention
from lmjax.models.remat import rematerialised
from lmjax.parallel.mesh import MeshConfig, make_mesh

B, T = 2, 200
"""Rows that fill neither two blocks of 128 queries nor two of 128 keys."""
SEGMENTS = jnp.array(np.stack([np.repeat([1, 2, 3, 0], [100, 61, 30, 9]), np.repeat([1, 2], [30, 170])]))
DROPOUT = {"dropout_rate": 0.3, "key": jax.random.key(4)}


def relative(num_heads: int) -> RelativeBias:
    table_RN = jnp.asarray(np.random.default_rng(6).normal(size=(16, num_heads)), jnp.float32)
    return RelativeBias(table_RN=table_RN, max_distance=60, past_only=False)


CASES = {
    "packed causal, grouped": (masks.packed(SEGMENTS), (4, 2, 16, 16), {}),
    "causal, wide values": (masks.causal(T), (2, 2, 16, 32), {}),
    "packed bidirectional, softcap": (masks.packed(SEGMENTS, "bidirectional"), (2, 2, 16, 16), {"softcap": 5.0}),
    "window, sinks": (masks.windowed(masks.causal(T), 50), (4, 2, 16, 16), {"sinks_N": jnp.linspace(-1, 1, 4)}),
    "prefix, one key-value head": (masks.prefix(T, jnp.array([150, 3])), (2, 1, 16, 16), {}),
    "cross, without keys": (masks.cross(SEGMENTS, SEGMENTS.at[:, 160:].set(0)[:, :170]), (2, 2, 16, 16), {}),
    "dropout, grouped": (masks.packed(SEGMENTS), (4, 2, 16, 16), DROPOUT),
    "bias, cross": (masks.cross(SEGMENTS, SEGMENTS[:, :170]), (2, 2, 16, 16), {"position_bias": relative(2)}),
    "bias, softcap, sinks, dropout, grouped": (
        masks.packed(SEGMENTS, "bidirectional"),
        (4, 2, 16, 16),
        {"position_bias": relative(4), "softcap": 5.0, "sinks_N": jnp.linspace(-1, 1, 4), **DROPOUT},
    ),
}


def operands(mask, sizes, seed=0):
    num_heads, num_kv_heads, width, value_width = sizes
    num_keys = 170 if mask.kind == "interval" and int(mask.end_BT.max()) <= 170 else T
    random = np.random.default_rng(seed)
    shapes = ((B, T, num_heads, width), (B, num_keys, num_kv_heads, width), (B, num_keys, num_kv_heads, value_width))
    return [jnp.asarray(random.normal(size=shape), jnp.float32) for shape in (*shapes, (B, T, num_heads, value_width))]


def with_gradients(attention, options, *arrays, grad):
    """The output, and the gradients of everything that has one."""
    learned = {name: options.get(name) for name in ("sinks_N", "position_bias")}
    rest = {name: value for name, value in options.items() if name not in learned}
    output, pull_back = jax.vjp(lambda *all_: attention(*all_[:-1], **all_[-1], **rest), *arrays, learned)
    return output, pull_back(grad)


@functools.cache
def of_dense_attention(name):
    """Output and gradients of a case by dense attention."""
    mask, sizes, options = CASES[name]
    *arrays, grad = operands(mask, sizes)
    attention = functools.partial(
        xla_attention,
        mask=mask,
        scale=sizes[2] ** -0.5,
        query_index_BT=jnp.arange(T)[None],
        **({"softcap": None, "dropout_rate": 0.0, "key": None} | options),
    )
    return jax.jit(functools.partial(with_gradients, attention, options))(*arrays, grad=grad)


def assert_as_dense(name):
    mask, sizes, options = CASES[name]
    *arrays, grad = operands(mask, sizes)
    blocks = {"query_block": 128, "key_block": 128}
    attention = functools.partial(tpu_attention, mask=mask, scale=sizes[2] ** -0.5, **blocks, interpret=True)
    ours = jax.jit(functools.partial(with_gradients, attention, options))(*arrays, grad=grad)
    for mine, right in zip(jax.tree.leaves(ours), jax.tree.leaves(of_dense_attention(name)), strict=True):
        np.testing.assert_allclose(mine, right, atol=3e-5)


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_of_dense_attention(name):
    assert_as_dense(name)


def test_long_rows_are_differentiated_in_parts(monkeypatch):
    monkeypatch.setattr("lmjax.kernels.attention.tpu.QUERY_GRADIENT_BYTES", 1)
    assert_as_dense("bias, cross")
    assert_as_dense("dropout, grouped")


def test_four_devices_equal_one():
    """Rows and heads are split; the bias with the heads, its gradient summed over the rows."""
    with jax.set_mesh(make_mesh(MeshConfig(data=2, tensor=2), devices=jax.devices()[:4])):
        assert_as_dense("bias, softcap, sinks, dropout, grouped")


def test_the_bias_of_each_distance_by_hand():
    bias_NL = by_distance(AlibiBias(slopes_N=jnp.array([1.0, 0.5])), num_queries=2, num_keys=3)
    # Query 0 against keys 3 (of which there is none), 2, 1 and 0, and query 1 against key 0.
    assert bias_NL.tolist() == [[-3, -2, -1, 0, -1], [-1.5, -1, -0.5, 0, -0.5]]


def test_a_block_of_several_tiles_has_its_distances_along_the_diagonals():
    """Three tiles of keys and two of queries; the gradient sums along the same diagonals."""
    plan = plan_of(256, 384, groups=1, scale=1.0, softcap=None, query_block=256, key_block=384)
    values_1W = jnp.arange(640.0)[None, :]
    index_ST = 384 + np.arange(256)[None, :] - np.arange(384)[:, None]
    np.testing.assert_array_equal(jax.jit(functools.partial(spread, plan))(values_1W), index_ST)
    grad_ST = np.random.default_rng(0).integers(0, 9, (384, 256)).astype(np.float32)
    sums_W = np.bincount(index_ST.ravel(), weights=grad_ST.ravel(), minlength=640)
    np.testing.assert_array_equal(jax.jit(functools.partial(summed, plan))(grad_ST), sums_W[None, :])


def test_ranges_of_blocks_by_hand():
    """Three documents of 3, 2 and 3 tokens, causal, in blocks of 2 queries and 2 keys."""
    mask = masks.packed(jnp.array([[1, 1, 1, 2, 2, 3, 3, 3]]))
    ranges = block_ranges(mask.start_BT, mask.end_BT, num_keys=8, query_block=2, key_block=2)
    # Queries 2 and 3 see keys 0-2 and 3; queries 4 and 5 see 3-4 and 5; queries 6 and 7 see 5-7.
    assert ranges.key_first_BI.tolist() == [[0, 0, 1, 2]]
    assert ranges.key_last_BI.tolist() == [[1, 2, 3, 4]]
    assert ranges.query_first_BJ.tolist() == [[0, 1, 2, 3]]
    assert ranges.query_last_BJ.tolist() == [[2, 3, 4, 4]]
    # No block of keys is seen whole by both queries of a block.
    assert all(a >= b for a, b in zip(ranges.full_first_BI[0].tolist(), ranges.full_last_BI[0].tolist(), strict=True))
    whole = masks.bidirectional(8)
    ranges = block_ranges(whole.start_BT, whole.end_BT, num_keys=8, query_block=2, key_block=2)
    assert ranges.full_first_BI.tolist() == [[0] * 4] and ranges.full_last_BI.tolist() == [[4] * 4]


def test_a_query_without_keys_does_not_widen_its_block():
    start_BT, end_BT = jnp.array([[0, 4, 0, 0]]), jnp.array([[0, 6, 0, 0]])
    ranges = block_ranges(start_BT, end_BT, num_keys=8, query_block=2, key_block=2)
    assert (ranges.key_first_BI[0, 0], ranges.key_last_BI[0, 0]) == (2, 3)
    assert ranges.key_first_BI[0, 1] == ranges.key_last_BI[0, 1]


@pytest.mark.parametrize(("options", "message"), [({}, r"this platform \(cpu\)")])
def test_what_the_kernels_cannot_do_is_refused(options, message):
    query = jnp.zeros((1, 4, 2, 16))
    with pytest.raises(ValueError, match=f"attention backend 'tpu' cannot do {message}: use backend='chunked'"):
        attend(query, query, query, masks.causal(4), backend="tpu", **options)
    refusal = tpu_cannot(platform="tpu", position_bias=relative(2), is_shifted=True, width=16)
    assert refusal == "a position bias of queries whose positions are given"
    assert tpu_cannot(platform="tpu", position_bias=relative(2), is_shifted=False, width=16) is None


def used_calls(jaxpr) -> int:
    """Kernels of which some result is used; the compiler drops the others."""
    used = {id(var) for eqn in jaxpr.eqns for var in eqn.invars} | {id(var) for var in jaxpr.outvars}
    count = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "pallas_call":
            count += any(id(var) in used for var in eqn.outvars)
            continue
        for inner in jax.tree.leaves(eqn.params, is_leaf=lambda value: hasattr(value, "eqns")):
            count += used_calls(getattr(inner, "jaxpr", inner)) if hasattr(inner, "eqns") else 0
    return count


@pytest.mark.parametrize(("remat", "calls"), [("full", 3), ("flash", 2), ("products", 2), ("offload", 2)])
def test_a_policy_that_keeps_the_kernels_results_runs_the_forward_kernel_once(remat, calls):
    query = jnp.zeros((1, 128, 2, 16))

    def loss(query):
        attention = functools.partial(tpu_attention, mask=masks.causal(128), scale=0.25, interpret=True)
        return jnp.sum(rematerialised(lambda q: attention(q, q, q), remat, scanned=True)(jnp.sin(query)) ** 2)

    assert used_calls(jax.make_jaxpr(jax.grad(loss))(query).jaxpr) == calls
