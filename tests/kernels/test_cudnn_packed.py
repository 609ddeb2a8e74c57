"""Packed rows for cuDNN: what it is told of the documents, against masks, and the calls that are made of it.

cuDNN itself needs a GPU. Here a function that follows the description of its arguments stands in for it, and programs
are lowered for CUDA without one.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import masks
from lmjax.kernels import attend
from lmjax.kernels.attention import cudnn, cudnn_packed, dispatch
from lmjax.kernels.attention.xla import xla_attention
from lmjax.parallel.mesh import MeshConfig, make_mesh

B, T, N, K, H = 2, 12, 4, 2, 8
SEGMENTS = jnp.array([[1] * 5 + [2] * 4 + [0] * 3, [1] * 1 + [2] * 1 + [3] * 10])
MASKS = {
    "causal": masks.packed(SEGMENTS),
    "windowed": masks.windowed(masks.packed(SEGMENTS), 3),
    "window of one": masks.windowed(masks.packed(SEGMENTS), 1),
    "bidirectional": masks.packed(SEGMENTS, "bidirectional"),
}


@pytest.fixture(autouse=True)
def believed(monkeypatch):
    """The check of cuDNN on the machine has tests of its own."""
    monkeypatch.setattr(dispatch, "packed_is_right", lambda **_: True)


@pytest.fixture
def hopper(monkeypatch):
    """A GPU that can do everything, as far as questions about it go."""
    from jax._src.cudnn import fused_attention_stablehlo as private

    monkeypatch.setattr(cudnn, "nvidia_capability", lambda: 9.0)
    monkeypatch.setattr(private, "check_cudnn_version", lambda: 91_000)
    monkeypatch.setattr(private, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(private, "is_cuda_compute_capability_equal", lambda capability: False)


def make_inputs(batch=B):
    random = np.random.default_rng(0)
    query = random.normal(size=(batch, T, N, H))
    key, value = random.normal(size=(2, batch, T, K, H))
    return tuple(jnp.asarray(array, jnp.bfloat16) for array in (query, key, value))


def told(length_BM, first_BL, *, mask) -> np.ndarray:
    """Returns which keys each query sees, bool [B, T, T], by lengths, beginnings, kind and window alone."""
    visible_BTS = np.zeros((len(length_BM), T, T), bool)
    for row, (lengths, firsts) in enumerate(zip(np.asarray(length_BM), np.asarray(first_BL), strict=True)):
        for first, length in zip(firsts, lengths, strict=False):
            for query in range(first, first + length):
                last = query + 1 if mask.kind == "packed_causal" else first + length
                begin = first if mask.window is None else max(first, query + 1 - mask.window)
                visible_BTS[row, query, begin:last] = True
    return visible_BTS


@pytest.mark.parametrize("case", MASKS)
def test_documents_are_those_of_the_mask(case):
    mask = MASKS[case]
    length_BM, first_BL, number_B = cudnn_packed.documents(mask.start_BT)
    np.testing.assert_array_equal(told(length_BM, first_BL, mask=mask), mask.dense(T))
    assert (np.asarray(length_BM > 0).sum(axis=1) == number_B).all()
    if case == "causal":
        assert length_BM[:, :4].tolist() == [[5, 4, 3, -1], [1, 1, 10, -1]]
        assert first_BL[:, :4].tolist() == [[0, 5, 9, -1], [0, 1, 2, -1]]
        assert number_B.tolist() == [3, 3]


def test_documents_beyond_the_most_are_counted_and_left_out(monkeypatch):
    monkeypatch.setattr(cudnn_packed, "MOST_DOCUMENTS", 2)
    length_BM, first_BL, number_B = cudnn_packed.documents(MASKS["causal"].start_BT)
    assert number_B.tolist() == [3, 3]
    assert length_BM.tolist() == [[5, 7], [1, 11]] and first_BL.tolist() == [[0, 5, -1], [0, 1, -1]]


@pytest.mark.parametrize("most", [32, 3, 2])
def test_the_output_is_that_of_the_mask_whatever_the_number_of_documents(most, hopper, monkeypatch):
    """With room for two documents only, the batch goes to the other backend; the one in cuDNN's place is not right."""
    mask, seen = MASKS["causal"], []

    def call(query, key, value, length_BM, first_BL, *, mask, scale):
        seen.append((query.shape, key.shape))
        none = dict.fromkeys(("softcap", "position_bias", "sinks_N", "query_index_BT", "key"))
        output = xla_attention(query, key, value, mask, scale=scale, dropout_rate=0.0, **none)
        return output + jnp.where(length_BM.shape[1] < 3, 1, 0).astype(output.dtype)

    monkeypatch.setattr(cudnn_packed, "MOST_DOCUMENTS", most)
    monkeypatch.setattr(cudnn_packed, "_call", call)
    inputs = make_inputs()
    expected = attend(*inputs, mask, backend="xla")
    np.testing.assert_allclose(
        attend(*inputs, mask).astype(jnp.float32), expected.astype(jnp.float32), rtol=0.02, atol=0.02
    )
    heads = N if cudnn_packed.jax_version() < cudnn_packed.GROUPED_HEADS_FROM else K
    assert seen == [((B, T, N, H), (B, T, heads, H))]


