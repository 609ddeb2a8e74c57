"""Attention through ``jax.nn.dot_product_attention``: by XLA on any platform, by cuDNN on NVIDIA GPUs."""

import re

import jax
import jax.numpy as jnp

from lmjax.kernels.position_bias import PositionBias
from lmjax.masks import IntervalMask


def _static_mask(mask: IntervalMask, num_queries: int, num_keys: int) -> dict | None:
    """Arguments that say the mask without an array, or ``None`` when only an array can."""
    if mask.kind == "full":
        return {}
    if mask.kind == "causal" and num_queries == num_keys:
        window = None if mask.window is None else (mask.window - 1, 0)
        return {"is_causal": True, "local_window_size": window}
    return None


def xla_cannot(*, softcap: float | None, dropout_rate: float) -> str | None:
    """What of a request ``jax.nn`` has no argument for, or ``None``."""
    if softcap is not None:
        return "softcap"
    return "attention dropout" if dropout_rate > 0 else None


def xla_attention(
    query_BTNH: jax.Array,
    key_BSKH: jax.Array,
    value_BSKH: jax.Array,
    mask: IntervalMask,
    *,
    scale: float,
    position_bias: PositionBias | None,
    query_index_BT: jax.Array,
) -> jax.Array:
    """Dense attention: logits, and where the mask is no static one a boolean mask, of [T, S] exist."""
    num_queries, num_keys = query_BTNH.shape[1], key_BSKH.shape[1]
    arguments = _static_mask(mask, num_queries, num_keys)
    if arguments is None:
        arguments = {"mask": mask.dense(num_keys)[:, None]}
    if position_bias is not None:
        key_index_1S = jnp.arange(num_keys, dtype=jnp.int32)[None, :]
        arguments["bias"] = position_bias.block(query_index_BT, key_index_1S)
    output_BTNH = jax.nn.dot_product_attention(
        query_BTNH, key_BSKH, value_BSKH, scale=scale, implementation="xla", **arguments
    )
    if mask.kind != "interval":
        return output_BTNH
    # jax.nn gives a query without a key the mean of all values; no key should mean no output.
    sees_key_BT = mask.start_BT < mask.end_BT
    return jnp.where(sees_key_BT[:, :, None, None], output_BTNH, jnp.zeros((), output_BTNH.dtype))


def _nvidia_capability() -> float | None:
    """Compute capability of this process's GPUs (9.0 is Hopper); ``None`` where there is no NVIDIA GPU."""
    capability = str(getattr(jax.local_devices()[0], "compute_capability", ""))
    return float(capability) if re.fullmatch(r"\d+\.\d+", capability) else None


def cudnn_cannot(
    query_BTNH: jax.Array,
    key_BSKH: jax.Array,
    mask: IntervalMask,
    *,
    softcap: float | None,
    position_bias: PositionBias | None,
    dropout_rate: float,
) -> str | None:
    """What of a request cuDNN's kernel does not do, or ``None``.

    A bias and a mask array are possible in cuDNN, but as [T, S] arrays; then it is not the kernel to use.
    """
    capability = _nvidia_capability()
    if capability is None or capability < 8.0:
        return "this platform (it needs an NVIDIA GPU of compute capability 8.0 or more)"
    if reason := xla_cannot(softcap=softcap, dropout_rate=dropout_rate):
        return reason
    if position_bias is not None:
        return "a position bias"
    if _static_mask(mask, query_BTNH.shape[1], key_BSKH.shape[1]) is None:
        return f"masks other than causal with T = S and full (kind={mask.kind!r})"
    if query_BTNH.dtype not in (jnp.bfloat16, jnp.float16):
        return f"dtype {query_BTNH.dtype} (bfloat16 or float16 only)"
    width, widest = query_BTNH.shape[-1], 256 if capability >= 9.0 else 128
    if width % 8 or width > widest:
        return f"head width {width} (a multiple of 8, at most {widest}, only)"
    return None


def cudnn_attention(
    query_BTNH: jax.Array, key_BSKH: jax.Array, value_BSKH: jax.Array, mask: IntervalMask, *, scale: float
) -> jax.Array:
    """CuDNN's fused kernel, O(T) memory; for requests of which :func:`cudnn_cannot` has nothing to say."""
    arguments = _static_mask(mask, query_BTNH.shape[1], key_BSKH.shape[1])
    assert arguments is not None
    return jax.nn.dot_product_attention(
        query_BTNH, key_BSKH, value_BSKH, scale=scale, implementation="cudnn", **arguments
    )
