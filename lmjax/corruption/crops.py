"""Two pieces of the same document, drawn independently: the pairs of Contriever (Izacard et al. 2022, section 3).

Axes: S positions of a row of crops.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lmjax.integers import as_int32
from lmjax.layout import documents, segment_numbers


class Crops(NamedTuple):
    """Both crops of every document, int32 [B, 2, S] with S = T // 2."""

    tokens_B2S: jax.Array
    segments_B2S: jax.Array
    """The number of the document in its row; 0 for padding."""


def random_crops(
    key: jax.Array,
    tokens_BT: jax.Array,
    *,
    segments_BT: jax.Array | None = None,
    min_share: float = 0.05,
    max_share: float = 0.5,
    pad_id: int = 0,
) -> Crops:
    """Cuts two spans out of each document, each of uniform length and then at a uniform place.

    These are the pairs of Contriever (Izacard et al. 2022, section 3).

    Of a document of n tokens a crop has ``ceil(u n)`` tokens, u uniform in [min_share, max_share), and
    ``n // 2`` at most; so both rows of crops always fit into half the length of the row, with the documents in their
    order. The two crops of a document may overlap. A document of one token has no crop.

    Args:
      key: PRNG key.
      tokens_BT: int32 ids.
      segments_BT: document numbers, 0 for padding; ``None``: one document fills the row.
      min_share: the smallest share of its document that a crop may have.
      max_share: the largest share, at most one half.
      pad_id: fills the rows.

    Raises:
      ValueError: shares out of order, or rows of fewer than two tokens.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from lmjax import corruption
      >>> crops = corruption.random_crops(jax.random.key(0), jnp.arange(10, 18)[None], min_share=0.5)
      >>> print(crops.tokens_B2S)
      [[[14 15 16 17]
        [10 11 12 13]]]
    """
    if not 0 < min_share <= max_share <= 0.5:
        raise ValueError(
            f"random_crops: min_share={min_share} and max_share={max_share}: must rise, above 0 and up to one half"
        )
    tokens_BT = as_int32(tokens_BT, "tokens_BT")
    num_rows, length = tokens_BT.shape
    if length < 2:
        raise ValueError(f"random_crops: rows of length {length} have no two crops: use at least 2 tokens")
    where = documents(segments_BT, tokens_BT.shape)
    numbers_BT = segment_numbers(segments_BT, tokens_BT.shape)
    # The crop of a document in [s, e) lies in [s // 2, e // 2): position j belongs to it if position 2 j + 1 of the
    # row does.
    start_BS, size_BS, number_BS = (array_BT[:, 1::2] for array_BT in (where.start_BT, where.length, numbers_BT))

    def crop(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        share_BT, place_BT = jax.random.uniform(key, (2, num_rows, length))
        share_BS, place_BS = (where.shared(draw_BT)[:, 1::2] for draw_BT in (share_BT, place_BT))
        wanted_BS = jnp.ceil((min_share + (max_share - min_share) * share_BS) * size_BS).astype(jnp.int32)
        count_BS = jnp.minimum(wanted_BS, size_BS // 2)
        skipped_BS = jnp.floor(place_BS * (size_BS - count_BS + 1)).astype(jnp.int32)
        offset_BS = jnp.arange(length // 2, dtype=jnp.int32)[None, :] - start_BS // 2
        inside_BS = (offset_BS < count_BS) & (number_BS > 0)
        source_BS = jnp.where(inside_BS, start_BS + skipped_BS + offset_BS, 0)
        tokens_BS = jnp.where(inside_BS, jnp.take_along_axis(tokens_BT, source_BS, axis=1), pad_id)
        return tokens_BS, jnp.where(inside_BS, number_BS, 0)

    first, second = map(crop, jax.random.split(key))
    return Crops(*(jnp.stack(pair, axis=1) for pair in zip(first, second, strict=True)))