@pytest.mark.parametrize(("version", "heads"), [("0.10.2", N), ("0.12.0", N), ("0.12.0.1", K), ("0.12.1.dev3", K)])
def test_key_heads_are_repeated_where_jax_computes_their_places_wrongly(version, heads, hopper, monkeypatch):
    seen = []
    monkeypatch.setattr(jax, "__version__", version)
    monkeypatch.setattr(cudnn_packed, "_call", lambda query, key, value, *_, **__: seen.append(key.shape[2]) or query)
    attend(*make_inputs(), MASKS["causal"], backend="cudnn")
    assert seen == [heads]


@pytest.mark.parametrize("ways", [1, 4])
@pytest.mark.parametrize(
    ("case", "kind", "window"), [("windowed", "PADDING_CAUSAL", 3), ("bidirectional", "PADDING", 0)]
)
def test_both_passes_are_lowered_for_cuda(ways, case, kind, window, hopper):
    """On a mesh every device computes its own rows and heads, and calls nothing but the kernels."""

    def loss(query, key, value, mask):
        return jnp.sum(attend(query, key, value, mask, backend="cudnn").astype(jnp.float32))

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    with jax.set_mesh(make_mesh(MeshConfig(data=1, fsdp=ways // 2 or 1, tensor=min(ways, 2)), jax.devices()[:ways])):
        traced = gradients.trace(*make_inputs(), MASKS[case])
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("@__cudnn$fmhaSoftmax(") == text.count("@__cudnn$fmhaSoftmaxBackward(") == 1
    assert text.count(f"\\22mask_type\\22: \\22{kind}\\22") == 2
    assert text.count(f"\\22sliding_window_length\\22: {window}") == 2
    assert text.count(f"\\22max_seg_per_batch\\22: {T}") == 2
    rows, heads = (B // 2, N // 2) if ways > 1 else (B, N)
    assert f"tensor<{rows}x{heads}x{T}x{H}xbf16>" in text


def test_what_packed_rows_need(hopper, monkeypatch):
    def refusal():
        with pytest.raises(ValueError, match="'cudnn' cannot do") as caught:
            attend(*make_inputs(), MASKS["causal"], backend="cudnn")
        return str(caught.value)

    with jax.set_mesh(make_mesh(MeshConfig(data=1, context=2), jax.devices()[:2])):
        assert "rows that are split over devices (mesh.context)" in refusal()
    monkeypatch.setattr(cudnn, "nvidia_capability", lambda: 8.0)
    assert "packed rows on a GPU of compute capability 8.0 (9.0 or more only)" in refusal()
    monkeypatch.setattr(jax, "__version__", "0.13.0")
    assert "packed rows with jax 0.13.0" in refusal()
