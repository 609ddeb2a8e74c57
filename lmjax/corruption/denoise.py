"""BART's noise: sentences shuffled, documents rotated, tokens masked, deleted, replaced, spans infilled.

Lewis et al. 2020, section 2.2. All of them can be combined: reordering comes first, then text infilling, then noise
on single tokens that no infilled span covers. The target is the row itself.

Axes: N places of a row, several for each position: what may come before the token, and the token.
"""

import dataclasses
from collections.abc import Sequence
from typing import TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.corruption.ids import check_ids, is_special, random_ids
from lmjax.corruption.placement import PlacedSpans, draw_lengths, place_spans
from lmjax.integers import as_int32
from lmjax.layout import Documents, arrangement, documents, running_count, segment_numbers
from lmjax.types import Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenoiseConfig:
    """The amount of each kind of noise; the defaults are the text infilling of the paper."""

    infill: float = 0.3
    """Share of the tokens covered by spans that each become a single mask token."""
    infill_mean: float = 3.0
    """Mean of the Poisson length of a span; a span of no tokens inserts a mask."""
    permute_sentences: bool = False
    """Puts each document's sentences in random order (the tokenizer must tell where they end)."""
    rotate: float = 0.0
    """Share of the documents that begin at a random token and wrap around."""
    mask: float = 0.0
    """Share of the tokens, outside of infilled spans, that become the mask token."""
    delete: float = 0.0
    """Share of the tokens, outside of infilled spans, that are removed without a trace."""
    replace: float = 0.0
    """Share of the tokens, outside of infilled spans, that become a random token."""
    insert: float = 0.0
    """Random tokens inserted, per token of the row."""

    def __post_init__(self):
        for name in ("infill", "rotate", "mask", "delete", "replace", "insert"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"noise.{name}={getattr(self, name)}: must be between 0 and 1")
        if not self.infill_mean > 0:
            raise ValueError(f"noise.infill_mean={self.infill_mean}: must be above 0")
        if self.mask + self.delete + self.replace > 1:
            raise ValueError(
                f"noise: mask={self.mask}, delete={self.delete} and replace={self.replace} sum to more "
                f"than 1: lower one of them"
            )


class _Ids(TypedDict):
    """The size of the vocabulary, and the ids in it that noise leaves alone and never draws."""

    vocab_size: int
    special_ids: tuple[int, ...]


def denoise(
    key: jax.Array,
    tokens_BT: jax.Array,
    config: DenoiseConfig | None = None,
    *,
    vocab_size: int,
    mask_id: int,
    special_ids: Sequence[int] = (),
    segments_BT: jax.Array | None = None,
    sentences_BT: jax.Array | None = None,
    length: int | None = None,
    pad_id: int = 0,
) -> Rows:
    """Makes the noisy input of a row; the target is the row itself.

    Special tokens are neither hidden nor covered; one at a document's first or last position stays
    there when sentences or the document are moved. An infilled span that contains a special token or crosses a
    document's end is divided into two spans there.

    Lewis et al. 2020 (BART), section 2.2.

    Args:
      key: PRNG key.
      tokens_BT: int32 ids.
      config: the noise; ``None`` is ``DenoiseConfig()``.
      vocab_size: ids are below this.
      mask_id: the mask token.
      special_ids: ids that are left alone.
      segments_BT: document numbers, 0 for padding; ``None``: one document fills the row.
      sentences_BT: sentence numbers: within a document, each unbroken run of one value is a sentence
        (:func:`lmjax.corruption.sentence_numbers`).
      length: length of the noisy rows, T by default; longer ones (insertions can outnumber what is
        removed) are cut at the end.
      pad_id: fills the rows.

    Returns:
      The noisy rows, with the document number of each token.

    Raises:
      ValueError: sentences are to be permuted and not given, or an id is outside of the vocabulary.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from lmjax import corruption
      >>> config = corruption.DenoiseConfig(infill=0.0, mask=1.0)
      >>> tokens_BT = jnp.array([[1, 5, 6, 7]])
      >>> ids = {"vocab_size": 10, "mask_id": 9, "special_ids": (1,)}
      >>> rows = corruption.denoise(jax.random.key(0), tokens_BT, config, **ids)
      >>> print(rows.tokens_BT)
      [[1 9 9 9]]
    """
    config = config or DenoiseConfig()
    check_ids("denoise", vocab_size=vocab_size, mask_id=mask_id, special_ids=special_ids)
    if config.permute_sentences and sentences_BT is None:
        raise ValueError(
            "denoise: noise.permute_sentences=True needs sentences_BT, which is missing: make it with "
            "sentence_numbers, or set permute_sentences to False"
        )
    tokens_BT = as_int32(tokens_BT, "tokens_BT")
    where = documents(segments_BT, tokens_BT.shape)
    ids: _Ids = {"vocab_size": vocab_size, "special_ids": (*special_ids, mask_id)}
    order_key, *noise_keys = jax.random.split(key, 5)
    if config.permute_sentences or config.rotate > 0:
        source_BT = _reorder(order_key, config, where, is_special(tokens_BT, **ids), sentences_BT)
        tokens_BT = jnp.take_along_axis(tokens_BT, source_BT, axis=1)
    values, keep = _with_noise(noise_keys, config, tokens_BT, where, mask_id=mask_id, ids=ids)
    return _emit(values, keep, segments_BT, length=length or tokens_BT.shape[1], pad_id=pad_id)


