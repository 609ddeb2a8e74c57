"""Masks for sequences of feature vectors: MAE's random patches, HuBERT's spans of frames.

Axes: K patches that are seen, M patches that are hidden.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.layout import choose, compact, count_within, documents
from lmjax.rates import check_rate


class PatchMask(NamedTuple):
    """The patches that an encoder sees, as positions to gather, so that it computes nothing for the others."""

    kept_BK: jax.Array
    """int32: positions of the visible patches, ascending; gather them for the encoder."""
    hidden_BM: jax.Array
    """int32: positions of the hidden patches, ascending."""
    is_hidden_BT: jax.Array
    """bool: whether each position is hidden."""


def mask_patches(key: jax.Array, shape: tuple[int, int], *, rate: float = 0.75) -> PatchMask:
    """Hides exactly ``T - int(T * (1 - rate))`` patches of each row; every choice is equally likely.

    The random masking of masked autoencoders (He et al. 2022, section 3).

    Args:
      key: PRNG key.
      shape: ``(B, T)``.
      rate: share of the patches to hide.

    Raises:
      ValueError: no patch would be hidden, or none left to see.

    Example:
      >>> import jax
      >>> from lmjax import corruption
      >>> hidden = corruption.mask_patches(jax.random.key(0), (1, 4), rate=0.5)
      >>> print(hidden.kept_BK, hidden.hidden_BM, hidden.is_hidden_BT)
      [[0 1]] [[2 3]] [[False False  True  True]]
    """
    length = shape[1]
    check_rate("mask_patches", rate=rate)
    num_kept = int(length * (1 - rate))
    if not 0 < num_kept < length:
        raise ValueError(
            f"mask_patches: rate={rate} of {length} patches leaves {num_kept} visible: "
            f"at least one must be hidden and one visible"
        )
    where = documents(None, shape)
    count_BT = jnp.full(shape, length - num_kept, jnp.int32)
    hidden_BT = choose(key, where.number_BT, (where.start_BT, where.end_BT), count_BT, num_groups=1)
    return PatchMask(
        kept_BK=compact(where.index_BT, ~hidden_BT, length=num_kept, fill=0),
        hidden_BM=compact(where.index_BT, hidden_BT, length=length - num_kept, fill=0),
        is_hidden_BT=hidden_BT,
    )


def mask_frames(
    key: jax.Array,
    shape: tuple[int, int],
    *,
    start_rate: float = 0.08,
    span: int = 10,
    segments_BT: jax.Array | None = None,
) -> jax.Array:
    """Masks spans of frames whose starts are a random share of all frames; spans may overlap.

    HuBERT and wav2vec 2.0 (Hsu et al. 2021, section II; Baevski et al. 2020, section 3.1): of n
    frames, ``round(n * start_rate)`` start a span of ``span`` masked frames, drawn without replacement
    among those whose span fits. Recordings with fewer frames than a span are not masked.

    Args:
      key: PRNG key.
      shape: ``(B, T)``.
      start_rate: share of the frames that start a span.
      span: frames in a span.
      segments_BT: recording numbers, 0 for padding; ``None``: one recording fills the row.

    Returns:
      bool [B, T].

    Raises:
      ValueError: ``start_rate`` is not in [0, 1], or ``span`` is below 1 or longer than a row.

    Example:
      >>> import jax
      >>> from lmjax import corruption
      >>> print(corruption.mask_frames(jax.random.key(0), (1, 6), start_rate=0.2, span=3))
      [[False False  True  True  True False]]
    """
    check_rate("mask_frames", start_rate=start_rate)
    if not 1 <= span <= shape[1]:
        raise ValueError(f"mask_frames: span={span}: must be at least 1 and at most the row, {shape[1]}")
    where = documents(segments_BT, shape)
    starters_BT = jnp.maximum(where.length - span + 1, 0)
    border_BT = where.start_BT + starters_BT
    late_BT = where.index_BT >= border_BT
    count_BT = jnp.round(where.length.astype(jnp.float32) * np.float32(start_rate)).astype(jnp.int32)
    count_BT = jnp.where(where.real_BT & ~late_BT, jnp.minimum(count_BT, starters_BT), 0)
    bounds_BT = jnp.where(late_BT, border_BT, where.start_BT), jnp.where(late_BT, where.end_BT, border_BT)
    group_BT = 2 * where.number_BT + late_BT.astype(jnp.int32)
    num_groups = 2 if segments_BT is None else 2 * shape[1]
    starts_BT = choose(key, group_BT, bounds_BT, count_BT, num_groups=num_groups)
    window_start_BT = jnp.maximum(where.index_BT - span + 1, where.start_BT)
    return where.real_BT & (count_within(starts_BT, window_start_BT, where.index_BT + 1) > 0)
