"""Attention: one function that calls any of the backends.

The logits are ``z = scale * q . k``. Where a softcap ``c`` is given they are capped to ``c * tanh(z / c)``, and a
bias ``b`` that depends on the positions may be added. The output is ``dropout(softmax(z + b)) v`` over the keys that
the mask shows (Vaswani et al. 2017, section 3.2; softcap: Gemma 2, section 2). Query head ``n`` reads key-value
head ``n // (N / K)`` (grouped queries: Ainslie et al. 2023). A sink is one more logit of a head, neither
scaled nor capped, that takes its share of the softmax and has no value (logit 0: the zero sink of Xiao et al.
2024, section 3.3; learned: OpenAI 2025, gpt-oss model card, section 2.3).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from lmjax.kernels.attention.chunked import chunked_attention
from lmjax.kernels.attention.cudnn import PACKED, cudnn_attention, cudnn_cannot, nvidia_capability
from lmjax.kernels.attention.cudnn_check import packed_is_right
from lmjax.kernels.attention.mosaic_gpu import mosaic_attention, mosaic_cannot
from lmjax.kernels.attention.partial import PartialAttention, partial_chunked, partial_tpu
from lmjax.kernels.attention.position_bias import PositionBias
from lmjax.kernels.attention.ring import ring_attention, rows_are_split
from lmjax.kernels.attention.tpu import tpu_attention, tpu_cannot
from lmjax.kernels.attention.xla import xla_attention
from lmjax.masks import IntervalMask
from lmjax.parallel.mesh import current_platform

Backend = Literal["auto", "xla", "cudnn", "mosaic", "tpu", "chunked"]
Context = Literal["gather", "ring"]
RING_BACKENDS: tuple[Backend, ...] = ("auto", "tpu", "chunked")
"""The backends that can merge what they computed of several parts of the keys."""

DENSE_LIMIT = {"cpu": 128 * 128, "tpu": 256 * 256, "other": 1024 * 1024}
"""By platform, the number of logits of a head (T * S) above which ``"auto"`` uses a blocked backend, not the dense one.

