"""The check of cuDNN's packed form: one that is right passes, one that lets documents see each other does not."""

import jax
import jax.numpy as jnp
import pytest

from lmjax import masks
from lmjax.kernels import attend
from lmjax.kernels.attention import cudnn_check, cudnn_packed, dispatch
from lmjax.kernels.attention.cudnn_check import packed_is_right

ASKED = {"heads": (4, 2), "width": 8, "dtype": "bfloat16", "kind": "packed_causal"}


@pytest.fixture(autouse=True)
def anew():
    packed_is_right.cache_clear()
    yield
    packed_is_right.cache_clear()


def stands_in(monkeypatch, segments_of):
    """Lets dense attention compute what cuDNN is told, by segments that a function makes of the lengths."""

    def call(query_BTNH, key_BTKH, value_BTKH, length_BM, first_BL, *, mask, scale):
        segments_BT = segments_of(length_BM, query_BTNH.shape[1])
        own = masks.packed(segments_BT, "causal" if mask.kind == "packed_causal" else "bidirectional")
        own = own if mask.window is None else masks.windowed(own, mask.window)
        return attend(query_BTNH, key_BTKH, value_BTKH, own, scale=scale, backend="xla")

    monkeypatch.setattr(cudnn_packed, "_call", call)


def by_lengths(length_BM, length):
    ends_BM = jnp.cumsum(jnp.maximum(length_BM, 0), axis=1)
    return 1 + jnp.sum(jnp.arange(length)[None, :, None] >= ends_BM[:, None, :], axis=-1)


@pytest.mark.parametrize(("kind", "window"), [("packed_causal", None), ("packed_causal", 5), ("packed_full", None)])
def test_a_kernel_that_is_right_passes(monkeypatch, recwarn, kind, window):
    stands_in(monkeypatch, by_lengths)
    assert packed_is_right(**ASKED | {"kind": kind}, window=window)
    assert not [warning for warning in recwarn if "cuDNN" in str(warning.message)]


def test_one_that_lets_documents_see_each_other_does_not(monkeypatch):
    stands_in(monkeypatch, lambda length_BM, length: jnp.ones((len(length_BM), length), jnp.int32))
    with pytest.warns(UserWarning, match="not used, because on this machine its output differs"):
        assert not packed_is_right(**ASKED, window=None)


def test_one_that_ends_with_an_error_does_not_and_auto_takes_another(monkeypatch):
    def broken(*_, **__):
        raise TypeError("unexpected keyword")

    monkeypatch.setattr(cudnn_packed, "_call", broken)
    monkeypatch.setattr(dispatch, "cudnn_cannot", lambda *_, **__: None)
    mask = masks.packed(jnp.array([[1, 1, 2, 2]]))
    query, key = jnp.ones((1, 4, 4, 8), jnp.bfloat16), jnp.ones((1, 4, 2, 8), jnp.bfloat16)
    with pytest.warns(UserWarning, match="it ended with TypeError: unexpected keyword"):
        out = jax.jit(lambda query, key: attend(query, key, key, mask))(query, key)
    assert out.shape == query.shape
    # It is asked once.
    assert packed_is_right.cache_info().currsize == 1 and cudnn_check.TOLERANCE < 0.1
