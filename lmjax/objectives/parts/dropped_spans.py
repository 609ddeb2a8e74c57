"""Spans are dropped from documents, with a sentinel in the place of each, and predicted: by one stack, or by two.

What T5's span corruption and UL2's mixture share. In the form for one stack ("decoder") a document's
targets follow its input, which is seen in both directions (Raffel et al. 2020, section 3.2.1's prefix
LM); in the form for two ("encoder_decoder") an encoder reads the inputs and a decoder writes the targets.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from lmjax.models.config import ModelConfig
from lmjax.objectives.parts.encoder_decoder import EncoderDecoderObjective, longest_row, paired_batch
from lmjax.objectives.parts.objective import Traits
from lmjax.objectives.parts.origin_weights import moved_weights, place_codes
from lmjax.objectives.parts.scored_positions import scored_positions, scored_targets
from lmjax.objectives.parts.token_objective import next_token_targets
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, make_stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class GapObjective(EncoderDecoderObjective):
    """Cuts spans out of documents and asks for them; subclasses say which spans."""

    form: Literal["decoder", "encoder_decoder"] = "decoder"
    """One stack that reads a document's input in both directions and goes on with its targets, or an encoder that
    reads the input and a decoder that writes the targets (then set model.encoder_layers)."""
    documents_per_row: int = 1
    """Documents a row has room for. Each further one takes three tokens of a row, or four if it has a mode token; what
    more documents push beyond the row's end is not trained on in that epoch."""

    begin_tokens: ClassVar[int] = 0
    """Tokens before each document's input."""
    fewer_spans: ClassVar[str]
    """What to do about too few sentinels, other than having more."""
    ends_input = True

    def __post_init__(self):
        super().__post_init__()
        if self.documents_per_row < 1:
            raise ValueError(f"objective.documents_per_row={self.documents_per_row}: must be at least 1")

    @abc.abstractmethod
    def counts(self, length: int) -> list[tuple[int, int]]:
        """Returns the numbers of dropped tokens and of sentinels in a document of ``length`` tokens.

        The list has one entry for each way in which the document may be corrupted.
        """

    @abc.abstractmethod
    def join(
        self, key: jax.Array, tokens_BT: jax.Array, vocabulary: Vocabulary, **layout: Any
    ) -> tuple[Rows, jax.Array]:
        """Returns rows for one stack, as :func:`lmjax.corruption.join_spans` does."""

    @abc.abstractmethod
    def divide(self, key: jax.Array, tokens_BT: jax.Array, vocabulary: Vocabulary, **layout: Any) -> tuple[Rows, Rows]:
        """Returns rows for two stacks, as :func:`lmjax.corruption.replace_spans` does."""

    @property
    def traits(self) -> Traits:
        """A prompt is read by the encoder, or, in the form for one stack, as a prefix."""
        if self.form == "encoder_decoder":
            return super().traits
        return Traits(attention="prefix", text_term="loss")

    def row_length(self, sequence_length: int) -> int:
        """Returns how many tokens fill the encoder's T inputs, or one stack's T inputs and one target more.

        Documents may be corrupted in several ways. The length is that of the way that takes most room; the
        others leave the end of the row empty.
        """
        if self.traits.reads_with_encoder:
            return longest_row(sequence_length, self._inputs)
        return longest_row(sequence_length + 1, self._joined)

    def decoder_length(self, sequence_length: int) -> int:
        """Returns the room for dropped tokens, sentinels and ends of text."""
        return self._targets(self.row_length(sequence_length))

    def _further_documents(self) -> int:
        """Returns the room for the ends of text of further documents, and for counts that round up more often."""
        return 3 * (self.documents_per_row - 1)

    def _inputs(self, length: int) -> int:
        """Returns the positions of the encoder for a row of ``length`` tokens."""
        kept = max(length - dropped + sentinels for dropped, sentinels in self.counts(length))
        return kept + 1 + self.begin_tokens * self.documents_per_row + self._further_documents()

    def _targets(self, length: int) -> int:
        """Returns the positions of the decoder for a row of ``length`` tokens."""
        return max(map(sum, self.counts(length))) + 1 + self._further_documents()

    def _joined(self, length: int) -> int:
        """Returns the positions of one stack, that of the last target included."""
        sentinels = max(sentinels for _, sentinels in self.counts(length))
        added = 2 * sentinels + 1 + self.begin_tokens * self.documents_per_row
        return length + added + self._further_documents()

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses a tokenizer with too few sentinels or without an end of text, and rows too short for a span."""
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        vocabulary.require("eos", needed_by=type(self).__name__)
        length = self.row_length(sequence_length)
        spans, have = max(sentinels for _, sentinels in self.counts(length)), len(vocabulary.sentinel_ids)
        if spans > have:
            raise ValueError(
                f"tokenizer.num_sentinels={have}: a row of {length} tokens has {spans} spans, each of which needs a "
                f"sentinel: set it to at least {spans}, shorten train.sequence_length, or {self.fewer_spans}"
            )

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Drops spans of each document, and writes them after it or into rows of their own."""
        length = rows.tokens_BT.shape[1]
        eos_id = vocabulary.require("eos", needed_by=type(self).__name__)
        layout: dict[str, Any] = {
            "sentinel_ids": vocabulary.sentinel_ids,
            "segments_BT": rows.segments_BT,
            "eos_id": eos_id,
            "pad_id": vocabulary.pad_id or 0,
        }
        if not self.traits.reads_with_encoder:
            layout["length"] = joined_length(length, self._joined)
            num_targets = max(map(sum, self.counts(length))) + 1
            return _joined_batch(
                rows,
                vocabulary,
                lambda tokens_BT: self.join(key, tokens_BT, vocabulary, **layout),
                num_targets=num_targets,
            )
        layout |= {"inputs_length": self._inputs(length), "targets_length": self._targets(length)}
        inputs, targets = self.divide(key, rows.tokens_BT, vocabulary, **layout)
        if rows.weights_BT is not None:
            _, codes = self.divide(key, place_codes(rows, vocabulary), vocabulary, **layout)
            targets = dataclasses.replace(targets, weights_BT=moved_weights(rows, codes, vocabulary))
        batch = paired_batch(inputs, targets, start_id=self.start_id(vocabulary))
        return batch if rows.segments_BT is None else _without_cut_inputs(batch, eos_id)


