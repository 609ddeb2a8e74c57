"""Describes rows as the model sees them, ready to be shown as text or as a picture.

Everything is found from the generic records (:class:`Rows`, :class:`Batch`) and never from the kind of
objective: documents from the positions, prefixes from the mask, and replaced tokens by comparison with the
data, in documents that are still at their place.

Axes: W positions that are shown.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.analysis.preview_labels import token_label
from lmjax.analysis.preview_structure import choose_shown, find_changed, find_directions, find_documents
from lmjax.analysis.preview_views import Preview, RowView, StreamView
from lmjax.masks import IntervalMask
from lmjax.tokenizers import Tokenizer
from lmjax.types import Batch, Rows, Stream


def preview_batch(
    batch: Batch, rows: Rows, tokenizer: Tokenizer, *, title: str, num_rows: int = 2, width: int = 48
) -> Preview:
    """Returns a description of the first rows of a batch.

    Args:
      batch: the batch that an objective made of ``rows``, with weights before normalisation.
      rows: the data, [B, ...].
      tokenizer: gives the labels of tokens.
      title: the heading.
      num_rows: number of rows to describe.
      width: number of positions to show of each row. Of longer rows all scored positions are shown, unless nearly all
        positions are scored.

    Raises:
      ValueError: the model's input does not have one token for each position.
    """
    # From here on the arrays are numpy's: reading a row is cheaper, and nothing is compiled.
    batch, rows = jax.device_get((batch, rows))
    if batch.inputs.tokens_BT.ndim != 2:
        shape = list(batch.inputs.tokens_BT.shape)
        raise ValueError(f"preview shows rows of tokens, and the input of {title} has shape {shape}")
    num_rows = min(num_rows, batch.inputs.tokens_BT.shape[0])
    maker = _Maker(batch, rows, tokenizer, width)
    batch_size, length = batch.inputs.tokens_BT.shape
    encoder = "" if batch.encoder is None else f" (encoder {batch.encoder.tokens_BT.shape[1]})"
    counts = [f"{name} {int((weights > 0).sum()):,}" for name, weights in batch.weights.items()]
    size = f"{batch_size} row{'s' * (batch_size > 1)} of {length}{encoder} positions"
    summary = f"{size}; scored: {', '.join(counts) or 'nothing'}"
    return Preview(title=title, summary=summary, rows=[maker.row(index) for index in range(num_rows)])


def side_by_side(previews: Mapping[str, Preview], *, title: str) -> Preview:
    """Returns several previews as one; the heading of each row has the name of its preview."""
    rows = [
        dataclasses.replace(row, heading=f"{name}, {row.heading}")
        for name, preview in previews.items()
        for row in preview.rows
    ]
    summary = "\n".join(f"{name}: {preview.title}, {preview.summary}" for name, preview in previews.items())
    return Preview(title=title, summary=summary, rows=rows)


def _of_row(array: Any, index: int) -> np.ndarray:
    return array[index if array.shape[0] > 1 else 0]


def _are_vectors(array: Any) -> bool:
    """Returns whether an array has a vector of floating-point numbers, not of ids, at every position."""
    return array.ndim == 3 and np.issubdtype(array.dtype, np.floating)


def _fits(array: Any, shape: tuple[int, ...]) -> bool:
    """Returns whether an array has this shape, or has it but for a leading axis of 1 in place of the batch."""
    return array.shape in (shape, (1, *shape[1:]))


class _Maker:
    """Describes one row at a time of a batch of numpy arrays."""

    def __init__(self, batch: Batch, rows: Rows, tokenizer: Tokenizer, width: int):
        self.batch = batch
        self.rows = rows
        self.tokenizer = tokenizer
        self.width = width
        vocabulary = tokenizer.vocabulary
        self.special_ids = vocabulary.special_ids
        self.mask_id = -1 if vocabulary.mask_id is None else vocabulary.mask_id
        self.pad_id = vocabulary.pad_id
        self.shape = batch.inputs.tokens_BT.shape
        self.target_shape = self.shape if batch.scored_BP is None else batch.scored_BP.shape

    def row(self, index: int) -> RowView:
        """Returns the view of row ``index``."""
        tokens_T = _of_row(self.rows.tokens_BT, index)
        segments_T = np.ones_like(tokens_T)
        if self.rows.segments_BT is not None:
            segments_T = _of_row(self.rows.segments_BT, index)
        shown = choose_shown(segments_T, np.zeros(len(segments_T), bool), width=self.width)
        batch, streams = self.batch, []
        name = "input"
        if batch.encoder is not None:
            streams.append(self._stream("encoder input", batch.encoder, index, is_decoder=False))
            name = "decoder input"
        streams.append(self._stream(name, batch.inputs, index, is_decoder=True))
        return RowView(
            heading=f"row {index}",
            data=self._labels(tokens_T[shown]),
            data_length=int(np.sum(segments_T > 0)),
            data_documents_W=segments_T[shown],
            streams=streams,
            details=[*self._details(index)],
        )

    def _labels(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        return [token_label(self.tokenizer, int(token_id)) for token_id in ids]

    def _stream(self, name: str, stream: Stream, index: int, *, is_decoder: bool) -> StreamView:
        tokens_T, positions_T = _of_row(stream.tokens_BT, index), _of_row(stream.positions_BT, index)
        documents_T = self._documents(stream, index)
        targets_T, scored_T = np.full(len(tokens_T), -1), np.zeros(len(tokens_T), bool)
        weights = self._weights(stream, index, is_decoder=is_decoder)
        if is_decoder and _fits(self.batch.targets_BP, self.target_shape):
            targets_T, scored_T = self._targets(index)
        crop = self._shown(stream, index, is_decoder=is_decoder)
        original_T = np.full(len(tokens_T), -1)
        # Where the model reads vectors, positions do not correspond to tokens of the data.
        if not any(map(_are_vectors, self.batch.extras.values())):
            data_T = _of_row(self.rows.tokens_BT, index)[: len(tokens_T)]
            original_T[: len(data_T)] = data_T
        special_T = np.isin(tokens_T, self.special_ids)
        explained_T = (tokens_T == self.mask_id) | (scored_T & (targets_T == original_T))
        changed_T = find_changed(tokens_T, original_T, documents_T, explained_T)
        # A decoder's input beside an encoder is not a copy of the data, and a sentinel does not replace a single token.
        is_copy = not is_decoder or self.batch.encoder is None
        changed_T &= is_copy & (~special_T | (tokens_T == self.mask_id))
        ahead_T, prefix_T = find_directions(_of_row(stream.mask.end_BT, index), documents_T)
        attention = {"self": _dense(stream.mask, index, crop, crop)}
        if is_decoder and self.batch.cross_mask is not None and self.batch.encoder is not None:
            keys = self._shown(self.batch.encoder, index, is_decoder=False)
            attention = {"cross": _dense(self.batch.cross_mask, index, crop, keys)} | attention
        return StreamView(
            name=name,
            length=len(tokens_T),
            index_W=crop,
            scored_left_out=int(scored_T.sum() - scored_T[crop].sum()),
            tokens=self._labels(tokens_T[crop]),
            original=[
                label if changed else ""
                for label, changed in zip(self._labels(original_T[crop]), changed_T[crop], strict=True)
            ],
            targets=["" if target < 0 else self._labels([target])[0] for target in targets_T[crop]],
            weights={term: values_T[crop] for term, values_T in weights.items()},
            numbers=({} if stream.types_BT is None else {"type": _of_row(stream.types_BT, index)[crop]})
            | {
                name: _of_row(array, index)[crop]
                for name, array in self.batch.extras.items()
                if self._lies_along(array, stream, is_decoder=is_decoder)
            },
            vectors={
                name: _of_row(array, index)[crop]
                for name, array in self.batch.extras.items()
                if is_decoder and _are_vectors(array) and _fits(array[..., 0], self.shape)
            },
            documents_W=documents_T[crop],
            positions_W=positions_T[crop],
            special_W=special_T[crop],
            changed_W=changed_T[crop],
            prefix_W=prefix_T[crop],
            ahead_W=ahead_T[crop],
            scored_W=scored_T[crop],
            attention=attention,
        )

    def _shown(self, stream: Stream, index: int, *, is_decoder: bool) -> np.ndarray:
        """Returns the positions to show: those around scored ones, or around special tokens where nothing is scored."""
        tokens_T = _of_row(stream.tokens_BT, index)
        wanted_T = np.isin(tokens_T, self.special_ids)
        if is_decoder and _fits(self.batch.targets_BP, self.target_shape):
            scored_T = self._targets(index)[1]
            wanted_T = scored_T if scored_T.any() else wanted_T
        return choose_shown(self._documents(stream, index), wanted_T, width=self.width)

    def _documents(self, stream: Stream, index: int) -> np.ndarray:
        tokens_T, positions_T = _of_row(stream.tokens_BT, index), _of_row(stream.positions_BT, index)
        return find_documents(tokens_T, positions_T, self.pad_id)

    def _spread(self, values_P: np.ndarray, index: int, *, empty: float) -> np.ndarray:
        """Returns the values of slots at the positions they belong to; slots with weight 0 are unused."""
        if self.batch.scored_BP is None:
            return values_P
        spread_T = np.full(self.shape[1], empty, values_P.dtype)
        used_P = self._used_slots(index)
        spread_T[_of_row(self.batch.scored_BP, index)[used_P]] = values_P[used_P]
        return spread_T

    def _used_slots(self, index: int) -> np.ndarray:
        weights = [_of_row(w, index) for w in self.batch.weights.values() if _fits(w, self.target_shape)]
        return np.any([w > 0 for w in weights], axis=0) if weights else np.ones(self.target_shape[1], bool)

    def _targets(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        targets_T = self._spread(_of_row(self.batch.targets_BP, index), index, empty=-1)
        return targets_T, self._spread(self._used_slots(index), index, empty=False) & (targets_T >= 0)

    def _weights(self, stream: Stream, index: int, *, is_decoder: bool) -> dict[str, np.ndarray]:
        """Returns the weights of the terms that belong to this stream, by name.

        If the shapes allow several streams, weights belong to the stream that has the targets.
        """
        found = {}
        for term, weights in self.batch.weights.items():
            along_targets = _fits(weights, self.target_shape)
            if along_targets and is_decoder:
                found[term] = self._spread(_of_row(weights, index), index, empty=np.nan)
            elif not along_targets and self._lies_along(weights, stream, is_decoder=is_decoder):
                found[term] = _of_row(weights, index)
        return found

    def _lies_along(self, array: Any, stream: Stream, *, is_decoder: bool) -> bool:
        return _fits(array, stream.tokens_BT.shape) and (is_decoder or not _fits(array, self.shape))

    def _details(self, index: int) -> Iterator[str]:
        """Describes the arrays that belong to no position: targets, weights and extras of other shapes."""
        placed = [self.shape, *([] if self.batch.encoder is None else [self.batch.encoder.tokens_BT.shape])]
        if self.batch.targets_BP.size and not _fits(self.batch.targets_BP, self.target_shape):
            yield _describe_array("targets", self.batch.targets_BP, index)
        for term, weights in self.batch.weights.items():
            if not any(_fits(weights, shape) for shape in [*placed, self.target_shape]):
                yield _describe_array(f"weight {term}", weights, index)
        for name, array in self.batch.extras.items():
            if not any(_fits(array, shape) for shape in placed):
                yield _describe_array(name, array, index)


def _dense(mask: IntervalMask, index: int, queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    start_W, end_W = (jnp.asarray(_of_row(bound, index)[queries]) for bound in (mask.start_BT, mask.end_BT))
    row = IntervalMask(start_BT=start_W[None, :], end_BT=end_W[None, :])
    return np.asarray(row.dense(int(keys[-1]) + 1))[0][:, keys]


def _describe_array(name: str, array: Any, index: int) -> str:
    row = _of_row(array, index) if array.ndim else array
    if row.size > 8 or jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return f"{name}: {array.dtype} {list(array.shape)}"
    return f"{name}: {' '.join(f'{value:.4g}' for value in np.ravel(row).astype(float))}"
