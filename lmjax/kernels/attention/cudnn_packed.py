"""Rows of several documents through cuDNN's packed form, which computes each document as a sequence of its own.

jax passes the form on in a private function, so this file is the only one that knows it. The function is told where
the documents of a row begin and how long they are. Before jax 0.12.0.1 it computed wrong places for keys and values
with fewer heads than the queries; there, they are repeated first.

The number of documents of a row has to be fixed when the program is compiled (:data:`MOST_DOCUMENTS`). A batch with a
row of more documents is computed by another backend, which gives the same result more slowly.

Axes: M documents of a row at most, L one more than these.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lmjax.kernels.attention.on_mesh import on_mesh
from lmjax.masks import IntervalMask

MOST_DOCUMENTS = 32
"""Documents of a row that the program has room for; for each, cuDNN keeps a float32 for each query and head."""
KNOWN_JAX = ((0, 10), (0, 12))
"""The first and the last minor version of jax whose private function was read."""
GROUPED_HEADS_FROM = (0, 12, 0, 1)
"""The version of jax from which key and value heads may be fewer than query heads."""


def jax_version() -> tuple[int, ...]:
    """Returns the version of jax as numbers, without what marks a development version."""
    return tuple(int(part) for part in jax.__version__.split(".") if part.isdigit())


def packed_cannot(capability: float) -> str | None:
    """Returns what of this jax or GPU does not support packed rows, or ``None``.

    Args:
      capability: compute capability of the GPU.
    """
    first, last = KNOWN_JAX
    if not first <= jax_version()[:2] <= last:
        return f"packed rows with jax {jax.__version__} (its private function is known of 0.10 to 0.12 only)"
    if capability < 9.0:
        return f"packed rows on a GPU of compute capability {capability} (9.0 or more only)"
    return None


def documents(start_BT: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns how long the documents of each row are, where they begin, and how many there are.

    A document begins where a query sees no key before itself. This also holds under a sliding window, but for the
    window of one key, under which every token may be taken for a document.

    Args:
      start_BT: int32, first visible key of each query, of a mask of kind ``packed_causal`` or ``packed_full``.

    Returns:
      The lengths int32 [B, M] and the beginnings int32 [B, M + 1], both filled up with -1, and the numbers int32 [B].
      M is ``MOST_DOCUMENTS``, or T if that is less; of more documents the last are missing.
    """
    batch, length = start_BT.shape
    index_1T = jnp.arange(length, dtype=jnp.int32)[None, :]
    begins_BT = start_BT == index_1T
    most = min(MOST_DOCUMENTS, length)
    number_BT = jnp.cumsum(begins_BT, axis=1, dtype=jnp.int32) - 1
    row_B1 = jnp.arange(batch, dtype=jnp.int32)[:, None]
    slot_BT = jnp.where(begins_BT & (number_BT < most), number_BT, most + 1)
    index_BT = jnp.broadcast_to(index_1T, start_BT.shape)
    first_BL = jnp.full((batch, most + 1), -1, jnp.int32).at[row_B1, slot_BT].set(index_BT, mode="drop")
    end_BL = jnp.where(first_BL < 0, length, first_BL)
    length_BM = jnp.where(first_BL[:, :-1] < 0, -1, end_BL[:, 1:] - first_BL[:, :-1])
    return length_BM, first_BL, number_BT[:, -1] + 1


def packed_attention(
    query_BTNH: jax.Array,
    key_BTKH: jax.Array,
    value_BTKH: jax.Array,
    mask: IntervalMask,
    *,
    scale: float,
    otherwise: Callable[..., jax.Array],
) -> jax.Array:
    """Returns the attention output [B, T, N, H] of packed rows; the request must pass ``cudnn_cannot``.

    Args:
      query_BTNH: queries.
      key_BTKH: keys, as many as queries.
      value_BTKH: values, as wide as keys.
      mask: of kind ``packed_causal``, with or without a window, or ``packed_full``.
      scale: factor on the logits.
      otherwise: function of queries, keys and values that computes a batch with a row of too many documents.
    """

    def local(query_BTNH, key_BTKH, value_BTKH, start_BT, _):
        start_BT = jnp.broadcast_to(start_BT, query_BTNH.shape[:2])
        length_BM, first_BL, _ = documents(start_BT)
        groups = query_BTNH.shape[2] // key_BTKH.shape[2]
        if jax_version() < GROUPED_HEADS_FROM:
            key_BTKH, value_BTKH = (jnp.repeat(array, groups, axis=2) for array in (key_BTKH, value_BTKH))
        return _call(query_BTNH, key_BTKH, value_BTKH, length_BM, first_BL, mask=mask, scale=scale)

    kernel = functools.partial(on_mesh, local, mask=mask, splits_length=False)
    if query_BTNH.shape[1] <= MOST_DOCUMENTS:
        return kernel(query_BTNH, key_BTKH, value_BTKH)
    fits = jnp.max(documents(mask.start_BT)[2]) <= MOST_DOCUMENTS
    return jax.lax.cond(fits, kernel, otherwise, query_BTNH, key_BTKH, value_BTKH)


def _call(query_BTNH, key_BTKH, value_BTKH, length_BM, first_BL, *, mask: IntervalMask, scale: float) -> jax.Array:
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    kinds = cudnn.MaskType
    return cudnn.dot_product_attention(
        query_BTNH,
        key_BTKH,
        value_BTKH,
        q_seqlen=length_BM,
        kv_seqlen=length_BM,
        q_offsets=first_BL,
        kv_offsets=first_BL,
        scale=scale,
        mask_type=kinds.PADDING_CAUSAL if mask.kind == "packed_causal" else kinds.PADDING,
        sliding_window_length=mask.window,
    )
