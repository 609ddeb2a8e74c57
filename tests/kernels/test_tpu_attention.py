"""The TPU kernels, run step by step without a TPU, against dense attention: outputs, all gradients, no leakage."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import masks
from lmjax.kernels import attend
from lmjax.kernels.attention.block_ranges import block_ranges
from lmjax.kernels.attention.tpu import tpu_attention
from lmjax.kernels.attention.xla import xla_attention
from lmjax.models.remat import rematerialised

B, T = 2, 200
"""Rows that fill neither two blocks of 128 queries nor two of 128 keys."""
SEGMENTS = jnp.array(np.stack([np.repeat([1, 2, 3, 0], [100, 61, 30, 9]), np.repeat([1, 2], [30, 170])]))
CASES = {
    "packed causal, grouped": (masks.packed(SEGMENTS), (4, 2, 16, 16), {}),
    "causal, wide values": (masks.causal(T), (2, 2, 16, 32), {}),
    "packed bidirectional, softcap": (masks.packed(SEGMENTS, "bidirectional"), (2, 2, 16, 16), {"softcap": 5.0}),
    "window, sinks": (masks.windowed(masks.causal(T), 50), (4, 2, 16, 16), {"sinks_N": jnp.linspace(-1, 1, 4)}),
    "prefix, one key-value head": (masks.prefix(T, jnp.array([150, 3])), (2, 1, 16, 16), {}),
    "cross, without keys": (masks.cross(SEGMENTS, SEGMENTS.at[:, 160:].set(0)[:, :170]), (2, 2, 16, 16), {}),
}


def operands(mask, sizes, seed=0):
    num_heads, num_kv_heads, width, value_width = sizes
    num_keys = 170 if mask.kind == "interval" and int(mask.end_BT.max()) <= 170 else T
    random = np.random.default_rng(seed)
    shapes = ((B, T, num_heads, width), (B, num_keys, num_kv_heads, width), (B, num_keys, num_kv_heads, value_width))
    return [jnp.asarray(random.normal(size=shape), jnp.float32) for shape in (*shapes, (B, T, num_heads, value_width))]


def with_gradients(attention, options, *arrays, grad):
    """The output, and the gradients of everything that has one."""
    sinks = options.get("sinks_N")
    rest = {name: value for name, value in options.items() if name != "sinks_N"}
    output, pull_back = jax.vjp(lambda *all_: attention(*all_[:3], sinks_N=all_[3], **rest), *arrays, sinks)
    return output, pull_back(grad)


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_of_dense_attention(name):
    mask, sizes, options = CASES[name]
    *arrays, grad = operands(mask, sizes)
    scale = sizes[2] ** -0.5
    ours = functools.partial(tpu_attention, mask=mask, scale=scale, query_block=128, key_block=128, interpret=True)
    theirs = functools.partial(
        xla_attention,
        mask=mask,
        scale=scale,
        position_bias=None,
        query_index_BT=jnp.arange(T)[None],
        dropout_rate=0.0,
        key=None,
        **({} if "softcap" in options else {"softcap": None}),
    )
    ours, theirs = (jax.jit(functools.partial(with_gradients, a, options))(*arrays, grad=grad) for a in (ours, theirs))
    for mine, right in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(mine, right, atol=2e-5)


def test_long_rows_are_differentiated_in_parts(monkeypatch):
    mask, sizes, _ = CASES["packed causal, grouped"]
    *arrays, grad = operands(mask, sizes)
    attention = functools.partial(tpu_attention, mask=mask, scale=0.25, query_block=128, key_block=128, interpret=True)
    whole = jax.jit(functools.partial(with_gradients, attention, {}))(*arrays, grad=grad)
    monkeypatch.setattr("lmjax.kernels.attention.tpu.QUERY_GRADIENT_BYTES", 1)
    parts = jax.jit(functools.partial(with_gradients, attention, {}))(*arrays, grad=grad)
    for mine, right in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(mine, right, atol=1e-5)


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