def _with_noise(
    keys: Sequence[jax.Array], config: DenoiseConfig, tokens_BT: jax.Array, where: Documents, *, mask_id: int, ids: _Ids
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Infills spans and puts noise on single tokens.

    Returns:
      The tokens that each position may emit, in order, and whether it does.
    """
    infill_key, noise_key, replace_key, insert_key = keys
    eligible_BT = where.real_BT & ~is_special(tokens_BT, **ids)
    infilled = _infill(infill_key, config, eligible_BT)
    covered_BT = infilled.span_BT > 0
    before_BT = jnp.pad(infilled.span_BT[:, :-1], ((0, 0), (1, 0)))
    span_start_BT = covered_BT & ((infilled.span_BT != before_BT) | where.first)
    masked_BT, deleted_BT, replaced_BT = _fates(noise_key, config, eligible_BT & ~covered_BT)
    tokens_BT = jnp.where(span_start_BT | masked_BT, mask_id, tokens_BT)
    if config.replace > 0:
        tokens_BT = jnp.where(replaced_BT, random_ids(replace_key, tokens_BT.shape, **ids), tokens_BT)
    values = [jnp.full_like(tokens_BT, mask_id), tokens_BT]
    keep = [infilled.empty_BT, where.real_BT & ~deleted_BT & (~covered_BT | span_start_BT)]
    if config.insert > 0:
        place_key, id_key = jax.random.split(insert_key)
        values.insert(0, random_ids(id_key, tokens_BT.shape, **ids))
        keep.insert(0, eligible_BT & (jax.random.uniform(place_key, tokens_BT.shape) < config.insert))
    return values, keep


def _fates(key: jax.Array, config: DenoiseConfig, eligible_BT: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns which of the eligible tokens are masked, deleted and replaced; a token has at most one fate."""
    fate_BT = jnp.where(eligible_BT, jax.random.uniform(key, eligible_BT.shape), 2.0)
    deleted_BT = fate_BT < config.delete
    masked_BT = ~deleted_BT & (fate_BT < config.delete + config.mask)
    replaced_BT = ~deleted_BT & ~masked_BT & (fate_BT < config.delete + config.mask + config.replace)
    return masked_BT, deleted_BT, replaced_BT


def _emit(
    values: list[jax.Array], keep: list[jax.Array], segments_BT: jax.Array | None, *, length: int, pad_id: int
) -> Rows:
    """Returns rows of the tokens that each position emits, in order."""
    shape = values[0].shape
    number_BT = segment_numbers(segments_BT, shape)
    values_BN, keep_BN, number_BN = (
        jnp.stack(parts, axis=-1).reshape(shape[0], -1) for parts in (values, keep, [number_BT] * len(values))
    )
    lay_out = arrangement(running_count(keep_BN) - 1, keep_BN, length=length)
    return Rows(tokens_BT=lay_out(values_BN, pad_id), segments_BT=lay_out(number_BN, 0))


def _poisson(mean: float) -> np.ndarray:
    """Returns the probabilities of 0, 1, ... until they are too small for float32."""
    count = np.arange(int(mean + 10 * np.sqrt(mean) + 10))
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(count[1:]))])
    return np.exp(count * np.log(mean) - mean - log_factorial)


