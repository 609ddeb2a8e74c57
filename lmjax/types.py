"""The axis legend, and the records that flow through the trainer: Rows -> Batch -> model -> terms.

Shapes are in names, one letter an axis::

    B batch      T query position   S key position   P scored position
    D model      F feed-forward     V vocabulary     L layers
    N heads      K key-value heads  G heads per key-value head (N / K)   H head width
    E embedding, and what the head reads             C positions of a chunk

``hidden_BTD`` is [batch, position, model width]. A digit is an axis of that size: ``tokens_B2S`` has two rows for each
row of the batch, ``index_11S`` broadcasts. A module whose letters mean something else, or that has more of them, lists
them in its docstring after ``Axes:``.
"""

import dataclasses
import typing
from typing import Any

import jax
import jax.numpy as jnp

from lmjax import masks
from lmjax.integers import as_int32
from lmjax.masks import IntervalMask

PyTree = object

IGNORE_INDEX = -100
"""The label that means "nothing is to be predicted here"."""


@typing.dataclass_transform(kw_only_default=True, frozen_default=True)
def _record(cls: type) -> type:
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True, kw_only=True)(cls))


@_record
class Rows:
    """Token rows as the data pipeline delivers them, the same for every objective.

    Attributes:
      tokens_BT: int32 token ids.
      segments_BT: int32, the document of each position, 0 for padding; ``None`` if a row is one document without
        padding (masks are then static, and the fastest kernels can be used).
      weights_BT: float32 loss weight of each token as a target (0 for a prompt that is not learned); ``None`` means 1
        on tokens and 0 on padding.
    """

    tokens_BT: jax.Array
    segments_BT: jax.Array | None = None
    weights_BT: jax.Array | None = None


@_record
class Stream:
    """A sequence that a stack of layers reads: tokens, their positions, and the attention mask.

    Attributes:
      tokens_BT: int32 ids.
      positions_BT: int32, from 0 in each document.
      mask: the positions of the sequence that each position may attend to.
      types_BT: int32 segment ids (BERT: 0 for the first text of a pair, 1 for the second), for models
        with segment embeddings; ``None`` is 0 everywhere.
      valid_BT: False on padding, which is sent to no expert; ``None`` is True everywhere.
    """

    tokens_BT: jax.Array
    positions_BT: jax.Array
    mask: IntervalMask
    types_BT: jax.Array | None = None
    valid_BT: jax.Array | None = None


@_record
class Batch:
    """What an objective makes of rows: the model's input, the targets, and the weight of each.

    The leading axis of every array is the batch (or 1), so that a batch can be divided into microbatches.

    Attributes:
      inputs: the stream that the model reads; with an encoder, the decoder's stream.
      targets_BP: int32, the correct token of each scored position.
      weights: for each term of the objective, by name, the float32 weights of its values before normalisation.
      scored_BP: int32, the positions of ``inputs`` to which the head is applied; ``None`` means all positions in
        order (then P = T).
      encoder: the encoder's stream, for encoder-decoder models.
      cross_mask: which encoder positions each decoder position sees.
      extras: other arrays that the objective's own terms need.
      carry: state that the previous step left for these rows (see ``Objective.initial_carry``); the training step
        sets it.
    """

    inputs: Stream
    targets_BP: jax.Array
    weights: dict[str, jax.Array]
    scored_BP: jax.Array | None = None
    encoder: Stream | None = None
    cross_mask: IntervalMask | None = None
    extras: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
    carry: Any = None


def make_stream(
    tokens_BT: jax.Array,
    segments_BT: jax.Array | None,
    kind: str,
    *,
    prefix_end_BT: jax.Array | None = None,
    types_BT: jax.Array | None = None,
) -> Stream:
    """Returns a stream whose mask and positions are both made from ``segments_BT``, so that they always agree.

    Args:
      tokens_BT: int32 token ids.
      segments_BT: document numbers, or ``None`` for one document filling the row.
      kind: ``"causal"``, ``"bidirectional"`` or ``"prefix"`` within each document.
      prefix_end_BT: for ``"prefix"``, see :func:`lmjax.masks.packed`.
      types_BT: segment ids of the tokens.
    """
    tokens_BT = as_int32(tokens_BT, "tokens_BT")
    num_rows, length = tokens_BT.shape
    if segments_BT is None and kind != "prefix":
        mask = masks.causal(length) if kind == "causal" else masks.bidirectional(length)
        positions_1T = jnp.arange(length, dtype=jnp.int32)[None, :]
        positions_BT = jnp.broadcast_to(positions_1T, (num_rows, length))
        return Stream(tokens_BT=tokens_BT, positions_BT=positions_BT, mask=mask, types_BT=types_BT)
    valid_BT = None if segments_BT is None else as_int32(segments_BT, "segments_BT") > 0
    if segments_BT is None:
        segments_BT = jnp.ones_like(tokens_BT)
    mask = masks.packed(segments_BT, kind, prefix_end_BT=prefix_end_BT)  # type: ignore[arg-type]
    positions_BT = masks.document_positions(segments_BT)
    return Stream(tokens_BT=tokens_BT, positions_BT=positions_BT, mask=mask, types_BT=types_BT, valid_BT=valid_BT)
