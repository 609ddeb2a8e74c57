"""Noise spans replaced by sentinels: T5's inputs and targets from a noise mask, packed or not.

With noise on ``b`` and ``d e``, ``a b c d e`` has the input ``a <0> c <1>`` and the target
``<0> b <1> d e``: each of the two keeps its own tokens and has a sentinel in place of every run of the other's tokens
(t5's ``noise_span_to_unique_sentinel`` and ``nonnoise_span_to_unique_sentinel``).

Axes: E what a token may become, up to three ids, N all of these of a row in one line.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lmjax.integers import as_int32
from lmjax.layout import Documents, arrangement, documents, running_count, segment_numbers
from lmjax.types import Rows


def replace_spans(
    tokens_BT: jax.Array,
    noise_BT: jax.Array,
    *,
    sentinel_ids: Sequence[int],
    inputs_length: int,
    targets_length: int,
    segments_BT: jax.Array | None = None,
    plain_BT: jax.Array | None = None,
    begin_ids_BT: jax.Array | None = None,
    eos_id: int | None = None,
    pad_id: int = 0,
) -> tuple[Rows, Rows]:
    """Makes the encoder inputs and the decoder targets of rows whose noise tokens are given.

    Raffel et al. 2020 (T5), section 3.1.4.

    Args:
      tokens_BT: int32 ids.
      noise_BT: bool, the tokens to move to the targets.
      sentinel_ids: sentinels in the order of use; every document starts with the first. Spans beyond the last
        sentinel share it (the functions that draw spans refuse such a setting).
      inputs_length: length of the input rows; longer ones are cut at the end.
      targets_length: length of the target rows, likewise.
      segments_BT: document numbers, 0 for padding; ``None``: one document fills the row.
      plain_BT: bool; True at the first position of a document leaves out the document's sentinels.
      begin_ids_BT: id put before each document's input, read at the document's first position.
      eos_id: id put after each document's input and targets.
      pad_id: fills the rows.

    Returns:
      ``(inputs, targets)``; their ``segments_BT`` have the document numbers of the argument, or 1 if it is ``None``.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import corruption
      >>> tokens_BT, noise_BT = jnp.array([[5, 6, 7, 8, 9]]), jnp.array([[False, True, False, True, True]])
      >>> inputs, targets = corruption.replace_spans(
      ...     tokens_BT, noise_BT, sentinel_ids=(90, 91), inputs_length=4, targets_length=5
      ... )
      >>> print(inputs.tokens_BT, targets.tokens_BT)
      [[ 5 90  7 91]] [[90  6 91  8  9]]
    """
    tokens_BT = as_int32(tokens_BT, "tokens_BT")
    where = documents(segments_BT, tokens_BT.shape)
    inputs = _stream(tokens_BT, noise_BT, where, sentinel_ids, plain_BT, begin_ids_BT, eos_id)
    targets = _stream(tokens_BT, ~noise_BT, where, sentinel_ids, plain_BT, None, eos_id)
    number_BT = segment_numbers(segments_BT, tokens_BT.shape)

    def rows(stream: tuple[jax.Array, jax.Array], length: int) -> Rows:
        values_BTE, keep_BTE = stream
        keep_BN, number_BTE = _flat(keep_BTE), jnp.broadcast_to(number_BT[:, :, None], keep_BTE.shape)
        lay_out = arrangement(running_count(keep_BN) - 1, keep_BN, length=length)
        return Rows(tokens_BT=lay_out(_flat(values_BTE), pad_id), segments_BT=lay_out(_flat(number_BTE), 0))

    return rows(inputs, inputs_length), rows(targets, targets_length)


def join_spans(
    tokens_BT: jax.Array,
    noise_BT: jax.Array,
    *,
    sentinel_ids: Sequence[int],
    length: int,
    segments_BT: jax.Array | None = None,
    plain_BT: jax.Array | None = None,
    begin_ids_BT: jax.Array | None = None,
    eos_id: int | None = None,
    pad_id: int = 0,
) -> tuple[Rows, jax.Array]:
    """Makes rows for a decoder alone: each document's input is followed by its targets in the same row.

    Raffel et al. 2020 (T5), sections 3.1.4 and 3.2.1.

    Args:
      tokens_BT: int32 ids.
      noise_BT: bool, the tokens to move to the targets.
      sentinel_ids: see :func:`replace_spans`.
      length: length of the rows; longer ones are cut at the end.
      segments_BT: document numbers, 0 for padding; ``None``: one document fills the row.
      plain_BT: see :func:`replace_spans`.
      begin_ids_BT: see :func:`replace_spans`.
      eos_id: id put after each document's targets.
      pad_id: fills the rows.

    Returns:
      ``(rows, prefix_end_BT)``: rows whose weights are 1 on target tokens and 0 elsewhere, and where
      each document's input ends, as :func:`lmjax.masks.packed` takes it.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import corruption
      >>> tokens_BT, noise_BT = jnp.array([[5, 6, 7, 8, 9]]), jnp.array([[False, True, False, True, True]])
      >>> rows, prefix_end_BT = corruption.join_spans(tokens_BT, noise_BT, sentinel_ids=(90, 91), length=9)
      >>> print(rows.tokens_BT, rows.weights_BT, prefix_end_BT)
      [[ 5 90  7 91 90  6 91  8  9]] [[0. 0. 0. 0. 1. 1. 1. 1. 1.]] [[4 4 4 4 4 4 4 4 4]]
    """
    tokens_BT = as_int32(tokens_BT, "tokens_BT")
    where = documents(segments_BT, tokens_BT.shape)
    inputs = _stream(tokens_BT, noise_BT, where, sentinel_ids, plain_BT, begin_ids_BT, None)
    targets = _stream(tokens_BT, ~noise_BT, where, sentinel_ids, plain_BT, None, eos_id)
    number_BT = segment_numbers(segments_BT, tokens_BT.shape)
    streams = inputs, targets
    input_count_BT, target_count_BT = (running_count(keep_BTE.sum(axis=-1)) for _, keep_BTE in streams)
    # An input token comes after the targets of earlier documents, and a target after the input of its own document.
    earlier_targets_BT = where.shared(target_count_BT - targets[1].sum(axis=-1))
    inputs_through_BT = jnp.take_along_axis(input_count_BT, where.end_BT - 1, axis=1)
    prefix_end_BT = earlier_targets_BT + inputs_through_BT

    def emitted(input_BT: jax.Array, target_BT: jax.Array) -> jax.Array:
        """Repeats one value for what a token emits as input, and another for what it emits as target: [B, N]."""
        input_BTE = jnp.broadcast_to(input_BT[:, :, None], inputs[1].shape)
        target_BTE = jnp.broadcast_to(target_BT[:, :, None], targets[1].shape)
        return jnp.concatenate([_flat(input_BTE), _flat(target_BTE)], axis=1)

    rank_BN = jnp.concatenate([running_count(_flat(keep_BTE)) - 1 for _, keep_BTE in streams], axis=1)
    position_BN = rank_BN + emitted(earlier_targets_BT, inputs_through_BT)
    values_BN, keep_BN = (jnp.concatenate([_flat(s[i]) for s in streams], axis=1) for i in range(2))

    lay_out = arrangement(position_BN, keep_BN, length=length)
    zeros_BT = jnp.zeros(tokens_BT.shape, jnp.float32)
    rows = Rows(
        tokens_BT=lay_out(values_BN, pad_id),
        segments_BT=lay_out(emitted(number_BT, number_BT), 0),
        weights_BT=lay_out(emitted(zeros_BT, zeros_BT + 1), 0),
    )
    return rows, lay_out(emitted(prefix_end_BT, prefix_end_BT), 0)


def _flat(values_BTE: jax.Array) -> jax.Array:
    return values_BTE.reshape(values_BTE.shape[0], -1)


def _stream(
    tokens_BT: jax.Array,
    removed_BT: jax.Array,
    where: Documents,
    sentinel_ids: Sequence[int],
    plain_BT: jax.Array | None,
    begin_ids_BT: jax.Array | None,
    end_id: int | None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the ids that each token may emit, in order, and whether it emits them: two [B, T, up to 3] arrays."""
    removed_before_BT = jnp.pad(removed_BT[:, :-1], ((0, 0), (1, 0)))
    starts_BT = where.real_BT & removed_BT & (~removed_before_BT | where.first)
    span_BT = jnp.clip(where.before(starts_BT) - 1, 0, len(sentinel_ids) - 1)
    sentinel_BT = jnp.asarray(sentinel_ids, tokens_BT.dtype)[span_BT]
    shows_BT = starts_BT if plain_BT is None else starts_BT & ~where.shared(plain_BT)
    values = [jnp.where(starts_BT, sentinel_BT, tokens_BT)]
    keep = [where.real_BT & (~removed_BT | shows_BT)]
    if begin_ids_BT is not None:
        values.insert(0, begin_ids_BT)
        keep.insert(0, where.first)
    if end_id is not None:
        values.append(jnp.full_like(tokens_BT, end_id))
        keep.append(where.last)
    return jnp.stack(values, axis=-1), jnp.stack(keep, axis=-1)