def _joined_batch(
    rows: Rows,
    vocabulary: Vocabulary,
    join: Callable[[jax.Array], tuple[Rows, jax.Array]],
    *,
    num_targets: int,
) -> Batch:
    """Returns the batch of rows in which the targets of a document follow its input.

    Args:
      rows: the data.
      vocabulary: special ids.
      join: from tokens to joined rows and the end of each document's input.
      num_targets: the most targets of a row that is one document; only so many positions reach the head.
    """
    joined, prefix_end_BT = join(rows.tokens_BT)
    if rows.weights_BT is not None:
        codes, _ = join(place_codes(rows, vocabulary))
        assert joined.weights_BT is not None
        weights_BT = joined.weights_BT * moved_weights(rows, codes, vocabulary)
        joined = dataclasses.replace(joined, weights_BT=weights_BT)
    inputs_BT, segments_BT, targets_BT, weights_BT = next_token_targets(joined)
    stream = make_stream(inputs_BT, segments_BT, "prefix", prefix_end_BT=prefix_end_BT[:, :-1])
    if rows.segments_BT is not None:
        # Many short documents can have any number of targets.
        return Batch(inputs=stream, targets_BP=targets_BT, weights={"loss": weights_BT})
    scored_BP = scored_positions(weights_BT > 0, num_targets)
    return Batch(inputs=stream, **scored_targets(scored_BP, targets_BT, weights_BT))


def _without_cut_inputs(batch: Batch, eos_id: int) -> Batch:
    """Returns the batch with weight 0 for targets of documents that were cut off at the end of the encoder's row."""
    assert batch.encoder is not None and batch.cross_mask is not None
    last_BT = jnp.maximum(batch.cross_mask.end_BT - 1, 0)
    has_input_BT = batch.cross_mask.start_BT < batch.cross_mask.end_BT
    is_whole_BT = has_input_BT & (jnp.take_along_axis(batch.encoder.tokens_BT, last_BT, axis=1) == eos_id)
    return dataclasses.replace(batch, weights={"loss": batch.weights["loss"] * is_whole_BT})


def joined_length(length: int, needed: Callable[[int], int]) -> int:
    """Returns how long the joined rows of ``length`` tokens are made.

    The inverse of :func:`longest_row`, which takes two or three lengths to one: of those it takes the
    one that leaves the model the most even number of inputs, as accelerators like it.
    """
    shortest, too_long = needed(length), needed(length + 1)
    return 1 + max(range(shortest - 1, too_long - 1), key=lambda inputs: inputs & -inputs)
