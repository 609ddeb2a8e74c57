"""Every interval mask on NVIDIA GPUs from Hopper on, by tokamax's Mosaic kernels (the extra ``mosaic``).

tokamax takes the keys of each query as an interval, but not through its public function, so this file is the only one
that knows how. Its other GPU kernel (Triton) keeps an array [T, S] for the backward pass and is never used.
"""

import importlib.util

import jax
import jax.numpy as jnp

from lmjax.kernels.attention.on_mesh import on_mesh
from lmjax.kernels.attention.position_bias import PositionBias
from lmjax.masks import IntervalMask

CAUSAL = ("causal", "packed_causal")
"""Kinds of masks that no query looks beyond itself under."""
BLOCK = 128
"""Queries and keys that the kernels work on together; rows are whole numbers of them."""


def mosaic_cannot(
    query_BTNH: jax.Array,
    key_BSKH: jax.Array,
    value_BSKH: jax.Array,
    *,
    capability: float | None,
    position_bias: PositionBias | None,
    sinks_N: jax.Array | None,
    dropout_rate: float,
) -> str | None:
    """Returns the name of something in a request that the kernels do not support, or ``None`` if there is nothing.

    Args:
      query_BTNH: queries.
      key_BSKH: keys.
      value_BSKH: values.
      capability: compute capability of this process's GPUs; ``None`` without an NVIDIA GPU.
      position_bias: what is added to the logits.
      sinks_N: one more logit of each head.
      dropout_rate: share of the weights that are dropped.
    """
    if capability is None or not 9.0 <= capability < 11.0:
        return "this platform (it needs an NVIDIA GPU of compute capability 9 or 10)"
    if importlib.util.find_spec("tokamax") is None:
        return "anything without tokamax (pip install 'lmjax[mosaic]')"
    if position_bias is not None:
        return "a position bias"
    if sinks_N is not None:
        return "attention sinks"
    if dropout_rate > 0:
        return "attention dropout"
    if query_BTNH.dtype not in (jnp.bfloat16, jnp.float16):
        return f"dtype {query_BTNH.dtype} (bfloat16 or float16 only)"
    for width in (query_BTNH.shape[-1], value_BSKH.shape[-1]):
        if width % 64 or width > 256:
            return f"head width {width} (64, 128, 192 or 256 only)"
    for length in (query_BTNH.shape[1], key_BSKH.shape[1]):
        if length % BLOCK:
            return f"rows of {length} positions (a multiple of {BLOCK} only)"
    return None


def mosaic_attention(
    query_BTNH: jax.Array,
    key_BSKH: jax.Array,
    value_BSKH: jax.Array,
    mask: IntervalMask,
    *,
    scale: float,
    softcap: float | None,
) -> jax.Array:
    """Returns the attention output [B, T, N, H]; the request must pass :func:`mosaic_cannot`.

    Args:
      query_BTNH: queries.
      key_BSKH: keys.
      value_BSKH: values.
      mask: which keys each query sees.
      scale: factor on the logits.
      softcap: bound on the magnitude of the logits.
    """
    # The backward pass skips blocks of keys for a mask that is said to be causal, and only for such a mask.
    is_causal = mask.kind in CAUSAL and query_BTNH.shape[1] == key_BSKH.shape[1]

    def local(query_BTNH, key_BSKH, value_BSKH, start_BT, end_BT):
        from tokamax._src.ops.attention.base import Mask

        bounds = (
            {"k_start": start_BT[:, None]} if is_causal else {"k_start": start_BT[:, None], "k_end": end_BT[:, None]}
        )
        interval = Mask(is_causal=is_causal, **bounds)
        out_BTNH = _kernel()(
            query_BTNH, key_BSKH, value_BSKH, logits_scale=scale, logits_soft_cap=softcap, mask=interval
        )
        # A query that sees no key would be given the mean of some values.
        sees_key_BT = (start_BT < end_BT)[:, :, None, None]
        return jnp.where(sees_key_BT, out_BTNH, jnp.zeros((), out_BTNH.dtype))

    return on_mesh(local, query_BTNH, key_BSKH, value_BSKH, mask, splits_length=not is_causal)


def _kernel():
    from tokamax._src.ops.attention.pallas_mosaic_gpu import PallasMosaicGpuFlashAttention

    return PallasMosaicGpuFlashAttention()