def _infill(key: jax.Array, config: DenoiseConfig, eligible_BT: jax.Array) -> PlacedSpans:
    """Places spans over the eligible tokens; returns them for each position of the row."""
    if config.infill == 0:
        return PlacedSpans(jnp.zeros(eligible_BT.shape, jnp.int32), jnp.zeros(eligible_BT.shape, bool))
    length_key, place_key = jax.random.split(key)
    lengths_BT = draw_lengths(length_key, eligible_BT.shape, _poisson(config.infill_mean), least=0)
    unit_BT = running_count(eligible_BT)
    placed = place_spans(place_key, lengths_BT, unit_BT[:, -1:], config.infill)
    span_BT, empty_BT = (jnp.take_along_axis(v_BT, jnp.maximum(unit_BT - 1, 0), axis=1) for v_BT in placed)
    return PlacedSpans(jnp.where(eligible_BT, span_BT, 0), eligible_BT & empty_BT)


def _reorder(
    key: jax.Array,
    config: DenoiseConfig,
    where: Documents,
    special_BT: jax.Array,
    sentences_BT: jax.Array | None,
) -> jax.Array:
    """Returns the position from which each position takes its token (int32 [B, T])."""
    permute_key, rotate_key, amount_key = jax.random.split(key, 3)
    shape = special_BT.shape
    # A special token at the beginning or end of a document (of its sequence) does not belong to its body.
    first_BT = where.start_BT + where.shared(special_BT.astype(jnp.int32))
    last_special_BT = jnp.take_along_axis(special_BT, where.end_BT - 1, axis=1)
    end_BT = where.end_BT - last_special_BT.astype(jnp.int32)
    body_BT = where.real_BT & (where.index_BT >= first_BT) & (where.index_BT < end_BT)
    source_BT = where.index_BT
    if config.permute_sentences:
        assert sentences_BT is not None
        source_BT = _permuted(permute_key, where, sentences_BT, first_BT, body_BT)
    if config.rotate > 0:
        size_BT = jnp.maximum(end_BT - first_BT, 1)
        bits_BT = where.shared(jax.random.bits(amount_key, shape, jnp.uint32))
        amount_BT = (bits_BT % size_BT.astype(jnp.uint32)).astype(jnp.int32)
        turns_BT = body_BT & (where.shared(jax.random.uniform(rotate_key, shape)) < config.rotate)
        rotated_BT = first_BT + (where.index_BT - first_BT + amount_BT) % size_BT
        from_BT = jnp.where(turns_BT, rotated_BT, where.index_BT)
        source_BT = jnp.take_along_axis(source_BT, from_BT, axis=1)
    return source_BT


def _permuted(
    key: jax.Array, where: Documents, sentences_BT: jax.Array, first_BT: jax.Array, body_BT: jax.Array
) -> jax.Array:
    """Returns the position from which each position takes its token, if the sentences of each document are shuffled.

    A sort by a random number, which the tokens of a sentence share, shuffles them. Tokens outside of a document's body
    (``body_BT``, from ``first_BT`` on) stay where they are.
    """
    change_BT = jnp.pad(sentences_BT[:, 1:] != sentences_BT[:, :-1], ((0, 0), (1, 0)))
    begins_BT = change_BT | (where.index_BT == where.start_BT) | (where.index_BT == first_BT)
    begin_BT = jax.lax.cummax(jnp.where(begins_BT, where.index_BT, 0), axis=1)
    draw_BT = jnp.take_along_axis(jax.random.uniform(key, body_BT.shape), begin_BT, axis=1)
    draw_BT = jnp.where(body_BT, draw_BT, jnp.where(where.index_BT < first_BT, -1.0, 2.0))
    keys = (where.number_BT, draw_BT, begin_BT)
    *_, source_BT = jax.lax.sort((*keys, where.index_BT), dimension=1, num_keys=3, is_stable=True)
    return source_BT
