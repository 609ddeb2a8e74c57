"""Dense attention by XLA on any platform, and ``jax.nn``'s cuDNN kernel on NVIDIA GPUs.

The dense form is written out here rather than taken from ``jax.nn``: on the CPU it is 1.2 to 1.9
times as fast forward and backward (`benchmarks/attention.py`), and it supports softcap and dropout.
"""

import re

import jax
import jax.numpy as jnp

from lmjax.kernels.attention.position_bias import PositionBias
from lmjax.masks import IntervalMask


def _static_mask(mask: IntervalMask, num_queries: int, num_keys: int) -> dict | None:
    """Returns arguments of ``jax.nn`` that describe the mask without an array, or ``None`` when it needs an array."""
    if mask.kind == "full":
        return {}
    if mask.kind == "causal" and num_queries == num_keys:
        window = None if mask.window is None else (mask.window - 1, 0)
        return {"is_causal": True, "local_window_size": window}
    return None


def xla_attention(
    query_BTNH: jax.Array,
    key_BSKH: jax.Array,
    value_BSKH: jax.Array,
    mask: IntervalMask,
    *,
    scale: float,
    softcap: float | None,
    position_bias: PositionBias | None,
    sinks_N: jax.Array | None,
    query_index_BT: jax.Array,
    dropout_rate: float,
    key: jax.Array | None,
) -> jax.Array:
    """Returns the output of dense attention: two products over [T, S] logits.

    The weights are normalised after the second product.
    """
    batch, num_queries, num_heads, width = query_BTNH.shape
    num_keys, num_kv_heads = key_BSKH.shape[1:3]
    grouped = (batch, num_queries, num_kv_heads, num_heads // num_kv_heads, width)
    query_BKGTH = (query_BTNH * scale).reshape(grouped).transpose(0, 2, 3, 1, 4)
    key_BKSH, value_BKSH = (array.transpose(0, 2, 1, 3) for array in (key_BSKH, value_BSKH))
    logits = jnp.einsum("bkgth,bksh->bkgts", query_BKGTH, key_BKSH, preferred_element_type=jnp.float32)
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    if position_bias is not None:
        bias_BNTS = position_bias.block(query_index_BT, jnp.arange(num_keys, dtype=jnp.int32)[None, :])
        logits = logits + bias_BNTS.reshape(bias_BNTS.shape[0], *logits.shape[1:])
    if mask.kind != "full":
        logits = jnp.where(mask.dense(num_keys)[:, None, None], logits, -1e30)
    highest = logits.max(axis=-1, keepdims=True)
    sinks = None if sinks_N is None else sinks_N.astype(jnp.float32).reshape(1, num_kv_heads, -1, 1, 1)
    # The maximum only keeps exp in range, so no gradient needs to go through it.
    highest = jax.lax.stop_gradient(highest if sinks is None else jnp.maximum(highest, sinks))
    weights = jnp.exp(logits - highest)
    sums = weights.sum(axis=-1, keepdims=True)
    if sinks is not None:
        sums = sums + jnp.exp(sinks - highest)
    if dropout_rate > 0:
        assert key is not None
        weights = weights * jax.random.bernoulli(key, 1 - dropout_rate, weights.shape) / (1 - dropout_rate)
    out_BKGTH = jnp.einsum(
        "bkgts,bksh->bkgth", weights.astype(value_BKSH.dtype), value_BKSH, preferred_element_type=jnp.float32
    )
    out_BTKGH = (out_BKGTH / sums).astype(query_BTNH.dtype).transpose(0, 3, 1, 2, 4)
    out_BTNH = out_BTKGH.reshape(*query_BTNH.shape[:-1], -1)
    if mask.kind != "interval":
        return out_BTNH
    # A query that sees no key has equally low logits everywhere, which would give the mean of all values.
    sees_key_BT = mask.start_BT < mask.end_BT
    return jnp.where(sees_key_BT[:, :, None, None], out_BTNH, jnp.zeros((), out_BTNH.dtype))


def _nvidia_capability() -> float | None:
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
    capability = _nvidia_capability()
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
    if _static_mask(mask, query_BTNH.shape[1], key_BSKH.shape[1]) is None:
        return f"masks other than causal with T = S and full (kind={mask.kind!r})"
    if query_BTNH.dtype not in (jnp.bfloat16, jnp.float16):
        return f"dtype {query_BTNH.dtype} (bfloat16 or float16 only)"
    width, widest = query_BTNH.shape[-1], 256 if capability >= 9.0 else 128
    if width % 8 or width > widest:
        return f"head width {width} (a multiple of 8, at most {widest}, only)"
    if value_BSKH.shape[-1] > width:
        return f"values wider than keys ({value_BSKH.shape[-1]}, {width})"
    return None


def cudnn_attention(
    query_BTNH: jax.Array, key_BSKH: jax.Array, value_BSKH: jax.Array, mask: IntervalMask, *, scale: float
) -> jax.Array:
    """Returns the output of cuDNN's fused kernel, in O(T) memory; the request must pass :func:`cudnn_cannot`."""
    arguments = _static_mask(mask, query_BTNH.shape[1], key_BSKH.shape[1])
    assert arguments is not None
    # The kernel needs values as wide as keys. Columns of zeros do not change the other columns.
    missing = key_BSKH.shape[-1] - value_BSKH.shape[-1]
    padded_BSKH = jnp.pad(value_BSKH, ((0, 0), (0, 0), (0, 0), (0, missing))) if missing else value_BSKH
    out_BTNH = jax.nn.dot_product_attention(
        query_BTNH, key_BSKH, padded_BSKH, scale=scale, implementation="cudnn", **arguments
    )
    return out_BTNH[..., : value_BSKH.shape[-1]]
