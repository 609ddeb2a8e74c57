"""Fill-in-the-middle: a document's middle moved to its end, so that a causal model learns to infill.

Bavarian et al. 2022, section 3: a document is cut at two uniformly random points and written as

    PSM   <prefix> prefix <suffix> suffix <middle> middle
    SPM   <prefix> <suffix> suffix <middle> prefix middle

The second is the paper's SPM variant 2, whose markers agree with PSM's. Cuts fall between tokens.

On rows as the model reads them this is the paper's context-level form (section 3.2): the part of each document that
lies in the row is rearranged, so no row has a suffix without its middle. Its document-level form cuts whole documents
before they are cut into rows, which is for data preparation (``data.fim_rate``).

Axes: N what a row is put together from: its tokens, then three markers for each of them.
"""

import jax
import jax.numpy as jnp

from lmjax.integers import as_int32
from lmjax.layout import Documents, arrangement, documents, running_count, segment_numbers
from lmjax.rates import check_rate
from lmjax.types import Rows


def fill_in_middle(
    key: jax.Array,
    tokens_BT: jax.Array,
    *,
    prefix_id: int,
    suffix_id: int,
    middle_id: int,
    rate: float | jax.Array = 0.5,
    spm_fraction: float | jax.Array = 0.5,
    segments_BT: jax.Array | None = None,
    bos_id: int | None = None,
    eos_id: int | None = None,
    length: int | None = None,
    pad_id: int = 0,
) -> Rows:
    """Rearranges each document of the rows with probability ``rate``; the others stay as they are.

    A rearranged document is three tokens longer, and the documents after it move back. Rows are cut at
    ``length``: tokens that move to that position or beyond are lost. A row of D documents loses nothing if ``length``
    leaves ``3 * D`` positions more than it has tokens.

    Bavarian et al. 2022, section 3.

    Args:
      key: PRNG key.
      tokens_BT: int32 ids.
      prefix_id: marks the prefix.
      suffix_id: marks the suffix.
      middle_id: marks the middle.
      rate: probability of a document to be rearranged; may be traced.
      spm_fraction: share of the rearranged documents in SPM order, the others are PSM; may be traced.
      segments_BT: document numbers, 0 for padding; ``None``: one document fills the row. For rows cut from a stream
        in which an end token separates documents, :func:`ended_documents` makes them.
      bos_id: a document's first token, if it is this one, stays first.
      eos_id: a document's last token, if it is this one, stays last.
      length: length of the rows, T + 3 by default.
      pad_id: fills the rows.

    Returns:
      The rows, with the document number of each token.

    Raises:
      ValueError: a rate outside of [0, 1], or two of the markers are the same.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from lmjax import corruption
      >>> markers = {"prefix_id": 1, "suffix_id": 2, "middle_id": 3}
      >>> tokens_BT = jnp.arange(10, 16)[None]
      >>> rows = corruption.fill_in_middle(jax.random.key(0), tokens_BT, **markers, rate=1.0, spm_fraction=0.0)
      >>> print(rows.tokens_BT)
      [[ 1 10 11 12 13 14  2  3 15]]
    """
    check_rate("fill_in_middle", rate=rate, spm_fraction=spm_fraction)
    _check_markers(prefix_id, suffix_id, middle_id)
    tokens_BT = as_int32(tokens_BT, "tokens_BT")
    shape = tokens_BT.shape
    length = shape[1] + 3 if length is None else length
    where = documents(segments_BT, shape)
    first_BT, size_BT = _bodies(tokens_BT, where, bos_id=bos_id, eos_id=eos_id)
    apply_key, order_key, cut_key = jax.random.split(key, 3)
    applies_BT = where.real_BT & (size_BT > 0) & (where.shared(jax.random.uniform(apply_key, shape)) < rate)
    is_spm_BT = where.shared(jax.random.uniform(order_key, shape)) < spm_fraction
    cuts = _cuts(cut_key, where.shared, size_BT)
    index_BT = where.index_BT - first_BT
    moved_BT, suffix_marker_BT, middle_marker_BT = _places(index_BT, size_BT, cuts, is_spm_BT)
    opens_BT = applies_BT & (where.index_BT == where.start_BT)
    earlier_BT = 3 * where.shared(running_count(opens_BT) - opens_BT.astype(jnp.int32))
    position_BT = first_BT + earlier_BT + jnp.where(applies_BT, moved_BT, index_BT)
    markers = ((prefix_id, 0), (suffix_id, suffix_marker_BT), (middle_id, middle_marker_BT))
    # The three markers of a document are written by its first token.
    values = [tokens_BT, *(jnp.full_like(tokens_BT, marker_id) for marker_id, _ in markers)]
    positions = [position_BT, *(first_BT + earlier_BT + offset_BT for _, offset_BT in markers)]
    keep_BN = jnp.concatenate([where.real_BT, opens_BT, opens_BT, opens_BT], axis=1)
    lay_out = arrangement(jnp.concatenate(positions, axis=1), keep_BN, length=length)
    return Rows(
        tokens_BT=lay_out(jnp.concatenate(values, axis=1), pad_id),
        segments_BT=lay_out(jnp.tile(segment_numbers(segments_BT, shape), (1, 4)), 0),
    )


