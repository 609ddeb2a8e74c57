"""Attention masks as intervals: query t sees key s exactly when ``start[t] <= s < end[t]``.

Causal, bidirectional, prefix, packed and sliding-window attention all have this form. A mask therefore costs two
integers for each query, and only :meth:`IntervalMask.dense` makes a [T, T] array, for the reference attention and the
tests.

A packed row holds several documents; ``segments_BT`` names the document of each position
(0 is padding, 1, 2, ... are documents, each contiguous). Padding is treated as one more document. It sees itself and
no other document sees it, so every query has a key.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from lmjax.integers import as_int32

Kind = Literal["causal", "full", "packed_causal", "packed_full", "interval"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class IntervalMask:
    """The keys that each query may attend to, as an interval.

    Attributes:
      start_BT: int32, first visible key of each query; the leading axis is 1 or the batch size.
      end_BT: int32, one past the last visible key.
      kind: what a backend may assume without reading the arrays: ``"causal"`` is ``[0, t + 1)``, ``"full"`` is ``[0,
        S)``. Where a row holds documents ``[first, end)``, ``"packed_causal"`` is ``[first, t + 1)`` and
        ``"packed_full"`` is ``[first, end)``; both then show every query to itself. ``"interval"`` is any interval.
      window: with the causal kinds only, a static sliding window: the interval begins no earlier than
        ``t + 1 - window``.
    """

    start_BT: jax.Array
    end_BT: jax.Array
    kind: Kind = dataclasses.field(default="interval", metadata={"static": True})
    window: int | None = dataclasses.field(default=None, metadata={"static": True})

    def dense(self, num_keys: int) -> jax.Array:
        """Returns the mask as booleans [B, T, S]; the reference attention and the tests use it."""
        key_11S = jnp.arange(num_keys, dtype=jnp.int32)[None, None, :]
        return (self.start_BT[:, :, None] <= key_11S) & (key_11S < self.end_BT[:, :, None])


def _indices(length: int) -> jax.Array:
    return jnp.arange(length, dtype=jnp.int32)[None, :]


def causal(length: int) -> IntervalMask:
    """Each position sees itself and the positions before it: ``[0, t + 1)``.

    Vaswani et al. 2017, section 3.2.3.

    Example:
      >>> from lmjax import masks
      >>> print(masks.causal(3).dense(3).astype(int))
      [[[1 0 0]
        [1 1 0]
        [1 1 1]]]
    """
    index_1T = _indices(length)
    return IntervalMask(start_BT=jnp.zeros_like(index_1T), end_BT=index_1T + 1, kind="causal")


def bidirectional(length: int) -> IntervalMask:
    """Every position sees the whole row: ``[0, T)``.

    Vaswani et al. 2017, section 3.2.3 (the encoder).

    Example:
      >>> from lmjax import masks
      >>> print(masks.bidirectional(2).dense(2).astype(int))
      [[[1 1]
        [1 1]]]
    """
    start_1T = jnp.zeros((1, length), jnp.int32)
    return IntervalMask(start_BT=start_1T, end_BT=jnp.full_like(start_1T, length), kind="full")


def prefix(length: int, prefix_length: jax.Array) -> IntervalMask:
    """Bidirectional over the first ``prefix_length`` positions, causal after: ``end = max(prefix, t + 1)``.

    Raffel et al. 2020, section 3.2.1.

    Args:
      length: T.
      prefix_length: int32 [B] or a scalar; 0 gives the causal mask, T the bidirectional one.

    Example:
      >>> from lmjax import masks
      >>> print(masks.prefix(3, 2).dense(3).astype(int))
      [[[1 1 0]
        [1 1 0]
        [1 1 1]]]
    """
    index_1T = _indices(length)
    prefix_B1 = jnp.reshape(as_int32(prefix_length, "prefix_length"), (-1, 1))
    start_1T, end_1T = jnp.zeros_like(index_1T), index_1T + 1
    end_BT = jnp.maximum(*jnp.broadcast_arrays(prefix_B1, end_1T))
    return IntervalMask(start_BT=jnp.broadcast_to(start_1T, end_BT.shape), end_BT=end_BT)


def document_bounds(segments_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the first index of each position's document, and one past its last index (int32 [B, T] both).

    ``segments[s] == segments[t]`` for all ``start[t] <= s < end[t]``. Packed rows keep their documents apart with them
    (Krell et al. 2021, section 3.2).

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import masks
      >>> start_BT, end_BT = masks.document_bounds(jnp.array([[1, 1, 2, 0]]))
      >>> print(start_BT, end_BT)
      [[0 0 2 3]] [[2 2 3 4]]
    """
    segments_BT = as_int32(segments_BT, "segments_BT")
    length = segments_BT.shape[1]
    index_BT = jnp.broadcast_to(_indices(length), segments_BT.shape)
    change_BT = segments_BT[:, 1:] != segments_BT[:, :-1]
    begins_BT = jnp.pad(change_BT, ((0, 0), (1, 0)), constant_values=True)
    ends_BT = jnp.pad(change_BT, ((0, 0), (0, 1)), constant_values=True)
    start_BT = jax.lax.cummax(jnp.where(begins_BT, index_BT, 0), axis=1)
    end_BT = jax.lax.cummin(jnp.where(ends_BT, index_BT + 1, length), axis=1, reverse=True)
    return start_BT, end_BT


def document_positions(segments_BT: jax.Array) -> jax.Array:
    """Returns the position of each token within its own document (int32 [B, T], from 0).

    ``position[t] = t - start[t]`` (Krell et al. 2021, section 3.2).

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import masks
      >>> print(masks.document_positions(jnp.array([[1, 1, 2, 2, 2]])))
      [[0 1 0 1 2]]
    """
    start_BT, _ = document_bounds(segments_BT)
    return _indices(segments_BT.shape[1]) - start_BT


