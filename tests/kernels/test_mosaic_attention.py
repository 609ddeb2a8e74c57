"""The intervals that tokamax's kernels are given, by its plain form of the same function; refusals and the GPU program.

The kernels themselves need a GPU.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import masks
from lmjax.kernels import attend
from lmjax.kernels.attention import dispatch, mosaic_gpu

B, T, N, K, H = 2, 128, 2, 1, 64
SEGMENTS = jnp.array(np.stack([np.repeat([1, 2, 0], [50, 60, 18]), np.repeat([1, 2], [30, 98])]))
CASES = {
    "causal": masks.causal(T),
    "packed": masks.packed(SEGMENTS),
    "packed, windowed": masks.windowed(masks.packed(SEGMENTS), 9),
    "packed bidirectional": masks.packed(SEGMENTS, "bidirectional"),
    "prefix": masks.prefix(T, jnp.array([70, 3])),
    "some without keys": masks.cross(SEGMENTS, SEGMENTS.at[:, 100:].set(0)),
}


def make_inputs(dtype=jnp.bfloat16, length=T, width=H):
    random = np.random.default_rng(0)
    shapes = ((B, length, N, width), (B, length, K, width), (B, length, K, width))
    return [jnp.asarray(random.normal(size=shape), dtype) for shape in shapes]


@pytest.fixture
def hopper(monkeypatch):
    monkeypatch.setattr(dispatch, "nvidia_capability", lambda: 9.0)


@pytest.mark.parametrize("case", CASES)
def test_the_intervals_are_those_of_the_mask(case, hopper, monkeypatch):
    base = pytest.importorskip("tokamax._src.ops.attention.base")
    seen = []

    def kernel():
        plain = base.DotProductAttention()
        return lambda *arrays, mask, **options: seen.append(mask) or plain(*arrays, mask=mask, **options)

    monkeypatch.setattr(mosaic_gpu, "_kernel", kernel)
    mask, inputs = CASES[case], make_inputs()
    with jax.numpy_rank_promotion("allow"):  # which its plain form makes use of
        output = attend(*inputs, mask, backend="mosaic", softcap=5.0)
    expected = attend(*(array.astype(jnp.float32) for array in inputs), mask, backend="xla", softcap=5.0)
    np.testing.assert_allclose(output.astype(jnp.float32), expected, atol=0.02)
    # With both, its backward pass would visit every block of keys.
    assert seen[0].is_causal == (case in ("causal", "packed", "packed, windowed"))
    assert (seen[0].k_end is None) == seen[0].is_causal and seen[0].bool_mask is None


def test_both_passes_are_lowered_for_cuda(hopper, monkeypatch):
    """As Mosaic kernels, without an array of all pairs of positions."""
    tokamax_gpu = pytest.importorskip("tokamax._src.gpu_utils")
    for name, answer in (("has_mosaic_gpu_support", True), ("is_sm90", True), ("is_sm100", False)):
        monkeypatch.setattr(tokamax_gpu, name, lambda *_, answer=answer: answer)

    def loss(query, key, value):
        return jnp.sum(attend(query, key, value, masks.packed(SEGMENTS), backend="mosaic").astype(jnp.float32))

    with jax.numpy_rank_promotion("allow"):
        traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(*make_inputs())
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert set(re.findall(r"custom_call @(\w+)", text)) == {"mosaic_gpu_v2"}
    assert f"{T}x{T}x" not in text


REFUSED = [
    ({"sinks_N": jnp.zeros(N)}, {}, "attention sinks"),
    ({"dropout_rate": 0.1, "key": jax.random.key(0)}, {}, "attention dropout"),
    ({}, {"dtype": jnp.float32}, "dtype float32"),
    ({}, {"width": 32}, "head width 32"),
    ({}, {"length": 100}, r"rows of 100 positions \(a multiple of 128 only\)"),
]


@pytest.mark.parametrize(("options", "sizes", "what"), REFUSED)
def test_refusals_name_the_feature(options, sizes, what, hopper, monkeypatch):
    monkeypatch.setattr(mosaic_gpu.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(ValueError, match=f"attention backend 'mosaic' cannot do {what}.*backend='chunked'"):
        attend(*make_inputs(**sizes), masks.causal(sizes.get("length", T)), backend="mosaic", **options)


def test_what_has_to_be_there(monkeypatch):
    def refusal(capability):
        monkeypatch.setattr(dispatch, "nvidia_capability", lambda: capability)
        with pytest.raises(ValueError, match="'mosaic' cannot do") as caught:
            attend(*make_inputs(), masks.causal(T), backend="mosaic")
        return str(caught.value)

    for capability in (None, 8.0, 12.0):
        assert "this platform (it needs an NVIDIA GPU of compute capability 9 or 10)" in refusal(capability)
    monkeypatch.setattr(mosaic_gpu.importlib.util, "find_spec", lambda name: None)
    assert "without tokamax (pip install 'lmjax[mosaic]')" in refusal(9.0)


def test_auto_does_not_take_what_was_not_measured(hopper, monkeypatch):
    monkeypatch.setitem(dispatch.DENSE_LIMIT, jax.default_backend(), 0)
    monkeypatch.setattr(dispatch, "mosaic_attention", lambda *_, **__: pytest.fail("mosaic was chosen"))
    monkeypatch.setattr(dispatch, "chunked_attention", lambda *_, **__: "chunked")
    assert attend(*make_inputs(), masks.prefix(T, 3)) == "chunked"
