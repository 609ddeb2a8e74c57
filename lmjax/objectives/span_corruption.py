"""Span corruption: read a text with gaps, write what was in them (T5: Raffel et al. 2020, section 3.1.4).

``a b c d e`` with noise ``b`` and ``d e`` becomes, in the form for a decoder (section 3.2.1's prefix LM),

    a <extra_id_0> c <extra_id_1>  |  <extra_id_0> b <extra_id_1> d e <eos>

The model reads what is left of the bar in both directions and predicts what is right of it. The
paper cuts rows out of the stream of all documents, which is ``data.packing="windows"``; in packed
rows each document is corrupted on its own.
"""

import bisect
import dataclasses
from collections.abc import Callable
from typing import Literal

import jax

from lmjax.corruption import span_corrupt_joined, span_counts
from lmjax.models.config import ModelConfig
from lmjax.objectives.base import TokenObjective, next_token_targets
from lmjax.objectives.masked_lm import scored_positions, scored_targets
from lmjax.objectives.moved import moved_weights, place_codes
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, make_stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanCorruption(TokenObjective):
    """T5's objective on a single stack: the corrupted text is the prefix, the spans are the suffix."""

    density: float = 0.15
    """Share of the tokens that are dropped and predicted."""
    mean_span: float = 3.0
    """Mean tokens of a dropped span."""
    documents_per_row: int = 1
    """Documents a row has room for, at three tokens for each further one. What more documents push beyond
    the row's end is not trained on in that epoch."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.density < 1:
            raise ValueError(f"objective.density={self.density}: must lie between 0 and 1")
        if not self.mean_span >= 1:
            raise ValueError(f"objective.mean_span={self.mean_span}: must be at least 1 token")
        if self.documents_per_row < 1:
            raise ValueError(f"objective.documents_per_row={self.documents_per_row}: must be at least 1")

    def row_length(self, sequence_length: int) -> int:
        """As many tokens as, with two sentinels a span and an end of text, fill T inputs and one target more."""
        return longest_row(sequence_length + 1, self._added)

    def _added(self, length: int) -> int:
        """Sentinels and ends of text of a row of ``length`` tokens."""
        _, spans = span_counts(length, self.density, self.mean_span)
        return 2 * spans + 1 + 3 * (self.documents_per_row - 1)

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses a tokenizer with too few sentinels or without an end of text, and rows too short for a span."""
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        vocabulary.require("eos", needed_by="SpanCorruption")
        length = check_row_length(self, sequence_length)
        _, spans = span_counts(length, self.density, self.mean_span)
        check_num_sentinels(vocabulary, spans=spans, length=length, remedy="raise objective.mean_span")

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Drops spans of each document and puts them after it."""
        length = rows.tokens_BT.shape[1]

        def join(tokens_BT: jax.Array) -> tuple[Rows, jax.Array]:
            return span_corrupt_joined(
                key,
                tokens_BT,
                sentinel_ids=vocabulary.sentinel_ids,
                density=self.density,
                mean_span=self.mean_span,
                segments_BT=rows.segments_BT,
                eos_id=vocabulary.require("eos", needed_by="SpanCorruption"),
                pad_id=vocabulary.pad_id or 0,
                length=joined_length(length, self._added),
            )

        noise, spans = span_counts(length, self.density, self.mean_span)
        return joined_batch(rows, vocabulary, join, num_targets=noise + spans + 1)

    @property
    def attention(self) -> Literal["prefix"]:
        """A prompt is a prefix."""
        return "prefix"


def longest_row(length: int, added: Callable[[int], int]) -> int:
    """The most tokens n with ``n + added(n) <= length``; ``added`` must not fall as n rises (-1 if none)."""
    return bisect.bisect_right(range(length + 1), length, key=lambda n: n + added(n)) - 1


def joined_length(length: int, added: Callable[[int], int]) -> int:
    """How long to make rows of ``length`` tokens and what is added to them.

    The inverse of :func:`longest_row`, which takes two or three lengths to one: of those it takes the
    one that leaves the model the most even number of inputs, as accelerators like it.
    """
    shortest, too_long = length + added(length), length + 1 + added(length + 1)
    return 1 + max(range(shortest - 1, too_long - 1), key=lambda inputs: inputs & -inputs)


def check_row_length(objective: TokenObjective, sequence_length: int) -> int:
    """Tokens of a row, once they are known to be enough to keep one and drop one.

    Raises:
      ValueError: they are not.
    """
    length = objective.row_length(sequence_length)
    if length < 2:
        enough = next(n for n in range(sequence_length + 1, 2**30) if objective.row_length(n) >= 2)
        raise ValueError(
            f"train.sequence_length={sequence_length} leaves no text beside what {type(objective).__name__} "
            f"adds to a row: set it to at least {enough}"
        )
    return length


def check_num_sentinels(vocabulary: Vocabulary, *, spans: int, length: int, remedy: str) -> None:
    """Refuses a tokenizer that cannot name every span.

    Raises:
      ValueError: there are more spans than sentinels.
    """
    have = len(vocabulary.sentinel_ids)
    if spans > have:
        raise ValueError(
            f"tokenizer.num_sentinels={have}: a row of {length} tokens has {spans} spans, each of which needs a "
            f"sentinel: set it to at least {spans}, shorten train.sequence_length, or {remedy}"
        )


def joined_batch(
    rows: Rows,
    vocabulary: Vocabulary,
    join: Callable[[jax.Array], tuple[Rows, jax.Array]],
    *,
    num_targets: int,
) -> Batch:
    """The batch of rows that hold documents' inputs with their targets behind them.

    Args:
      rows: the data.
      vocabulary: special ids.
      join: from tokens to joined rows and the end of each document's input, see
        :func:`lmjax.corruption.join_spans`.
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