def packed(
    segments_BT: jax.Array,
    kind: Literal["causal", "bidirectional", "prefix"] = "causal",
    *,
    prefix_end_BT: jax.Array | None = None,
) -> IntervalMask:
    """Returns a mask in which every position sees its own document only.

    Within the document [start, end) of a query t the interval is ``[start, t + 1)`` (causal), ``[start, end)``
    (bidirectional) or ``[start, min(max(prefix_end, t + 1), end))`` (prefix). Krell et al. 2021, section 3.2.

    Args:
      segments_BT: int32 document numbers, 0 for padding.
      kind: the attention inside each document.
      prefix_end_BT: for ``"prefix"``, one past the last prefix position of each token's document,
        as an index into the row (what :func:`lmjax.corruption.split_prefix` returns).

    Raises:
      ValueError: ``prefix_end_BT`` is missing for ``"prefix"`` or given for another kind.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import masks
      >>> print(masks.packed(jnp.array([[1, 1, 2]])).dense(3).astype(int))
      [[[1 0 0]
        [1 1 0]
        [0 0 1]]]
    """
    if (kind == "prefix") != (prefix_end_BT is not None):
        raise ValueError(f"masks.packed: kind={kind!r}: prefix_end_BT goes with kind='prefix' and only with it")
    start_BT, document_end_BT = document_bounds(segments_BT)
    causal_end_BT = jnp.broadcast_to(_indices(segments_BT.shape[1]) + 1, segments_BT.shape)
    if kind == "causal":
        return IntervalMask(start_BT=start_BT, end_BT=causal_end_BT, kind="packed_causal")
    if kind == "bidirectional":
        return IntervalMask(start_BT=start_BT, end_BT=document_end_BT, kind="packed_full")
    if kind == "prefix":
        assert prefix_end_BT is not None
        end_BT = jnp.minimum(jnp.maximum(as_int32(prefix_end_BT, "prefix_end_BT"), causal_end_BT), document_end_BT)
        return IntervalMask(start_BT=start_BT, end_BT=end_BT)
    raise ValueError(f"masks.packed: kind={kind!r}: use 'causal', 'bidirectional' or 'prefix'")


def cross(query_segments_BT: jax.Array, key_segments_BS: jax.Array) -> IntervalMask:
    """Each position of one row sees the whole document with the same number in another row.

    This is the cross attention of packed pairs: the decoder's document 2 reads the encoder's document 2. A document
    whose number is missing in the other row sees nothing, and padding (0) sees the padding of the other row.

    The interval is that of all s with ``key_segments[s] == query_segments[t]``. The attention is the encoder-decoder
    attention of Vaswani et al. 2017, section 3.2.3.

    Args:
      query_segments_BT: int32 document numbers; the positions of a document are contiguous.
      key_segments_BS: int32 document numbers of the row that is read; they rise along the row, and padding comes last.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import masks
      >>> print(masks.cross(jnp.array([[1, 2, 2]]), jnp.array([[1, 1, 2, 0]])).dense(4).astype(int))
      [[[1 1 0 0]
        [0 0 1 0]
        [0 0 1 0]]]
    """
    # The numbers must rise along the row. Padding comes last, so its 0 becomes the highest number.
    highest = jnp.iinfo(jnp.int32).max
    query_BT, key_BS = (jnp.where(n == 0, highest, n) for n in map(as_int32, (query_segments_BT, key_segments_BS)))
    start_BT = jax.vmap(lambda keys, queries: jnp.searchsorted(keys, queries, side="left"))(key_BS, query_BT)
    end_BT = jax.vmap(lambda keys, queries: jnp.searchsorted(keys, queries, side="right"))(key_BS, query_BT)
    return IntervalMask(start_BT=start_BT.astype(jnp.int32), end_BT=end_BT.astype(jnp.int32))


def windowed(mask: IntervalMask, window: int, *, index_BT: jax.Array | None = None) -> IntervalMask:
    """Returns the mask limited to ``window`` keys on each side: ``t - window < s < t + window``.

    Under a causal mask this is the sliding window of Mistral (the last ``window`` keys, itself included; Jiang et al.
    2023, section 2). Under a bidirectional one it is the symmetric local attention of ModernBERT (Warner et al. 2024,
    section 2.1).

    Args:
      mask: the mask to limit.
      window: keys visible on one side, the query's own position included; at least 1.
      index_BT: key index of each query; ``arange(T)`` unless decoding against a cache.

    Example:
      >>> from lmjax import masks
      >>> print(masks.windowed(masks.causal(4), 2).dense(4).astype(int))
      [[[1 0 0 0]
        [1 1 0 0]
        [0 1 1 0]
        [0 0 1 1]]]
    """
    if window < 1:
        raise ValueError(f"masks.windowed: window={window}: must be at least 1")
    is_row = index_BT is None
    if index_BT is None:
        index_BT = _indices(mask.start_BT.shape[1])
    start_BT = jnp.maximum(*jnp.broadcast_arrays(mask.start_BT, index_BT - window + 1))
    if mask.kind in ("causal", "packed_causal") and mask.window is None and is_row:
        return IntervalMask(start_BT=start_BT, end_BT=mask.end_BT, kind=mask.kind, window=window)
    end_BT = jnp.minimum(*jnp.broadcast_arrays(mask.end_BT, index_BT + window))
    return IntervalMask(start_BT=start_BT, end_BT=end_BT)