The number for CPUs was measured (``benchmarks/attention.py``). The others are assumed to be larger, since wider
machines need more work in each step.
"""


def attend(
    query_BTNH: jax.Array,
    key_BSKH: jax.Array,
    value_BSKH: jax.Array,
    mask: IntervalMask,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    position_bias: PositionBias | None = None,
    sinks_N: jax.Array | None = None,
    query_index_BT: jax.Array | None = None,
    dropout_rate: float = 0.0,
    key: jax.Array | None = None,
    backend: Backend = "auto",
    context: Context = "gather",
) -> jax.Array:
    """Returns the attention of ``query`` over ``key`` and ``value``; see the module for the formula.

    Backends:

    - ``"xla"``: two dense products, with logits of [T, S] in memory. It supports every argument, and is fastest
      for short sequences.
    - ``"cudnn"``: cuDNN's flash kernel. NVIDIA GPUs, 16-bit floats; causal (windowed or not) and full masks, also of
      packed documents from compute capability 9.0 on; no bias, softcap, sinks or dropout. It needs O(T) memory. A
      batch with a row of more than ``cudnn_packed.MOST_DOCUMENTS`` documents is computed as by ``"chunked"``.
    - ``"mosaic"``: tokamax's kernels for NVIDIA GPUs of compute capability 9 and 10, of the extra ``mosaic``: 16-bit
      floats, every mask, with softcap and grouped queries; no bias, sinks or dropout. They need O(T) memory.
    - ``"tpu"``: Pallas kernels for TPUs, forward and backward, for everything but a bias with ``query_index_BT``. They
      need O(T) memory; blocks of keys that no query sees are skipped.
    - ``"chunked"``: plain JAX on any platform, for every argument, in O(T + S) memory; it skips such blocks, too.
    - ``"auto"``: ``"cudnn"`` if it can do what is asked (for packed rows also if it agrees with dense attention on this
      machine, see :mod:`~lmjax.kernels.attention.cudnn_check`); else ``"xla"`` if the logits of a head are few
      (:data:`DENSE_LIMIT`); else ``"tpu"`` if it can; else ``"chunked"``. It never takes ``"mosaic"``, whose speed has
      not been measured. The platform is that of the mesh that is set, as for a TPU that is on another machine.

    Args:
      query_BTNH: queries, any floating dtype; the softmax is always float32.
      key_BSKH: keys; N must be a multiple of K.
      value_BSKH: values; their width may differ from the keys', and is the width of the output.
      mask: which keys each query sees. Only the mask decides this: ``query_index_BT`` moves no interval. The output
        of a query that sees no key is 0.
      scale: factor on the logits; ``1 / sqrt(H)`` unless given.
      softcap: bound on the magnitude of the logits.
      position_bias: added to the logits; its leaves have gradients.
      sinks_N: float32, a sink for each query head; it has a gradient.
      query_index_BT: int32, leading axis 1 or B: the position of each query among the keys, which
        ``position_bias`` uses. It is ``arange(T)`` unless given; decoding against a cache gives it.
      dropout_rate: share of attention weights dropped with ``key``, by all backends the same; the rest are scaled up.
      key: PRNG key; ``None`` switches dropout off.
      backend: one of the backends above.
      context: how queries see keys on other devices, if the mesh splits rows: each device gathers the keys and values
        of its rows (``"gather"``), or they pass from device to device (``"ring"``, by ``"tpu"`` or ``"chunked"``,
        without bias and dropout, see :mod:`~lmjax.kernels.attention.ring`).

    Returns:
      [B, T, N, H] in the query's dtype.

    Raises:
      ValueError: shapes do not fit, or the backend cannot do what is asked.
    """
    _check_shapes(query_BTNH, key_BSKH, value_BSKH, mask)
    _check_options(dropout_rate, backend, context)
    scale = 1.0 / math.sqrt(query_BTNH.shape[-1]) if scale is None else scale
    is_shifted = query_index_BT is not None
    if query_index_BT is None:
        query_index_BT = jnp.arange(query_BTNH.shape[1], dtype=jnp.int32)[None, :]

    arrays = (query_BTNH, key_BSKH, value_BSKH)
    asked: dict[str, Any] = {"softcap": softcap, "position_bias": position_bias, "sinks_N": sinks_N}
    asked["dropout_rate"] = 0.0 if key is None else dropout_rate

    def cannot(backend: Backend) -> str | None:
        return _cannot(backend, arrays=arrays, mask=mask, is_shifted=is_shifted, **asked)

    if context == "ring" and rows_are_split(query_BTNH.shape[1], key_BSKH.shape[1]):
        return _by_ring(backend, *arrays, mask, scale=scale, cannot=cannot, **asked)
    if backend == "auto":
        backend = _chosen(query_BTNH, key_BSKH, mask, cannot)
    _check_backend(backend, cannot)
    return _computed(backend, *arrays, mask, scale=scale, query_index_BT=query_index_BT, key=key, **asked)


def _computed(
    backend: Backend,
    query_BTNH: jax.Array,
    key_BSKH: jax.Array,
    value_BSKH: jax.Array,
    mask: IntervalMask,
    *,
    scale: float,
    softcap: float | None,
    query_index_BT: jax.Array,
    **others: Any,
) -> jax.Array:
    """Returns what a backend computes, which is given those arguments of :func:`attend` that it supports."""
    arrays = (query_BTNH, key_BSKH, value_BSKH)
    if backend == "tpu":
        return tpu_attention(*arrays, mask, scale=scale, softcap=softcap, **others)
    if backend == "mosaic":
        return mosaic_attention(*arrays, mask, scale=scale, softcap=softcap)
    options = {"scale": scale, "softcap": softcap, "query_index_BT": query_index_BT, **others}
    if backend == "cudnn":
        otherwise = functools.partial(chunked_attention, mask=mask, **options)
        return cudnn_attention(*arrays, mask, scale=scale, otherwise=otherwise)
    return {"xla": xla_attention, "chunked": chunked_attention}[backend](*arrays, mask, **options)


def _chosen(
    query_BTNH: jax.Array, key_BSKH: jax.Array, mask: IntervalMask, cannot: Callable[[Backend], str | None]
) -> Backend:
    platform, num_logits = current_platform(), query_BTNH.shape[1] * key_BSKH.shape[1]
    if cannot("cudnn") is None:
        heads, width = (query_BTNH.shape[2], key_BSKH.shape[2]), query_BTNH.shape[3]
        asked = {"heads": heads, "width": width, "dtype": str(query_BTNH.dtype), "kind": mask.kind}
        if mask.kind not in PACKED or packed_is_right(**asked, window=mask.window):
            return "cudnn"
    if num_logits <= DENSE_LIMIT.get(platform, DENSE_LIMIT["other"]):
        return "xla"
    return "tpu" if cannot("tpu") is None else "chunked"


def _cannot(
    backend: Backend,
    *,
    arrays: tuple[jax.Array, jax.Array, jax.Array],
    mask: IntervalMask,
    softcap: float | None,
    position_bias: PositionBias | None,
    is_shifted: bool,
    sinks_N: jax.Array | None,
    dropout_rate: float,
) -> str | None:
    """Returns what of a request a backend does not support, or None; ``arrays`` are queries, keys and values."""
    common: dict[str, Any] = {"position_bias": position_bias, "dropout_rate": dropout_rate}
    if backend == "cudnn":
        return cudnn_cannot(*arrays, mask, softcap=softcap, sinks_N=sinks_N, **common)
    if backend == "mosaic":
        return mosaic_cannot(*arrays, capability=nvidia_capability(), sinks_N=sinks_N, **common)
    if backend == "tpu":
        width = arrays[0].shape[-1]
        return tpu_cannot(platform=current_platform(), width=width, position_bias=position_bias, is_shifted=is_shifted)
    return None


def _by_ring(
    backend: Backend,
    query_BTNH: jax.Array,
    key_BSKH: jax.Array,
    value_BSKH: jax.Array,
    mask: IntervalMask,
    *,
    scale: float,
    softcap: float | None,
    position_bias: PositionBias | None,
    sinks_N: jax.Array | None,
    dropout_rate: float,
    cannot: Callable[[Backend], str | None],
) -> jax.Array:
    """Returns what the devices compute that pass keys and values on to each other."""
    refusals = {
        "a position bias": position_bias is not None,
        "attention dropout": dropout_rate > 0,
        f"backend={backend!r} (only {', '.join(RING_BACKENDS)})": backend not in RING_BACKENDS,
    }
    for refused in (name for name, asked in refusals.items() if asked):
        raise ValueError(f"attention with context='ring' cannot do {refused}: use context='gather'")
    if backend == "auto":
        backend = "tpu" if cannot("tpu") is None else "chunked"
    _check_backend(backend, cannot)
    make: Callable[..., PartialAttention] = partial_tpu if backend == "tpu" else partial_chunked
    partial = functools.partial(make, scale=scale, softcap=softcap)
    return ring_attention(query_BTNH, key_BSKH, value_BSKH, mask, sinks_N=sinks_N, partial=partial)


def _check_backend(backend: Backend, cannot: Callable[[Backend], str | None]) -> None:
    refusal = cannot(backend)
    if refusal is not None:
        raise ValueError(f"attention backend {backend!r} cannot do {refusal}: use backend='chunked'")


def _check_shapes(query_BTNH: jax.Array, key_BSKH: jax.Array, value_BSKH: jax.Array, mask: IntervalMask) -> None:
    batch, num_queries, num_heads, width = query_BTNH.shape
    _, _, num_kv_heads, _ = key_BSKH.shape
    if key_BSKH.shape[:-1] != value_BSKH.shape[:-1] or key_BSKH.shape[0] != batch or key_BSKH.shape[-1] != width:
        raise ValueError(
            f"attend: query {query_BTNH.shape}, key {key_BSKH.shape}, value {value_BSKH.shape}: key and "
            "value must have one shape but for the width, and the key share batch and head width with the query"
        )
    if num_heads % num_kv_heads:
        raise ValueError(
            f"attend: {num_heads} query heads over {num_kv_heads} key-value heads: must be a multiple of them"
        )
    for name, bound_BT in (("start_BT", mask.start_BT), ("end_BT", mask.end_BT)):
        if bound_BT.shape not in ((batch, num_queries), (1, num_queries)):
            raise ValueError(f"attend: mask.{name} is {bound_BT.shape}: must be [{batch} or 1, {num_queries}]")


def _check_options(dropout_rate: float, backend: str, context: str) -> None:
    if not 0.0 <= dropout_rate < 1.0:
        raise ValueError(f"attend: dropout_rate={dropout_rate}: must be at least 0 and below 1")
    if backend not in get_args(Backend):
        raise ValueError(f"attend: backend={backend!r}: use one of {', '.join(get_args(Backend))}")
    if context not in get_args(Context):
        raise ValueError(f"attend: context={context!r}: use one of {', '.join(get_args(Context))}")