def ended_documents(tokens_BT: jax.Array, eos_id: int) -> jax.Array:
    """Numbers the documents of rows cut from a stream: a document begins after each end of text (int32, from 1).

    ``number[t] = 1 + how many of tokens[0 .. t - 1] are eos_id``, for rows packed as those of Brown et al. 2020,
    appendix B.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import corruption
      >>> print(corruption.ended_documents(jnp.array([[5, 2, 6, 2, 7]]), 2))
      [[1 1 2 2 3]]
    """
    ends_BT = (as_int32(tokens_BT, "tokens_BT") == eos_id).astype(jnp.int32)
    return 1 + jnp.cumsum(ends_BT, axis=1) - ends_BT


def _check_markers(prefix_id: int, suffix_id: int, middle_id: int) -> None:
    if len({prefix_id, suffix_id, middle_id}) < 3:
        raise ValueError(
            f"fill_in_middle: prefix_id={prefix_id}, suffix_id={suffix_id}, middle_id={middle_id}: "
            f"the three must differ"
        )


def _bodies(
    tokens_BT: jax.Array, where: Documents, *, bos_id: int | None, eos_id: int | None
) -> tuple[jax.Array, jax.Array]:
    """Returns where the body of each position's document begins, and its size: the document without BOS and EOS."""
    first_BT, end_BT = where.start_BT, where.end_BT
    if bos_id is not None:
        first_BT = first_BT + where.shared((tokens_BT == bos_id).astype(jnp.int32))
    if eos_id is not None:
        ends_BT = jnp.take_along_axis(tokens_BT == eos_id, where.end_BT - 1, axis=1)
        end_BT = jnp.maximum(end_BT - ends_BT.astype(jnp.int32), first_BT)
    return first_BT, end_BT - first_BT


def _cuts(key: jax.Array, shared, size_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws two cuts of each document, each uniform over 0 .. size, and returns them in ascending order."""
    bits = (shared(jax.random.bits(k, size_BT.shape, jnp.uint32)) for k in jax.random.split(key))
    choices_BT = (size_BT + 1).astype(jnp.uint32)
    first_BT, second_BT = ((bits_BT % choices_BT).astype(jnp.int32) for bits_BT in bits)
    return jnp.minimum(first_BT, second_BT), jnp.maximum(first_BT, second_BT)


def _places(
    index_BT: jax.Array, size_BT: jax.Array, cuts: tuple[jax.Array, jax.Array], is_spm_BT: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns where the tokens of a rearranged document go, and where its suffix and middle markers are.

    All places are counted from the body's first token. The prefix marker is at 0; BOS, before it, stays, and EOS moves
    back by the three markers.

    Args:
      index_BT: the place of each token before; negative for BOS, ``size_BT`` for EOS.
      size_BT: the size of the body.
      cuts: where the middle begins, and one past its end.
      is_spm_BT: whether the document is written in SPM order.
    """
    low_BT, high_BT = cuts
    suffix_size_BT = size_BT - high_BT
    suffix_marker_BT = jnp.where(is_spm_BT, 1, 1 + low_BT)
    middle_marker_BT = suffix_marker_BT + 1 + suffix_size_BT
    prefix_place_BT = jnp.where(is_spm_BT, middle_marker_BT + 1, 1) + index_BT
    suffix_place_BT = suffix_marker_BT + 1 + index_BT - high_BT
    # In both orders a middle token comes after prefix, suffix, three markers, and the earlier part of the middle.
    middle_place_BT = 3 + suffix_size_BT + index_BT
    moved_BT = jnp.where(
        index_BT < low_BT, prefix_place_BT, jnp.where(index_BT < high_BT, middle_place_BT, suffix_place_BT)
    )
    moved_BT = jnp.where(index_BT < 0, index_BT, jnp.where(index_BT >= size_BT, index_BT + 3, moved_BT))
    return moved_BT, suffix_marker_BT, middle_marker_BT
