"""cuDNN's fused kernels on NVIDIA GPUs, in O(T) memory, through ``jax.nn`` where its public function is enough."""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lmjax.kernels.attention.cudnn_packed import packed_attention, packed_cannot
from lmjax.kernels.attention.position_bias import PositionBias
from lmjax.masks import IntervalMask

PACKED = ("packed_causal", "packed_full")
"""Kinds of masks whose rows hold documents that do not see each other."""


def _static_mask(mask: IntervalMask, num_queries: int, num_keys: int) -> dict | None:
    """Returns arguments of ``jax.nn`` that describe the mask without an array, or ``None`` when it needs an array."""
    if mask.kind == "full":
        return {}
    if mask.kind == "causal" and num_queries == num_keys:
        window = None if mask.window is None else (mask.window - 1, 0)
        return {"is_causal": True, "local_window_size": window}
    return None


def nvidia_capability() -> float | None:
    """Returns the compute capability of this process's GPUs (9.0 is Hopper); ``None`` without an NVIDIA GPU."""
    capability = str(getattr(jax.local_devices()[0], "compute_capability", ""))
    return float(capability) if re.fullmatch(r"\d+\.\d+", capability) else None


def cudnn_cannot(
    query_BTNH: jax.Array,
    key_BSKH: jax.Array,
    value_BSKH: jax.Array,
    mask: IntervalMask,
    *,
    softcap: float | None,
    position_bias: PositionBias | None,
    sinks_N: jax.Array | None,
    dropout_rate: float,
) -> str | None:
    """Returns the name of something in a request that cuDNN's kernel does not support, or ``None`` if there is nothing.

    CuDNN can take a bias and a mask as [T, S] arrays, but then another backend is better.
    """
    capability = nvidia_capability()
    if capability is None or capability < 8.0:
        return "this platform (it needs an NVIDIA GPU of compute capability 8.0 or more)"
    if softcap is not None:
        return "softcap"
    if dropout_rate > 0:
        return "attention dropout"
    if position_bias is not None:
        return "a position bias"
    if sinks_N is not None:
        return "attention sinks"
    num_queries, num_keys = query_BTNH.shape[1], key_BSKH.shape[1]
    if mask.kind in PACKED and num_queries == num_keys:
        refusal = packed_cannot(capability)
        if refusal is not None:
            return refusal
    elif _static_mask(mask, num_queries, num_keys) is None:
        return f"masks other than causal and packed with T = S, and full (kind={mask.kind!r})"
    if jax.sharding.get_abstract_mesh().shape.get("context", 1) > 1:
        return "rows that are split over devices (mesh.context)"
    if query_BTNH.dtype not in (jnp.bfloat16, jnp.float16):
        return f"dtype {query_BTNH.dtype} (bfloat16 or float16 only)"
    width, widest = query_BTNH.shape[-1], 256 if capability >= 9.0 else 128
    if width % 8 or width > widest:
        return f"head width {width} (a multiple of 8, at most {widest}, only)"
    if value_BSKH.shape[-1] > width:
        return f"values wider than keys ({value_BSKH.shape[-1]}, {width})"
    return None


def cudnn_attention(
    query_BTNH: jax.Array,
    key_BSKH: jax.Array,
    value_BSKH: jax.Array,
    mask: IntervalMask,
    *,
    scale: float,
    otherwise: Callable[..., jax.Array],
) -> jax.Array:
    """Returns the output of cuDNN's fused kernel; the request must pass :func:`cudnn_cannot`.

    Args:
      query_BTNH: queries.
      key_BSKH: keys.
      value_BSKH: values, no wider than keys.
      mask: which keys each query sees.
      scale: factor on the logits.
      otherwise: function of queries, keys and values for packed rows of too many documents.
    """
    # The kernel needs values as wide as keys. Columns of zeros do not change the other columns.
    missing = key_BSKH.shape[-1] - value_BSKH.shape[-1]
    padded_BSKH = jnp.pad(value_BSKH, ((0, 0), (0, 0), (0, 0), (0, missing))) if missing else value_BSKH
    if mask.kind in PACKED:
        out_BTNH = packed_attention(query_BTNH, key_BSKH, padded_BSKH, mask, scale=scale, otherwise=otherwise)
    else:
        arguments = _static_mask(mask, query_BTNH.shape[1], key_BSKH.shape[1])
        assert arguments is not None
        out_BTNH = jax.nn.dot_product_attention(
            query_BTNH, key_BSKH, padded_BSKH, scale=scale, implementation="cudnn", **arguments
        )
    return out_BTNH[..., : value_BSKH.shape[-1]]
